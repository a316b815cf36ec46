"""Models whose fields, or which themselves, are chosen by a call's config.

LangChain's `configurable_fields` and `configurable_alternatives` bind tools and schemas to the
default, whatever the config of the call says. Here they are bound to the one that it chooses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.runnables.configurable import (
    DynamicRunnable,
    RunnableConfigurableAlternatives,
    RunnableConfigurableFields,
)

if TYPE_CHECKING:
    from langchain_core.runnables.base import RunnableSerializable

# The bases are not given their types: pydantic would take a model for no instance of them then.


class _BindsWhenChosen:
    """What both kinds of choice have in common."""

    def bind_tools(self, *args: Any, **kwargs: Any) -> BoundWhenChosen:
        """Let whichever model is chosen call tools; see `ResilientChatModel.bind_tools`."""
        return BoundWhenChosen.of(self, "bind_tools", args, kwargs)

    def with_structured_output(self, *args: Any, **kwargs: Any) -> BoundWhenChosen:
        """Make whichever is chosen answer in a schema; see `ResilientChatModel`."""
        return BoundWhenChosen.of(self, "with_structured_output", args, kwargs)

    def configurable_fields(self, **fields: Any) -> RunnableSerializable[Any, Any]:
        """Let the config set fields; see LangChain's `configurable_fields`."""
        return ConfigurableFields(default=self, fields=fields)

    def configurable_alternatives(
        self, which: Any, *, default_key: str = "default", prefix_keys: bool = False, **others: Any
    ) -> RunnableSerializable[Any, Any]:
        """Let the config choose another model; see LangChain's `configurable_alternatives`."""
        return ConfigurableAlternatives(
            which=which,
            default=self,
            alternatives=others,
            default_key=default_key,
            prefix_keys=prefix_keys,
        )


class ConfigurableFields(_BindsWhenChosen, RunnableConfigurableFields):  # type: ignore[type-arg]
    """A model some fields of which a call's config may set."""


class ConfigurableAlternatives(_BindsWhenChosen, RunnableConfigurableAlternatives):  # type: ignore[type-arg]
    """A model in place of which a call's config may choose another."""


class BoundWhenChosen(DynamicRunnable):  # type: ignore[type-arg]
    """Tools or a schema for a model that each call's config chooses.

    Attributes:
        choice: Chooses the model.
        method: The method that binds to it.
        args: Its positional arguments.
        options: Its keyword arguments.
    """

    choice: Any
    method: str
    args: tuple[Any, ...] = ()
    options: dict[str, Any] = {}  # noqa: RUF012  # pydantic copies it

    @classmethod
    def of(
        cls, choice: Any, method: str, args: tuple[Any, ...], options: dict[str, Any]
    ) -> BoundWhenChosen:
        """Bind at once to the default too, so that what is wrong is said at once.

        Raises:
            ValueError: If the arguments cannot be bound.
        """
        default, _ = choice.prepare()
        bound = getattr(default, method)(*args, **options)
        return cls(default=bound, choice=choice, method=method, args=args, options=options)

    @property
    def config_specs(self) -> list[Any]:
        """What the config may say."""
        specs: list[Any] = self.choice.config_specs
        return specs

    def _prepare(self, config: Any = None) -> tuple[Any, Any]:
        chosen, config = self.choice.prepare(config)
        return getattr(chosen, self.method)(*self.args, **self.options), config
