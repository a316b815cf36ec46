"""The least that a proxy in Python costs: uvicorn, aiohttp, and the bytes passed on.

    python -m verification.service.bare_proxy UPSTREAM

It reads nothing of what it passes on. What the service takes longer is for what it does.
"""

from __future__ import annotations

import sys
from typing import Any

import aiohttp
import uvicorn


class BareProxy:
    """An ASGI application that passes requests on to one URL.

    Args:
        upstream: The URL.
    """

    def __init__(self, upstream: str) -> None:
        self._url = f"{upstream}/chat/completions"
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass one request on; its body must come in one piece, as small ones do."""
        assert scope["type"] == "http"
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        body = (await receive())["body"]
        headers = {"content-type": "application/json"}
        async with self._session.post(self._url, data=body, headers=headers) as reply:
            kind = [(b"content-type", reply.headers["content-type"].encode())]
            if length := reply.headers.get("content-length"):
                kind.append((b"content-length", length.encode()))
            await send({"type": "http.response.start", "status": reply.status, "headers": kind})
            async for data in reply.content.iter_any():
                await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


if __name__ == "__main__":
    uvicorn.run(BareProxy(sys.argv[1]), port=0, http="httptools", lifespan="off", access_log=False)
