"""LangChain's integration suite with this model's capabilities, for each way to run it.

The switches are those that OpenAI's own integration turns on, and audio.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from langchain_tests.integration_tests import ChatModelIntegrationTests

from langchain_resilient import ResilientChatModel, Target


class OnlyAsync(ResilientChatModel):
    """Its sync methods go through its async ones, so that the whole suite tests those."""

    def invoke(self, *args: Any, **kwargs: Any) -> Any:
        """Through `ainvoke`."""
        return asyncio.run(self.ainvoke(*args, **kwargs))

    def batch(self, *args: Any, **kwargs: Any) -> Any:
        """Through `abatch`."""
        return asyncio.run(self.abatch(*args, **kwargs))

    def stream(self, *args: Any, **kwargs: Any) -> Any:
        """Through `astream`."""

        async def chunks() -> list[Any]:
            return [chunk async for chunk in self.astream(*args, **kwargs)]

        yield from asyncio.run(chunks())


class Abilities(ChatModelIntegrationTests):
    """What OpenAI's models can do; a class of tests says which of its own model are fewer."""

    @property
    def supports_image_inputs(self) -> bool:
        return True

    @property
    def supports_image_urls(self) -> bool:
        return True

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True

    @property
    def supports_audio_inputs(self) -> bool:
        return True

    @property
    def supports_image_tool_message(self) -> bool:
        return True

    @property
    def supports_pdf_inputs(self) -> bool:
        return True

    @property
    def supported_usage_metadata_details(self) -> dict[str, list[str]]:
        return {"invoke": ["reasoning_output", "cache_read_input"], "stream": []}

    @property
    def reasoning_params(self) -> dict[str, Any]:
        """What a model is made with so that it thinks."""
        return {"reasoning_effort": "medium"}

    def invoke_with_reasoning_output(self, *, stream: bool = False) -> Any:
        llm = self.chat_model_class(**self.chat_model_params, **self.reasoning_params)
        prompt = "explain the relationship between the 2008/9 economic crisis"  # as recorded
        return _ask(llm, prompt, stream=stream)

    def invoke_with_cache_read_input(self, *, stream: bool = False) -> Any:
        llm = self.chat_model_class(**self.chat_model_params)
        prompt = "word " * 2000
        llm.invoke(prompt)
        return _ask(llm, prompt, stream=stream)


def _ask(llm: Any, prompt: str, *, stream: bool) -> Any:
    if not stream:
        return llm.invoke(prompt)
    whole: Any = None
    for chunk in llm.stream(prompt):
        whole = chunk if whole is None else whole + chunk
    return whole


class Suite(Abilities):
    """All but where the targets are."""

    dialect: ClassVar[str]
    version: ClassVar[str | None] = None
    face: ClassVar[type[ResilientChatModel]] = ResilientChatModel

    def target(self) -> Target:
        """The one target of the models under test."""
        raise NotImplementedError  # a subclass's whole purpose

    @property
    def chat_model_class(self) -> type[ResilientChatModel]:
        return self.face

    @property
    def chat_model_params(self) -> dict[str, Any]:
        version = {"output_version": self.version} if self.version else {}
        return {"targets": [self.target()], **version}

    @property
    def supports_pdf_inputs(self) -> bool:
        return self.dialect == "openai"  # Together's API takes none

    @property
    def supported_usage_metadata_details(self) -> dict[str, list[str]]:
        # Together's API reports none.
        if self.dialect == "openai":
            return super().supported_usage_metadata_details
        return {"invoke": [], "stream": []}

    @property
    def enable_vcr_tests(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return self.target().model

    @property
    def reasoning_params(self) -> dict[str, Any]:
        return {"model_kwargs": super().reasoning_params}
