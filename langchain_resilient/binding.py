"""What a chat model may be bound to: tools, a schema of the answer, fields that configs set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.runnables import ConfigurableField, Runnable
from langchain_core.runnables.base import RunnableSerializable
from pydantic import ConfigDict

from langchain_resilient.runtime.keywords import refuse_misspelt
from langchain_resilient.wire.json_schema import Method

if TYPE_CHECKING:
    from langchain_core.tools import BaseTool
else:
    # Annotations are evaluated at run time too, where LangChain's tools need not be loaded.
    BaseTool = Any

T = TypeVar("T")

_OF_TOOLS = frozenset({"parallel_tool_calls", "strict", "tool_choice", "tools"})
_OF_SCHEMAS = frozenset({"include_raw", "method", "repair", "schema", "strict"})


class BindingChatModel(BaseChatModel):
    """A chat model whose tools and schemas hold for all of its targets."""

    model_config = ConfigDict(defer_build=True)

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
            TypeError: If a keyword is misspelt; says what was probably meant.
        """
        from langchain_resilient.wire.passthrough import as_given  # noqa: PLC0415
        from langchain_resilient.wire.tool_calls import to_tool_choice, to_tools  # noqa: PLC0415

        refuse_misspelt(kwargs, batch=True, also=_OF_TOOLS)
        bound: dict[str, Any] = {"tools": as_given(to_tools(tools, strict), tools, strict)}
        if (choice := to_tool_choice(tool_choice, bound["tools"])) is not None:
            bound["tool_choice"] = choice
        if parallel_tool_calls is not None:
            bound["parallel_tool_calls"] = parallel_tool_calls
        return self.bind(**bound, **kwargs)

    @overload
    def with_structured_output(
        self,
        schema: type[T],
        *,
        method: Method = ...,
        include_raw: Literal[False] = ...,
        strict: bool | None = ...,
        repair: bool = ...,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, T]: ...

    @overload
    def with_structured_output(
        self,
        schema: dict[str, Any],
        *,
        method: Method = ...,
        include_raw: bool = ...,
        strict: bool | None = ...,
        repair: bool = ...,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, dict[str, Any]]: ...

    @overload
    def with_structured_output(
        self,
        schema: type | None = ...,
        *,
        method: Method = ...,
        include_raw: Literal[True],
        strict: bool | None = ...,
        repair: bool = ...,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, dict[str, Any]]: ...

    @overload
    def with_structured_output(
        self,
        schema: dict[str, Any] | type | None = ...,
        *,
        method: Method = ...,
        include_raw: bool = ...,
        strict: bool | None = ...,
        repair: bool = ...,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]: ...

    def with_structured_output(
        self,
        schema: dict[str, Any] | type | None = None,
        *,
        method: Method = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        repair: bool = False,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """Make the model answer in a schema, whichever target it is that answers.

        An answer that does not fit counts as a failure: the next target is asked. A target that
        refuses the method is asked in another way at once, by a schema, a tool, JSON mode or plain
        words, and its answer reads as if it had not been. A stream shows its parts as they come, so
        that only its end can be judged: `OutputParserException` says what does not fit.

        Args:
            schema: A pydantic or TypedDict class, or a JSON schema; None only with `"json_mode"`.
            method: `"json_schema"`, `"function_calling"` or `"json_mode"`.
            include_raw: Give `{"raw", "parsed", "parsing_error"}`, and never raise the last: if no
                target's answer fits, the last of them is given.
            strict: Whether the answer must fit exactly, and the arguments of `tools=`, where the
                provider can do that.
            repair: Show whoever is asked next the answer that did not fit, and why it did not.
            **kwargs: Bound as well. With `tools=`, a call of one is an answer too, which parses to
                None.

        Returns:
            A chain that gives objects of a pydantic class, else dicts. It raises
            `InvalidAnswersError` if no target's answer fits.

        Raises:
            ValueError: If the schema or the method cannot be used; says why.
            TypeError: If a keyword is misspelt; says what was probably meant.

        Example:
            ```python
            llm.with_structured_output(Joke, repair=True).invoke("A joke about cats.")
            ```
        """
        from langchain_resilient.wire import structured_output  # noqa: PLC0415
        from langchain_resilient.wire.passthrough import as_given  # noqa: PLC0415
        from langchain_resilient.wire.structured_output import OutputSpec  # noqa: PLC0415
        from langchain_resilient.wire.tool_calls import to_tools  # noqa: PLC0415

        refuse_misspelt(kwargs, batch=True, also=_OF_SCHEMAS)
        params = structured_output.structured_params(schema, method, strict)
        if tools := kwargs.get("tools"):
            if method == "function_calling":
                msg = "tools= is possible with method='json_schema' or 'json_mode' only"
                raise ValueError(msg)
            kwargs["tools"] = as_given(to_tools(tools, strict), tools, strict)
        structure = OutputSpec(
            schema, method, repair=repair, keep=include_raw, allows_calls=bool(tools)
        )
        # Else a callback handler that streams (LangGraph's, `astream_events`) would make streams
        # of what is invoked, and nobody could judge them. `stream` itself goes before it.
        params |= {"structure": structure, "stream": False}
        llm = self.bind(**params, **kwargs)
        parser = structured_output.structured_parser(schema, method, structure)
        return structured_output.with_raw(llm, parser) if include_raw else llm | parser

    def configurable_fields(self, **kwargs: Any) -> RunnableSerializable[Any, Any]:
        """Let a call's config set fields, also beneath `bind_tools` and `with_structured_output`.

        Raises:
            ValueError: If a field is unknown.

        Example:
            ```python
            warm = llm.configurable_fields(temperature=ConfigurableField(id="t"))
            warm.bind_tools([add]).invoke("1 + 2?", {"configurable": {"t": 0.9}})
            ```
        """
        from langchain_resilient.configurable import ConfigurableFields  # noqa: PLC0415

        super().configurable_fields(**kwargs)  # which looks at the names
        return ConfigurableFields(default=self, fields=kwargs)

    def configurable_alternatives(
        self,
        which: ConfigurableField,
        *,
        default_key: str = "default",
        prefix_keys: bool = False,
        **kwargs: Runnable[Any, Any] | Callable[[], Runnable[Any, Any]],
    ) -> RunnableSerializable[Any, Any]:
        """Let a call's config choose another model, also beneath `bind_tools`.

        Args:
            which: The config's field that chooses.
            default_key: Its value for this model.
            prefix_keys: Whether the models' own fields are told apart by its name.
            **kwargs: The other models by their values, or functions that make them.
        """
        from langchain_resilient.configurable import ConfigurableAlternatives  # noqa: PLC0415

        return ConfigurableAlternatives(
            which=which,
            default=self,
            alternatives=kwargs,
            default_key=default_key,
            prefix_keys=prefix_keys,
        )
