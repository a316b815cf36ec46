"""The documentation: pages in Markdown, and modules that generate the reference from the code."""
