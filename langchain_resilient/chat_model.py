"""`ResilientChatModel`: the LangChain face. It adapts and holds no policy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.language_models import LangSmithParams
from pydantic import PrivateAttr, model_validator

from langchain_resilient._version import __version__
from langchain_resilient.batch.face import BatchingChatModel
from langchain_resilient.config import Configuration
from langchain_resilient.observability import parents
from langchain_resilient.observability.travel import travellers
from langchain_resilient.portal import portal
from langchain_resilient.prices import price_for
from langchain_resilient.tokens import pseudo_token_ids

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterator,
        Callable,
        Iterator,
        Mapping,
        Sequence,
    )

    from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
    from langchain_core.language_models import LanguageModelInput
    from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
    from langchain_core.outputs import ChatGenerationChunk, ChatResult
    from langchain_core.runnables import Runnable, RunnableConfig
    from langchain_core.tools import BaseTool

    from langchain_resilient.observability.stats import Stats
    from langchain_resilient.prices import Price
    from langchain_resilient.runtime import Runtime
    from langchain_resilient.wire.structured import Method


class ResilientChatModel(Configuration, BatchingChatModel):
    """A chat model that always answers, as fast as possible, over several providers.

    A failure starts the next target at once; a late answer is raced against another target; the
    first valid text wins. It is a real `BaseChatModel`: use it wherever LangChain takes one.

    Example:
        ```python
        from langchain_resilient import ResilientChatModel

        llm = ResilientChatModel(
            targets=["openai:gpt-4o", "together:Qwen/Qwen2.5-72B-Instruct-Turbo"]
        )
        llm.invoke("Why is the sky blue?")
        ```

    Raises:
        NoTargetsError: If no target has a key.
        pydantic.ValidationError: If a field is unknown or out of range; it names the field.
    """

    _runtime: Runtime | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _set_resilient_version(self) -> ResilientChatModel:
        self._add_version("langchain-resilient", __version__)
        self._ready()
        return self

    def _ready(self) -> Runtime:
        if self._runtime is None:
            from langchain_resilient import runtime  # noqa: PLC0415  # keeps import light

            self._runtime = runtime.Runtime(self)
        return self._runtime

    def stats(self) -> Stats:
        """What this model did since it was made, and what is known of its targets now.

        Prints as a table, in a terminal and in a notebook; `as_dict()` is plain JSON. Copies of a
        model count for themselves.

        Example:
            ```python
            llm.invoke("Why is the sky blue?")
            print(llm.stats())
            ```
        """
        return self._ready().stats()

    # -- generating -----------------------------------------------------------------------------

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        parents.taken()
        return await self._ready().generate(messages, stop, run_manager, kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        parents.taken()
        return portal().run(self._ready().generate(messages, stop, run_manager, kwargs))

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncGenerator[ChatGenerationChunk, None]:
        run = run_manager or parents.taken()
        chunks = self._ready().stream(messages, stop, run, kwargs)
        try:
            async for chunk in chunks:
                if run_manager is not None:
                    await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk
        finally:
            await chunks.aclose()

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        run = run_manager or parents.taken()
        chunks = self._ready().stream(messages, stop, run, kwargs)
        for chunk in portal().iterate(chunks):
            if run_manager is not None:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    # -- runs: LangChain does not tell `_stream` and `_astream` which run is theirs ---------------

    def stream(
        self,
        input: LanguageModelInput,  # noqa: A002  # LangChain's name
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[AIMessageChunk]:
        """Answer in pieces; see `BaseChatModel.stream`."""
        config, run = parents.chosen(config, self.callbacks)
        chunks = super().stream(input, config, stop=stop, **kwargs)
        return chunks if run is None else parents.traced(chunks, run)

    def astream(
        self,
        input: LanguageModelInput,  # noqa: A002  # LangChain's name
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        """Answer in pieces; see `BaseChatModel.astream`."""
        config, run = parents.chosen(config, self.callbacks)
        chunks = super().astream(input, config, stop=stop, **kwargs)
        return chunks if run is None else parents.atraced(chunks, run)

    def _generate_with_cache(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        if run_manager is None or not run_manager.handlers:
            return super()._generate_with_cache(messages, stop, run_manager, **kwargs)
        with parents.belongs_to(run_manager):
            return super()._generate_with_cache(messages, stop, run_manager, **kwargs)

    def _agenerate_with_cache(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Any:  # a coroutine, without a layer of its own where nobody listens
        work = super()._agenerate_with_cache(messages, stop, run_manager, **kwargs)
        if run_manager is None or not run_manager.handlers:
            return work
        return parents.within(run_manager, work)

    # -- binding --------------------------------------------------------------------------------

    def bind_tools(
        self,
        tools: Sequence[Mapping[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: Any = None,
        strict: bool | None = None,
        parallel_tool_calls: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Let the model call tools, whichever target answers.

        Args:
            tools: LangChain tools, functions, pydantic or TypedDict classes, or dicts.
            tool_choice: `"auto"`, `"none"`, `"any"`, `"required"`, True, a tool's name, or a dict.
            strict: Whether arguments must fit the schema exactly, where the provider can do that.
            parallel_tool_calls: False for at most one call an answer.
            **kwargs: Bound as well.

        Raises:
            ValueError: If a tool or the choice cannot be understood; says which.
        """
        from langchain_resilient.wire.tools import to_tool_choice, to_tools  # noqa: PLC0415

        bound: dict[str, Any] = {"tools": to_tools(tools, strict)}
        if (choice := to_tool_choice(tool_choice, bound["tools"])) is not None:
            bound["tool_choice"] = choice
        if parallel_tool_calls is not None:
            bound["parallel_tool_calls"] = parallel_tool_calls
        return self.bind(**bound, **kwargs)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type | None = None,
        *,
        method: Method = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """Make the model answer in a schema.

        Args:
            schema: A pydantic or TypedDict class, or a JSON schema; None only with `"json_mode"`.
            method: `"json_schema"`, `"function_calling"` or `"json_mode"`.
            include_raw: Give `{"raw", "parsed", "parsing_error"}`, and never raise the last.
            strict: Whether the answer must fit exactly, where the provider can do that.
            **kwargs: Bound as well.

        Raises:
            ValueError: If the schema or the method cannot be used; says why.
        """
        from langchain_resilient.wire import structured  # noqa: PLC0415

        llm = self.bind(**structured.structured_params(schema, method, strict), **kwargs)
        parser = structured.structured_parser(schema, method)
        return structured.with_raw(llm, parser) if include_raw else llm | parser

    # -- identity -------------------------------------------------------------------------------

    @property
    def _llm_type(self) -> str:
        return "langchain-resilient"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """Everything that changes the answer, for LangChain's cache; nothing secret."""
        last = self.fallback_target()
        return {
            "targets": [target.identity() for target in self.chain()],
            "last_resort": last.identity() if last else None,
            "check": repr(self.check) if self.check else None,
            **self.sampling_params(),
        }

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        """Name the first target: who really answered stands in the answer's metadata."""
        first = self.chain()[0]
        params = LangSmithParams(
            ls_provider=first.provider, ls_model_name=first.model, ls_model_type="chat"
        )
        model = kwargs.get("model")
        if isinstance(model, str):
            provider, _, name = model.partition(":")
            params["ls_model_name"] = name or model
            params["ls_provider"] = provider if name else first.provider
        for ours, theirs in (("temperature", "ls_temperature"), ("max_tokens", "ls_max_tokens")):
            value = kwargs.get(ours, getattr(self, ours))
            if value is not None:
                params[theirs] = value  # type: ignore[literal-required]
        if stop or self.stop:
            params["ls_stop"] = stop or self.stop or []
        return params

    def get_token_ids(self, text: str) -> list[int]:
        """Cut a text into about as many pieces as a model would; no tokenizer, no network.

        The ids mean nothing to any model. Set `custom_get_token_ids` for exact counts.
        """
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        return pseudo_token_ids(text)

    def _price(self, target: str) -> Price | None:
        last = self.fallback_target()
        for one in (*self.chain(), *([last] if last else [])):
            if one.name == target:
                return price_for(one)
        return None

    # -- copies travel without the runtime, which is built anew on first use ----------------------

    def __getstate__(self) -> dict[Any, Any]:
        state = super().__getstate__()
        private = {**(state.get("__pydantic_private__") or {}), "_runtime": None}
        fields = {**state["__dict__"], "observers": travellers(self.observing())}
        return {**state, "__dict__": fields, "__pydantic_private__": private}

    def __copy__(self) -> ResilientChatModel:
        copy = super().__copy__()
        copy._runtime = None  # noqa: SLF001  # our own
        return copy

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> ResilientChatModel:
        runtime, self._runtime = self._runtime, None
        shared = {id(one): one for one in self.observing()}
        try:
            return super().__deepcopy__({**(memo or {}), **shared})
        finally:
            self._runtime = runtime
