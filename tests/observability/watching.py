"""What the tests of tracing, logs and OpenTelemetry share."""

from __future__ import annotations

import asyncio

from langchain_core.tracers import BaseTracer

from langchain_resilient.testing import Reply

WAYS = ("invoke", "ainvoke", "stream", "astream")
SLOW = Reply("slow", first_text=5.0)
PROMPT = "the secret word is xyzzy"


def ask(llm, way, prompt=PROMPT, config=None, **kwargs):
    """Ask a model in one of four ways."""

    async def astream():
        return [chunk async for chunk in llm.astream(prompt, config, **kwargs)]

    if way == "invoke":
        return llm.invoke(prompt, config, **kwargs)
    if way == "stream":
        return list(llm.stream(prompt, config, **kwargs))
    if way == "ainvoke":
        return asyncio.run(llm.ainvoke(prompt, config, **kwargs))
    return asyncio.run(astream())


class Tree(BaseTracer):
    """Keeps the runs that have no parent, each with those below it."""

    def __init__(self):
        super().__init__(_schema_format="original+chat")
        self.roots = []

    def _persist_run(self, run):
        self.roots.append(run)


class Receipts:
    """An observer that keeps what it hears."""

    def __init__(self):
        self.heard = []

    def on_receipt(self, receipt, *, call):
        self.heard.append((receipt, call))
