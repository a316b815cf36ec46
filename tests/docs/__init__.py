"""The pages' code is run, and the pages are built."""
