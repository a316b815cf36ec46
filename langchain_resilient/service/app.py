"""The ASGI application: its paths, and what it is made of."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from langchain_resilient.configuration import observers_of
from langchain_resilient.errors import MissingExtraError
from langchain_resilient.service.answering import Endpoint, Receive, Scope, Send, Service
from langchain_resilient.service.chat import ChatCompletions
from langchain_resilient.service.config import ServiceConfig
from langchain_resilient.service.failures import BadRequestError, failure_of
from langchain_resilient.service.responses import Responses

try:
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    from langchain_resilient.service.metrics import CONTENT_TYPE, Metrics
except ImportError as error:
    msg = 'the service needs an extra: pip install "langchain-resilient[serve]"'
    raise MissingExtraError(msg) from error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.requests import Request

    from langchain_resilient.chat_model import ResilientChatModel


def create_app(
    llm: ResilientChatModel,
    config: ServiceConfig | None = None,
    *,
    on_started: Callable[[], object] | None = None,
) -> Starlette:
    """Make the application that serves a model, for any ASGI server.

    Args:
        llm: The model. It is copied, and the copy is closed with the application.
        config: How it is served; the defaults if None. `host`, `port`, `max_header_bytes`,
            `idle_timeout`, `drain_seconds` and the certificate are for whoever runs the server:
            see `langchain_resilient.service.run`.
        on_started: Is called when the service is ready, its connections opened.

    Raises:
        MissingExtraError: When this module is imported without the extra `serve`.

    Example:
        ```python
        app = create_app(ResilientChatModel(targets=["openai:gpt-6.1-sol"]))
        ```
    """
    config = config or ServiceConfig()
    metrics = Metrics()
    llm = llm.model_copy(update={"observers": (*observers_of(llm), metrics)})
    metrics.watch(llm.stats)
    service = Service(llm, config, metrics)
    door, names = service.door, service.names
    started = int(time.time())

    def described(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": started, "owned_by": "resilient"}

    async def models(request: Request) -> Response:
        door.check(request.scope)
        return JSONResponse({"object": "list", "data": [described(n) for n in names.known]})

    async def model(request: Request) -> Response:
        door.check(request.scope)
        names.find(request.path_params["model"])
        return JSONResponse(described(request.path_params["model"]))

    async def health(request: Request) -> Response:  # noqa: ARG001
        return JSONResponse({"status": "ok"})

    async def counts(request: Request) -> Response:
        door.check(request.scope)
        return Response(metrics.page(), media_type=CONTENT_TYPE)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        if config.warm:
            await llm.awarm()
        if on_started is not None:
            on_started()
        yield
        await llm.aclose()

    chat, responses = "/v1/chat/completions", "/v1/responses"
    endpoints = {
        chat: Endpoint(ChatCompletions(), chat, service),
        responses: Endpoint(Responses(), responses, service),
    }
    return _Application(
        endpoints,
        routes=[
            *(Route(path, endpoint, methods=["POST"]) for path, endpoint in endpoints.items()),
            Route("/v1/models", models),
            Route("/v1/models/{model:path}", model),
            Route("/healthz", health),
            Route("/metrics", counts),
        ],
        lifespan=lifespan,
        exception_handlers={BadRequestError: _refused, 404: _nowhere, 405: _nowhere},
    )


class _Application(Starlette):
    """Starlette's, with a shorter way to the two paths that cost time.

    Args:
        endpoints: Their endpoints, which see to errors themselves.
        **kwargs: Starlette's own arguments.
    """

    def __init__(self, endpoints: dict[str, Endpoint], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._endpoints = endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        endpoint = self._endpoints.get(scope["path"]) if scope["type"] == "http" else None
        # Middleware that somebody added sees every request; a mounted path is not this one.
        if endpoint is None or scope["method"] != "POST" or self.user_middleware:
            await super().__call__(scope, receive, send)
        else:
            await endpoint(scope, receive, send)


async def _refused(request: Request, error: Exception) -> Response:  # noqa: ARG001
    failure = failure_of(error)
    return JSONResponse({"error": failure.as_dict()}, failure.status)


async def _nowhere(request: Request, error: Any) -> Response:
    message = f"there is no {request.method} {request.url.path[:200]} here"
    failure = failure_of(BadRequestError(message, status=error.status_code))
    return JSONResponse({"error": failure.as_dict()}, failure.status)
