"""Sphinx's settings. `make docs` builds without network, and a warning is an error."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # this clone's package, whatever the environment holds

from langchain_resilient import __version__  # noqa: E402  # found through the line above

project = "langchain-resilient"
author = "The langchain-resilient founders"
project_copyright = author
version = release = __version__

extensions = ["myst_parser", "sphinx_copybutton"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
myst_enable_extensions = ["deflist"]  # the glossary
copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True

html_theme = "furo"
html_title = f"langchain-resilient {version}"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_show_sourcelink = False
pygments_style = "friendly"
pygments_dark_style = "monokai"
