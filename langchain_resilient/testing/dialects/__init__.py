"""The dialects that the simulator speaks."""

from __future__ import annotations

from langchain_resilient.testing.dialects.base import Dialect
from langchain_resilient.testing.dialects.openai import OpenAIDialect
from langchain_resilient.testing.dialects.responses import ResponsesDialect
from langchain_resilient.testing.dialects.together import TogetherDialect

DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect for dialect in (OpenAIDialect(), TogetherDialect())
}
"""The dialects by name: `"openai"` and `"together"`."""

APIS: dict[str, Dialect] = {
    dialect.chat_path: dialect for dialect in (*DIALECTS.values(), ResponsesDialect())
}
"""All of them by path: OpenAI has two."""

__all__ = ["APIS", "DIALECTS"]
