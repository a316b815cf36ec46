"""`python -m langchain_resilient` is `langchain-resilient`."""

from __future__ import annotations

import sys

from langchain_resilient.cli import main

sys.exit(main())
