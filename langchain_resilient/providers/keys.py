"""Keys as they are sent: what a header can hold, and those that a function gives for each call."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from langchain_resilient.providers import bare_key
from langchain_resilient.providers.connection import ConnectionSetupError

if TYPE_CHECKING:
    from collections.abc import Callable


class UnusableKeyError(Exception):
    """A key that no header can hold: nothing was sent."""


def sendable(key: str, name: str) -> str:
    """Return a key that a header can hold.

    Args:
        key: The key.
        name: What to call it.

    Raises:
        UnusableKeyError: If it holds what no header can; shows no more of it than that character.
    """
    for character in key:
        if not (character.isascii() and character.isprintable()):
            msg = f"{name} holds a character that no key can (U+{ord(character):04X}): copy it anew"
            raise UnusableKeyError(msg)
    return key


async def current_key(function: Callable[[], Any]) -> str:
    """Ask the function given as `api_key`, without holding up the loop.

    Raises:
        ConnectionSetupError: If there is none.
        UnusableKeyError: If no header can hold it.
    """
    try:
        if inspect.iscoroutinefunction(function):
            token = await function()
        else:
            token = await asyncio.to_thread(function)
            token = await token if inspect.isawaitable(token) else token
    except Exception as error:  # it is the application's, and may raise anything
        msg = f"the function given as api_key raised {type(error).__name__}"
        raise ConnectionSetupError(msg) from error
    if isinstance(token, SecretStr):
        token = token.get_secret_value()
    if not isinstance(token, str) or not bare_key(token):
        msg = "the function given as api_key gave no text"
        raise ConnectionSetupError(msg)
    return sendable(bare_key(token), "the key that the function given as api_key gave")
