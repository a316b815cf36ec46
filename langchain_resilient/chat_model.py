"""`ResilientChatModel`: the LangChain face. It adapts and holds no policy."""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing, suppress
from types import FunctionType
from typing import TYPE_CHECKING, Any, Self, cast

from langchain_core import __version__ as core_version
from langchain_core.globals import get_llm_cache
from langchain_core.language_models import BaseChatModel, LangSmithParams, LanguageModelInput
from langchain_core.language_models import chat_models as core
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.outputs import (
    ChatGeneration,
    ChatGenerationChunk,
    ChatResult,
    Generation,
    LLMResult,
)
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.utils.utils import LC_ID_PREFIX
from langchain_core.utils.uuid import uuid7
from pydantic import ConfigDict, PrivateAttr, model_validator

from langchain_resilient import notices
from langchain_resilient._version import __version__
from langchain_resilient.batch.mixin import BatchingChatModel
from langchain_resilient.binding import BindingChatModel
from langchain_resilient.configuration import (
    Configuration,
    as_plain_data,
    chain_of,
    function_identity,
    last_resort_of,
    observers_of,
)
from langchain_resilient.errors import NoTargetsError
from langchain_resilient.faults import CarriedError, is_callers_business
from langchain_resilient.observability import run_context
from langchain_resilient.observability.observer import picklable_observers
from langchain_resilient.prices import Price
from langchain_resilient.profiles import ChainProfile
from langchain_resilient.runtime.background_loop import background_loop, started_loops
from langchain_resilient.sampling import public_params

if TYPE_CHECKING:
    from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
    from langchain_core.tools import BaseTool

    from langchain_resilient.observability.stats import Stats
    from langchain_resilient.runtime.batched import BatchDesk
    from langchain_resilient.runtime.runtime import Runtime
    from langchain_resilient.runtime.streaming import Audience, ChunkCollector
else:
    # Annotations are evaluated at run time too, where these need not be loaded.
    BaseTool = Stats = Any


