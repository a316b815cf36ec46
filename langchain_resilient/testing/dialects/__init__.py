"""The two dialects that the simulator speaks."""

from __future__ import annotations

from langchain_resilient.testing.dialects.base import Call, Dialect
from langchain_resilient.testing.dialects.openai import OpenAI
from langchain_resilient.testing.dialects.together import Together

DIALECTS: dict[str, Dialect] = {dialect.name: dialect for dialect in (OpenAI(), Together())}
"""The dialects by name: `"openai"` and `"together"`."""

__all__ = ["DIALECTS", "Call", "Dialect", "OpenAI", "Together"]
