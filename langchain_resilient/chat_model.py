"""`ResilientChatModel`: the LangChain face. It adapts and holds no policy."""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING, Annotated, Any

from langchain_core.language_models import LangSmithParams
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages.utils import count_tokens_approximately
from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from langchain_resilient._version import __version__
from langchain_resilient.policy import (
    ALL_FAULTS,
    FallbackOn,
    Hedge,
    HedgeOption,
    Retry,
    Seconds,
    Timeouts,
)
from langchain_resilient.portal import portal
from langchain_resilient.providers import entry, known
from langchain_resilient.request import ChatRequest
from langchain_resilient.sampling import SAMPLING_FIELDS, Sampling
from langchain_resilient.target import DEFAULT_CHAIN, Target, as_chain, as_target

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence

    from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
    from langchain_core.language_models import LanguageModelInput
    from langchain_core.messages import AIMessage, BaseMessage
    from langchain_core.outputs import ChatGenerationChunk, ChatResult
    from langchain_core.runnables import Runnable
    from langchain_core.tools import BaseTool

    from langchain_resilient.engine.events import Plan
    from langchain_resilient.runtime import Runtime

Chain = Annotated[tuple[Target, ...], BeforeValidator(as_chain)]

_OPTIONS = frozenset({"model", "timeout", "hedge", "stream"})
"""Keyword arguments of a call that are about the race, not for the provider."""


