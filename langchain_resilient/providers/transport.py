"""Which HTTP transport the SDK clients get.

aiohttp costs half the CPU and returns cancelled connections; httpx (httpx2) is there for what works
only with it: virtual-time loops, and cassettes with vcrpy before 9.
"""

from __future__ import annotations

import os
from typing import Literal, cast

Transport = Literal["aiohttp", "httpx"]


def transport() -> Transport:
    """Read `LANGCHAIN_RESILIENT_TRANSPORT`, `"aiohttp"` unless set.

    Raises:
        ValueError: If it is neither "aiohttp" nor "httpx".
    """
    found = os.environ.get("LANGCHAIN_RESILIENT_TRANSPORT", "aiohttp")
    if found not in ("aiohttp", "httpx"):
        msg = f'LANGCHAIN_RESILIENT_TRANSPORT must be "aiohttp" or "httpx", not {found!r}'
        raise ValueError(msg)
    return cast("Transport", found)