class ResilientChatModel(Configuration, BindingChatModel, BatchingChatModel):
    """A chat model that always answers, as fast as possible, over several providers.

    A failure starts the next target at once; a late answer is raced against another target; the
    first valid text wins. It is a real `BaseChatModel`: use it wherever LangChain takes one. Its
    fields may be set later: they are validated, and hold for the calls that begin then.

    Example:
        ```python
        from langchain_resilient import ResilientChatModel

        llm = ResilientChatModel(targets=["openai:gpt-6.1-sol", "together:openai/gpt-oss-120b"])
        llm.invoke("Why is the sky blue?")
        ```

    Raises:
        NoTargetsError: If no target has a key, and there is no last resort.
        pydantic.ValidationError: If a field is unknown or out of range; it names the field.
    """

    # Of its bases the last would win: LangChain ignores a field that is misspelt.
    model_config = ConfigDict(extra="forbid", defer_build=True)

    _runtime: Any = PrivateAttr(default=None)  # a `Runtime`, whose module loads on first use

    @model_validator(mode="after")
    def _set_resilient_version(self) -> ResilientChatModel:
        self._add_version("langchain-resilient", __version__)
        with suppress(NoTargetsError):  # `__init__` raises it as what it is
            self._ready()
        return self

    @model_validator(mode="after")
    def _set_model_profile(self) -> Self:
        """Say what all targets can do, where no profile was given; see `ChainProfile`."""
        if self.profile is None or isinstance(self.profile, ChainProfile):
            # As LangChain does it, this would count as set by the caller.
            self.__dict__["profile"] = ChainProfile(chain_of(self))
        return self

    @model_validator(mode="after")
    def _check_profile_keys(self) -> Self:
        """Leave the check of its keys, which reads it, to the models that it comes from."""
        return self

    if not TYPE_CHECKING:  # whose `__init__` is made of the fields

        def __init__(self, *args: Any, **fields: Any) -> None:
            if args:
                msg = (
                    "ResilientChatModel takes fields by name: its models are "
                    'targets=["openai:gpt-6.1-sol", ...]'
                )
                raise TypeError(msg)
            with notices.may_raise():
                super().__init__(**fields)
                runtime = self._ready()
            if self.keep_warm:
                runtime.warm_soon()

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a field as if it had been given at first: validated, and in force from now on.

        Calls under way go on with what they began with; statistics go on.
        """
        if name not in Configuration.model_fields or name not in self.__dict__:
            super().__setattr__(name, value)
            return
        fields = {field: getattr(self, field) for field in self.model_fields_set}
        made = type(self)(**{**fields, name: value})
        super().__setattr__(name, getattr(made, name))
        self.__dict__["profile"] = made.profile
        before, self._runtime = self._runtime, made._ready()  # noqa: SLF001  # our own
        if before is not None:
            self._ready().continue_from(before)

    def _ready(self) -> Runtime:
        if self._runtime is None:
            from langchain_resilient.runtime import runtime  # noqa: PLC0415  # keeps import light

            self._runtime = runtime.Runtime(self)
        ready: Runtime = self._runtime
        return ready

    @classmethod
    def from_fallbacks(cls, chain: Runnable[Any, Any], **fields: Any) -> Self:
        """Make a model of what `with_fallbacks` returned: its models are the targets, in order.

        A `ChatOpenAI` becomes a target of our own, with its model, key, address and parameters, if
        all that is set on it has an equivalent (see docs/migrate_fallbacks.md); any other model is
        a target as it is. `with_retry` becomes `max_retries`, `exceptions_to_handle` becomes
        `fallback_on`, and a last fallback that is no chat model the `last_resort`. The models'
        own retries are off.

        Args:
            chain: The chain, or one model.
            **fields: Of the new model; they go before what the chain says.

        Raises:
            ValueError: If something is bound to its models or follows them (tools, a schema, a
                config): bind on what this returns, once for all targets.

        Example:
            ```python
            chain = ChatOpenAI(model="gpt-6.1-sol").with_fallbacks([ChatAnthropic(model="...")])
            llm = ResilientChatModel.from_fallbacks(chain, timeout=30)
            ```
        """
        from langchain_resilient.fallbacks import fields_of  # noqa: PLC0415  # keeps import light

        return cls(**{**fields_of(chain), **fields})

    def stats(self, *, fleet: bool = False) -> Stats:
        """What this model did since it was made, and what is known of its targets now.

        Prints as a table, in a terminal and in a notebook; `as_dict()` is plain JSON. Copies of a
        model count for themselves.

        Args:
            fleet: Add up what all models of all processes did that share what this one shares
                (`shared=`), in the last day; the state of targets is as this process sees it. Asks
                the server, and waits for that at most two seconds.

        Raises:
            ValueError: If `fleet` is asked for and nothing is shared.
            ConnectionError: If the fleet's server cannot be used; says why.

        Example:
            ```python
            llm.invoke("Why is the sky blue?")
            print(llm.stats())
            ```
        """
        return self._ready().stats(fleet=fleet)

    # -- connecting -----------------------------------------------------------------------------

    async def awarm(self) -> dict[str, str | None]:
        """Get ready for calls on the running loop: then the first one is as fast as any other.

        All SDKs are imported, certificates read, names resolved, and a connection to every target
        is opened with its handshakes, all at once. One idle connection to each is kept until
        `aclose`, or until nobody holds the model: every 45 seconds a small question about the model
        is asked, which costs nothing. Servers that hang up sooner cannot be kept.

        Returns:
            By target what went wrong; None where nothing did. Nothing is raised: a call may still
            be answered.

        Example:
            ```python
            await llm.awarm()
            ```
        """
        return await self._ready().warm()

    def warm(self) -> dict[str, str | None]:
        """Get ready for synchronous calls; see `awarm`, which does so for a loop's own.

        Example:
            ```python
            llm.warm()
            ```
        """
        return background_loop().run(self._ready().warm())

    # -- closing --------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Close the connections to this model's targets, of the running loop and of sync calls.

        Losers that are still being closed are waited for, for two seconds at most. Models with the
        same account share its connections: a call of theirs that is under way fails over. All may
        be used again afterwards, and open new connections; closing twice is no error. A LangChain
        model as a target is left to whoever made it. Without this, connections are closed with
        their event loop, and those of synchronous calls at the end of the process.

        Example:
            ```python
            async with ResilientChatModel(targets=["openai:gpt-6.1-sol"]) as llm:
                await llm.ainvoke("Why is the sky blue?")
            ```
        """
        if self._runtime is None:
            return
        for loop in started_loops():
            await loop.run_from_loop(self._runtime.aclose())
        await self._runtime.aclose()

    def close(self) -> None:
        """Close the connections of synchronous calls; see `aclose`, which closes all.

        Example:
            ```python
            with ResilientChatModel(targets=["openai:gpt-6.1-sol"]) as llm:
                llm.invoke("Why is the sky blue?")
            ```
        """
        if self._runtime is not None:
            for loop in started_loops():
                loop.run(self._runtime.aclose())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # -- generating -----------------------------------------------------------------------------

    async def ainvoke(
        self,
        input: LanguageModelInput,  # noqa: A002  # LangChain's name
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """Answer; see `BaseChatModel.ainvoke`, whose callbacks cost as much as the wire."""
        if config or not self._goes_straight(kwargs):
            return await super().ainvoke(input, config, stop=stop, **kwargs)
        result = await self._agenerate(self._messages_of(input), stop, None, **kwargs)
        generation = result.generations[0]
        message = cast("AIMessage", generation.message)
        if message.id is None:
            message.id = f"{LC_ID_PREFIX}-{uuid7()}-0"
        output = result.llm_output if len(result.generations) == 1 else None
        message.response_metadata = {
            **(output or {}), **(generation.generation_info or {}), **message.response_metadata
        }  # fmt: skip
        return message

    def _messages_of(self, given: LanguageModelInput) -> list[BaseMessage]:
        """Convert what a call was given as LangChain does."""
        if given.__class__ is str:
            return [HumanMessage(given)]
        messages = self._convert_input(given).to_messages()
        if any(message.content.__class__ is not str for message in messages):
            messages = core._normalize_messages(messages)  # type: ignore[attr-defined]  # noqa: SLF001
        return messages

    def _goes_straight(self, kwargs: Mapping[str, Any]) -> bool:
        """Whether nothing of what LangChain does around ours could be seen."""
        return (
            self.__class__ is ResilientChatModel
            and _passed_over() == _PASSED_OVER
            and not self.callbacks
            and not (self.verbose or self.streaming)
            and not self.cache
            and self.rate_limiter is None
            and self.output_version != "v1"
            and get_llm_cache() is None
            and (not kwargs or _SEEN_BY_LANGCHAIN.isdisjoint(kwargs))
            and run_context.is_unwatched()
        )

    async def agenerate(self, *args: Any, **kwargs: Any) -> LLMResult:
        """Answer conversations; see `BaseChatModel`, which stumbles over what is no `Exception`."""
        try:
            return await super().agenerate(*args, **kwargs)
        except CarriedError as carried:
            raise carried.error from None

    async def _agenerate_with_cache(self, *args: Any, **kwargs: Any) -> ChatResult:
        try:
            return await super()._agenerate_with_cache(*args, **kwargs)
        except BaseException as error:
            if isinstance(error, Exception) or not is_callers_business(error):
                raise
            raise CarriedError(error) from error

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        run_context.take_run()
        watched = self._watched(run_manager, kwargs, async_api=True)
        if run_manager is None or watched is None:
            return await self._ready().generate(messages, stop, run_manager, kwargs)
        from langchain_resilient.runtime.call import has_stored_answer  # noqa: PLC0415  # keeps import light

        if has_stored_answer():
            return await self._ready().generate(messages, stop, run_manager, kwargs)
        async with aclosing(
            self._ready().stream(messages, stop, run_manager, kwargs, "handlers")
        ) as chunks:
            async for chunk in chunks:
                watched.add(chunk)
                await run_manager.on_llm_new_token(chunk.message.content, chunk=chunk)
        return watched.result()

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        run_context.take_run()
        watched = self._watched(run_manager, kwargs, async_api=False)
        if run_manager is None or watched is None:
            return background_loop().run(
                self._ready().generate(messages, stop, run_manager, kwargs)
            )
        chunks = self._ready().stream(messages, stop, run_manager, kwargs, "handlers")
        for chunk in background_loop().iterate(chunks):
            watched.add(chunk)
            run_manager.on_llm_new_token(chunk.message.content, chunk=chunk)
        return watched.result()

    def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncGenerator[ChatGenerationChunk, None]:
        # LangChain tells its callbacks itself and gives no manager: then nothing stands between.
        audience: Audience = "reader" if run_manager is None else "events"
        run = run_manager or run_context.take_run()
        chunks = self._ready().stream(messages, stop, run, kwargs, audience)
        return chunks if run_manager is None else _told(chunks, run_manager)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        audience: Audience = "reader" if run_manager is None else "events"
        run = run_manager or run_context.take_run()
        chunks = self._ready().stream(messages, stop, run, kwargs, audience)
        for chunk in background_loop().iterate(chunks):
            if run_manager is not None:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    def _should_stream(
        self,
        *,
        async_api: bool,
        run_manager: CallbackManagerForLLMRun | AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> bool:
        """Tell LangChain not to stream under `invoke`, which alone has a run manager: we do."""
        return run_manager is None and super()._should_stream(async_api=async_api, **kwargs)

    def _watched(
        self,
        run_manager: CallbackManagerForLLMRun | AsyncCallbackManagerForLLMRun | None,
        kwargs: Mapping[str, Any],
        *,
        async_api: bool,
    ) -> ChunkCollector | None:
        """Tell whether handlers want to see the chunks of an `invoke`.

        Never of several answers, nor of one that a class judges: a misfit cannot be taken back.
        """
        if run_manager is None or (kwargs.get("n") or self.n or 1) != 1:
            return None
        if isinstance(kwargs.get("response_format"), type):
            return None
        if not super()._should_stream(async_api=async_api, run_manager=run_manager, **kwargs):
            return None
        from langchain_resilient.runtime.streaming import ChunkCollector  # noqa: PLC0415

        return ChunkCollector(run_manager.run_id, self.output_version)

    def _convert_cached_generations(self, cache_val: list[Generation]) -> list[ChatGeneration]:
        """Say in their receipts, and in the statistics, that answers are out of a cache."""
        generations = super()._convert_cached_generations(cache_val)
        self._ready().count_cached(generations)
        return generations

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
        config, run = run_context.choose_run(config, self.callbacks)
        chunks = super().stream(input, config, stop=stop, **kwargs)
        return chunks if run is None else run_context.traced(chunks, run)

    def astream(
        self,
        input: LanguageModelInput,  # noqa: A002  # LangChain's name
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        """Answer in pieces; see `BaseChatModel.astream`, which keeps them all for its callbacks."""
        if not config and not self.disable_streaming and self._goes_straight(kwargs):
            return self._astream_straight(input, stop, kwargs)
        config, run = run_context.choose_run(config, self.callbacks)
        chunks = super().astream(input, config, stop=stop, **kwargs)
        return chunks if run is None else run_context.atraced(chunks, run)

    async def _astream_straight(
        self, given: LanguageModelInput, stop: list[str] | None, kwargs: dict[str, Any]
    ) -> AsyncGenerator[AIMessageChunk, None]:
        """Give the pieces as `BaseChatModel.astream` does, and keep none of them."""
        run_id, message = f"{LC_ID_PREFIX}-{uuid7()}", None
        pieces = self._astream(self._messages_of(given), stop, None, **kwargs)
        async with aclosing(pieces):
            async for piece in pieces:
                message = cast("AIMessageChunk", piece.message)
                if message.id is None:
                    message.id = run_id
                if piece.generation_info:
                    metadata = {**piece.generation_info, **message.response_metadata}
                    message.response_metadata = metadata
                yield message
        if message is None:
            msg = "No generation chunks were returned"
            raise ValueError(msg)
        if not message.chunk_position:
            nothing: Any = "" if isinstance(message.content, str) else []
            yield AIMessageChunk(content=nothing, chunk_position="last", id=run_id)

    # -- identity -------------------------------------------------------------------------------

    @property
    def _llm_type(self) -> str:
        return "langchain-resilient"

    @property
    def model_name(self) -> str:
        """The first target's model: who really answered stands in the answer's metadata."""
        return chain_of(self)[0].model

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """Everything that changes the answer, for LangChain's cache; nothing secret."""
        last = last_resort_of(self)
        return {
            "targets": [target.identity() for target in chain_of(self)],
            "last_resort": last.identity() if last else None,
            "check": function_identity(self.check) if self.check else None,
            **({} if self.default_query is None else {"default_query": self.default_query}),
            **public_params(self),
        }

    def _combine_llm_outputs(self, llm_outputs: list[dict[str, Any] | None]) -> dict[str, Any]:
        """Add up what several prompts took, as LangChain's class for OpenAI does."""
        from langchain_resilient.wire.output import combined_outputs  # noqa: PLC0415

        return combined_outputs(llm_outputs, self.model_name)

    def _get_invocation_params(
        self, stop: list[str] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Describe a call to callbacks, in plain data: tracers write it down as JSON."""
        params = super()._get_invocation_params(stop, **kwargs)
        if kwargs:
            params.update({name: as_plain_data(value) for name, value in kwargs.items()})
        return params

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        """Name the first target: who really answered stands in the answer's metadata."""
        first = chain_of(self)[0]
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
            params["ls_stop"] = stop or cast("list[str]", self.stop)
        return params

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Show what was set; a profile that was found and LangChain's versions were not."""
        for name, value in super().__repr_args__():
            own = name == "metadata" and not value.keys() - {"lc_versions"}
            if not own and not isinstance(value, ChainProfile):
                yield name, value

    def __eq__(self, other: object) -> bool:
        """Whether two models are set up alike, whatever they have done since."""
        if not isinstance(other, ResilientChatModel):
            return NotImplemented
        # Beside the fields, cached properties lie in `__dict__`.
        return type(self) is type(other) and all(
            getattr(self, name) == getattr(other, name) for name in type(self).model_fields
        )

    __hash__ = None  # type: ignore[assignment]  # as of all LangChain models: they can be changed

    def get_token_ids(self, text: str) -> list[int]:
        """Cut a text into tokens, about as the first target does; nothing is fetched.

        It is exact for OpenAI's models where tiktoken is installed and has its data here. Else it
        is an estimate, within a quarter for most languages and for code, and the ids mean nothing
        to any model. Set `custom_get_token_ids` for exact counts.
        """
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        from langchain_resilient.runtime.token_estimate import token_ids  # noqa: PLC0415  # keeps import light

        return token_ids(text, chain_of(self)[0].model)

    def get_num_tokens_from_messages(
        self,
        messages: Sequence[BaseMessage],
        tools: Sequence[Mapping[str, Any] | type | Callable[..., Any] | BaseTool] | None = None,
    ) -> int:
        """Count the tokens of a conversation as pacing and spend caps do; see `get_token_ids`."""
        from langchain_resilient.runtime.token_estimate import estimate_prompt_tokens  # noqa: PLC0415
        from langchain_resilient.wire.messages import to_chat_messages  # noqa: PLC0415
        from langchain_resilient.wire.tool_calls import to_tools  # noqa: PLC0415

        wire, schemas = to_chat_messages(messages) if messages else [], to_tools(tools or [])
        return estimate_prompt_tokens(wire, schemas, count=self.get_num_tokens)

    def _batch_desk(self, target: str | None = None) -> BatchDesk | None:
        return self._ready().batch_desk(target)

    def _health(self, target: str) -> str | None:
        return self._ready().health(target)

    def _price(self, target: str) -> Price | None:
        from langchain_resilient.prices import price_for  # noqa: PLC0415  # keeps import light

        last = last_resort_of(self)
        for candidate in (*chain_of(self), *([last] if last else [])):
            if candidate.name == target:
                return price_for(candidate)
        return None

    # -- copies travel without the runtime, which is built anew on first use ----------------------

    def __getstate__(self) -> dict[Any, Any]:
        state = super().__getstate__()
        private = {**(state.get("__pydantic_private__") or {}), "_runtime": None}
        fields = {**state["__dict__"], "observers": picklable_observers(observers_of(self))}
        return {**state, "__dict__": fields, "__pydantic_private__": private}

    def __copy__(self) -> ResilientChatModel:
        copy = super().__copy__()
        copy._runtime = None  # noqa: SLF001  # our own
        return copy

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> ResilientChatModel:
        runtime, self._runtime = self._runtime, None
        clients = [self.http_async_client, *[one.http_async_client for one in chain_of(self)]]
        shared = {id(one): one for one in (*observers_of(self), *clients) if one is not None}
        try:
            return super().__deepcopy__({**(memo or {}), **shared})
        finally:
            self._runtime = runtime


_SEEN_BY_LANGCHAIN = frozenset(
    {"stream", "ls_structured_output_format", "structured_output_format", "callbacks", "tags",
     "metadata", "run_name", "run_id"}
)  # fmt: skip
"""Keywords of a call that LangChain takes out, or that choose another way through it."""


def _passed_over() -> tuple[Any, ...]:
    """The methods that a call which goes straight passes over, as they are now."""
    return (
        BaseChatModel.ainvoke,
        BaseChatModel.astream,
        BaseChatModel.agenerate_prompt,
        BaseChatModel.agenerate,
        BaseChatModel._agenerate_with_cache,  # noqa: SLF001  # only looked at
        ResilientChatModel.agenerate_prompt,
        ResilientChatModel.agenerate,
        ResilientChatModel._agenerate_with_cache,  # noqa: SLF001
    )


def _are_known(methods: tuple[Any, ...]) -> bool:
    """Whether they do what is done here without them: nobody wraps them, and of this version."""
    return core_version in _KNOWN_CORE and all(
        isinstance(method, FunctionType) and not hasattr(method, "__wrapped__")
        for method in methods
    )


_KNOWN_CORE = frozenset({"1.8.3", "1.8.4"})
"""Versions of langchain-core whose `ainvoke` and `astream` do what ours do; any other goes its way.
Once a version stands here, `tests/test_ainvoke.py` compares the two."""

_PASSED_OVER = _passed_over() if _are_known(_passed_over()) else None


async def _told(
    chunks: AsyncGenerator[ChatGenerationChunk, None], run_manager: AsyncCallbackManagerForLLMRun
) -> AsyncGenerator[ChatGenerationChunk, None]:
    """Pass chunks on, and tell the callbacks of each."""
    try:
        async for chunk in chunks:
            await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk
    finally:
        await chunks.aclose()