class ResilientChatModel(Sampling, BaseChatModel):
    """A chat model that always answers, as fast as possible, over several models at several providers.

    A failure starts the next target at once; a late answer is raced against another target; the first
    valid text wins. It is a real `BaseChatModel`: use it wherever LangChain takes one.

    Example:
        ```python
        from langchain_resilient import ResilientChatModel

        llm = ResilientChatModel(targets=["openai:gpt-4o", "together:Qwen/Qwen2.5-72B-Instruct-Turbo"])
        llm.invoke("Why is the sky blue?")
        ```

    Raises:
        NoTargetsError: If no target has a key.
        pydantic.ValidationError: If a field is unknown or out of range; it names the field.
    """

    model_config = ConfigDict(extra="forbid", populate_by_name=True, arbitrary_types_allowed=True)

    targets: Chain = Field(default=DEFAULT_CHAIN, validate_default=True)  # type: ignore[assignment]
    """The chain, in order of preference: `"provider:model"`, `Target(...)`, or LangChain chat models."""
    api_key: SecretStr | dict[str, SecretStr] | None = Field(default=None, repr=False)
    """For targets without their own: one key for all, or a dict by provider. Else the environment's."""
    timeout: Seconds | None = 120.0
    """The deadline for the whole call, in seconds, over all retries, hedges and fallbacks."""
    timeouts: Timeouts = Timeouts()
    """Limits inside the deadline, for targets without their own."""
    hedge: HedgeOption = Hedge()
    """When to ask a second target beside a late one: `Hedge(...)`, a delay in seconds, or None."""
    retry: Retry = Retry()
    """When a failed target is asked again: tenacity objects."""
    max_retries: int | None = Field(default=None, ge=0)
    """How often one target may be asked again within a call; None goes on until the deadline."""
    fallback_on: FallbackOn = ALL_FAULTS
    """After which kinds of fault another target is asked."""
    last_resort: Any = None
    """Who answers when no target can: `"local"`, a target, a fixed text, or any Runnable. Never silent:
    the receipt's last attempt is of the kind `last_resort`."""
    check: Callable[[AIMessage], Any] | None = Field(default=None, alias="validate", exclude=True)
    """Called with each whole answer; False or an exception means the next target is asked. Streams are
    held back until it has approved. Given as `validate=`."""
    streaming: bool = False
    """LangChain's switch: stream under `invoke` too, for the sake of callback handlers."""

    _runtime: Runtime | None = PrivateAttr(default=None)

    # -- validation -----------------------------------------------------------------------------

    @field_validator("targets")
    @classmethod
    def _known_providers(cls, chain: tuple[Target, ...]) -> tuple[Target, ...]:
        for target in chain:
            entry(target.provider)
        return chain

    @field_validator("last_resort")
    @classmethod
    def _as_target(cls, value: Any) -> Target | None:
        if isinstance(value, str) and value.partition(":")[0] not in known():
            return Target(provider="text", model=value, name="text")
        return None if value is None else as_target(value)

    @model_validator(mode="after")
    def _check_keys(self) -> ResilientChatModel:
        self._add_version("langchain-resilient", __version__)
        self._ready()
        return self

    def __getstate__(self) -> dict[Any, Any]:
        """Travel without the runtime: it is built anew on arrival."""
        state = super().__getstate__()
        private = dict(state.get("__pydantic_private__") or {})
        private["_runtime"] = None
        return {**state, "__pydantic_private__": private}

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> ResilientChatModel:
        """Copy without the runtime."""
        copy = super().__deepcopy__(memo)
        copy._runtime = None
        return copy

    def __copy__(self) -> ResilientChatModel:
        """Copy without the runtime: `model_copy(update=...)` may change what it was built from."""
        copy = super().__copy__()
        copy._runtime = None
        return copy

    def _ready(self) -> Runtime:
        if self._runtime is None:
            from langchain_resilient.runtime import Runtime  # noqa: PLC0415  # keeps import light

            self._runtime = Runtime(
                [self._with_key(t) for t in self.targets], self._plan(), self.last_resort
            )
        return self._runtime

    def _with_key(self, target: Target) -> Target:
        key = self.api_key.get(target.provider) if isinstance(self.api_key, dict) else self.api_key
        if key is None or target.api_key is not None or not entry(target.provider).api_key_env:
            return target
        return target.model_copy(update={"api_key": key})

    def _plan(self) -> Plan:
        from langchain_resilient.engine.budget import Budget  # noqa: PLC0415
        from langchain_resilient.engine.events import Plan  # noqa: PLC0415

        hedge = self.hedge
        return Plan(
            deadline=self.timeout,
            timeouts=self.timeouts,
            hedge=hedge,
            retry=self.retry.at_most(self.max_retries),
            budget=Budget(hedge.budget, hedge.burst) if hedge else Budget(0, 1),
            fallback_on=self.fallback_on,
            reserve=self._reserve(),
        )

    def _reserve(self) -> float:
        """Leave the last resort time to answer before the deadline: little for a fixed text."""
        if self.last_resort is None or self.timeout is None:
            return 0.0
        return 0.05 if self.last_resort.provider == "text" else min(10.0, self.timeout / 3)

    # -- LangChain: generating ------------------------------------------------------------------

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | CallbackManagerForLLMRun | None = None,  # type: ignore[override]
        **kwargs: Any,
    ) -> ChatResult:
        from langchain_resilient.wire.answers import stamp, to_result  # noqa: PLC0415

        runtime = self._ready()
        request, options = self._request(runtime, messages, stop, kwargs)
        plan = options.pop("plan")
        race = runtime.race(
            request,
            plan,
            validate=self._judge(runtime) if self.check else None,
            on_retry=run_manager.on_retry if run_manager else None,
            plain=(plan.hedge is not None and plan.hedge.on == "response")
            or (request.overrides.get("n") or self.n or 1) > 1,
            **options,
        )
        draft = await race.answer()
        if draft is None:
            raise runtime.error(race, plan)
        receipt = race.receipt()
        target = runtime.target(receipt.winner or "")
        result = to_result(draft, target.provider, target.model)
        stamp(result, receipt.as_dict())
        return result

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return portal().run(self._agenerate(messages, stop, run_manager, **kwargs))

    async def _astream(  # type: ignore[override]  # an async generator, so that it can be closed
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncGenerator[ChatGenerationChunk, None]:
        from langchain_resilient.wire.answers import stamp, to_chunk  # noqa: PLC0415

        ...

    # -- LangChain: identity --------------------------------------------------------------------

    @property
    def _llm_type(self) -> str:
        return "langchain-resilient"
