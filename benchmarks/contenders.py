"""The contenders, each set up as its own documentation advises.

Runs in each contender's own environment: it imports nothing of this package but for "ours".
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Endpoint:
    """A model at a server that speaks OpenAI's API."""

    url: str
    model: str
    key: str = "k"


@dataclass(frozen=True)
class Contender:
    """One way to ask.

    Attributes:
        ask: Give the whole answer to a prompt.
        stream: Give the answer's pieces as they come.
    """

    ask: Callable[[str], Awaitable[str]]
    stream: Callable[[str], AsyncIterator[str]]


Factory = Callable[[Endpoint, Endpoint, float], Contender]
"""Takes the primary, the fallback, and the seconds that a request may take."""


def aiohttp(primary: Endpoint, _fallback: Endpoint, timeout: float) -> Contender:
    """Post and parse with aiohttp alone: what the wire itself costs."""
    from aiohttp import ClientSession, ClientTimeout

    url, headers = f"{primary.url}/chat/completions", {"Authorization": f"Bearer {primary.key}"}
    sessions: list[ClientSession] = []

    def session() -> ClientSession:
        if not sessions:  # it belongs to the running loop
            sessions.append(ClientSession(headers=headers, timeout=ClientTimeout(timeout)))
        return sessions[0]

    async def ask(prompt: str) -> str:
        body = {"model": primary.model, "messages": _messages(prompt)}
        async with session().post(url, json=body) as response:
            parsed = json.loads(await response.read())
        return str(parsed["choices"][0]["message"]["content"])

    async def stream(prompt: str) -> AsyncIterator[str]:
        body = {"model": primary.model, "messages": _messages(prompt), "stream": True}
        async with session().post(url, json=body) as response:
            async for line in response.content:
                if not line.startswith(b"data: {"):
                    continue
                for choice in json.loads(line[6:])["choices"]:
                    yield choice["delta"].get("content") or ""

    return Contender(ask, stream)


def _openai(primary: Endpoint, client: Any) -> Contender:
    create, messages = client.chat.completions.create, _messages

    async def ask(prompt: str) -> str:
        created = await create(model=primary.model, messages=messages(prompt))
        return created.choices[0].message.content or ""

    async def stream(prompt: str) -> AsyncIterator[str]:
        chunks = await create(
            model=primary.model,
            messages=messages(prompt),
            stream=True,
            stream_options={"include_usage": True},
        )
        async for chunk in chunks:
            for choice in chunk.choices:
                yield choice.delta.content or ""

    return Contender(ask, stream)


def openai(primary: Endpoint, _fallback: Endpoint, timeout: float) -> Contender:
    """Take the SDK as it comes, with its two retries; it has no fallback."""
    from openai import AsyncOpenAI

    client = AsyncOpenAI(base_url=primary.url, api_key=primary.key, timeout=timeout)
    return _openai(primary, client)


def openai_aiohttp(primary: Endpoint, _fallback: Endpoint, timeout: float) -> Contender:
    """Give the SDK the faster of its two transports."""
    from openai import AsyncOpenAI, DefaultAioHttpClient

    client = AsyncOpenAI(
        base_url=primary.url,
        api_key=primary.key,
        timeout=timeout,
        http_client=DefaultAioHttpClient(timeout=timeout),
    )
    return _openai(primary, client)


def _langchain(model: Any) -> Contender:
    async def ask(prompt: str) -> str:
        return str((await model.ainvoke(prompt)).text)

    async def stream(prompt: str) -> AsyncIterator[str]:
        async for chunk in model.astream(prompt):
            yield chunk.text

    return Contender(ask, stream)


def _chat_openai(endpoint: Endpoint, timeout: float, **settings: Any) -> Any:
    from langchain_openai import ChatOpenAI

    settings |= {"base_url": endpoint.url, "model": endpoint.model, "api_key": endpoint.key}
    return ChatOpenAI(**settings, timeout=timeout, stream_usage=True)


def chat_openai(primary: Endpoint, _fallback: Endpoint, timeout: float) -> Contender:
    """Take the model as it comes, with the SDK's two retries; it has no fallback."""
    return _langchain(_chat_openai(primary, timeout))


def langchain_fallbacks(primary: Endpoint, fallback: Endpoint, timeout: float) -> Contender:
    """Turn the SDK's retries off, as LangChain advises with fallbacks, and try each model twice."""
    first, second = (
        _chat_openai(target, timeout, max_retries=0).with_retry(stop_after_attempt=2)
        for target in (primary, fallback)
    )
    return _langchain(first.with_fallbacks([second]))


def _quiet_litellm() -> Any:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it fetches prices when imported
    os.environ.setdefault("LITELLM_LOG", "ERROR")
    import litellm

    litellm.telemetry = False
    litellm.suppress_debug_info = True
    return litellm


def _litellm(complete: Callable[..., Awaitable[Any]], **settings: Any) -> Contender:
    async def ask(prompt: str) -> str:
        answer = await complete(messages=_messages(prompt), **settings)
        return answer.choices[0].message.content or ""

    async def stream(prompt: str) -> AsyncIterator[str]:
        chunks = await complete(
            messages=_messages(prompt),
            stream=True,
            stream_options={"include_usage": True},
            **settings,
        )
        async for chunk in chunks:
            for choice in chunk.choices:
                yield choice.delta.content or ""

    return Contender(ask, stream)


def _at(endpoint: Endpoint) -> dict[str, Any]:
    return {"model": f"openai/{endpoint.model}", "api_base": endpoint.url, "api_key": endpoint.key}


def litellm_plain(primary: Endpoint, fallback: Endpoint, timeout: float) -> Contender:
    """Use `acompletion` with its documented `fallbacks`."""
    litellm = _quiet_litellm()
    settings = {**_at(primary), "timeout": timeout, "fallbacks": [_at(fallback)]}
    return _litellm(litellm.acompletion, **settings)


def litellm_bare(primary: Endpoint, _fallback: Endpoint, timeout: float) -> Contender:
    """Use `acompletion` alone."""
    return _litellm(_quiet_litellm().acompletion, **_at(primary), timeout=timeout)


def litellm_router(primary: Endpoint, fallback: Endpoint, timeout: float) -> Contender:
    """Use the Router with its own default retries, and a fallback."""
    router = _quiet_litellm().Router(
        model_list=[
            {"model_name": name, "litellm_params": _at(target)}
            for name, target in (("first", primary), ("second", fallback))
        ],
        fallbacks=[{"first": ["second"]}],
        timeout=timeout,
    )
    return _litellm(router.acompletion, model="first")


def liter(primary: Endpoint, _fallback: Endpoint, timeout: float) -> Contender:
    """Use the client that is written in Rust, with its retries off as it has no fallback."""
    from liter_llm import ChatCompletionRequest, create_client
    from liter_llm.api import chat, chat_stream

    client = create_client(
        api_key=primary.key,
        base_url=primary.url,
        timeout_secs=int(timeout),
        max_retries=0,
        model_hint="openai",  # else the name of the model tells where to ask
    )

    def request(prompt: str) -> Any:
        return ChatCompletionRequest(model=primary.model, messages=_messages(prompt))

    async def ask(prompt: str) -> str:
        return str((await chat(client, request(prompt))).choices[0].message.content or "")

    async def stream(prompt: str) -> AsyncIterator[str]:
        async for chunk in chat_stream(client, request(prompt)):
            for choice in chunk.choices:
                yield choice.delta.content or ""

    return Contender(ask, stream)


def pydantic_ai(primary: Endpoint, fallback: Endpoint, timeout: float) -> Contender:
    """Ask the FallbackModel directly, without an agent; SDK retries off, as its manual advises."""
    from openai import AsyncOpenAI
    from pydantic_ai import ModelRequest
    from pydantic_ai.direct import model_request, model_request_stream
    from pydantic_ai.messages import PartDeltaEvent, PartStartEvent, TextPart, TextPartDelta
    from pydantic_ai.models.fallback import FallbackModel
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    def of(endpoint: Endpoint) -> OpenAIChatModel:
        client = AsyncOpenAI(
            base_url=endpoint.url, api_key=endpoint.key, timeout=timeout, max_retries=0
        )
        return OpenAIChatModel(endpoint.model, provider=OpenAIProvider(openai_client=client))

    model = FallbackModel(of(primary), of(fallback))

    async def ask(prompt: str) -> str:
        response = await model_request(model, [ModelRequest.user_text_prompt(prompt)])
        return response.text or ""

    async def stream(prompt: str) -> AsyncIterator[str]:
        request = [ModelRequest.user_text_prompt(prompt)]
        async with model_request_stream(model, request) as events:
            async for event in events:
                match event:
                    case PartStartEvent(part=TextPart(content=text)):
                        yield text
                    case PartDeltaEvent(delta=TextPartDelta(content_delta=text)):
                        yield text

    return Contender(ask, stream)


def ours(primary: Endpoint, fallback: Endpoint, timeout: float, **fields: Any) -> Contender:
    """Take this package's defaults: it streams upstream even for `ainvoke`."""
    from langchain_resilient import ResilientChatModel, Target

    targets = [
        Target(f"openai:{target.model}", base_url=target.url, api_key=target.key, name=name)
        for name, target in (("first", primary), ("second", fallback))
    ]
    return _langchain(ResilientChatModel(targets=targets, timeout=timeout, **fields))


def ours_plain(primary: Endpoint, fallback: Endpoint, timeout: float) -> Contender:
    """Ask for whole answers, as the rivals do under `ainvoke`."""
    from langchain_resilient import Hedge

    return ours(primary, fallback, timeout, hedge=Hedge(on="response"))


def _messages(prompt: str) -> list[Any]:
    return [{"role": "user", "content": prompt}]


BASE = "openai SDK"
"""Ratios are to this one."""

RUST = "liter-llm (Rust)"

CONTENDERS: dict[str, Factory] = {
    "raw aiohttp": aiohttp,
    BASE: openai,
    "openai SDK on aiohttp": openai_aiohttp,
    "ChatOpenAI": chat_openai,
    "ChatOpenAI + retry + fallbacks": langchain_fallbacks,
    "litellm acompletion": litellm_bare,
    "litellm Router": litellm_router,
    "pydantic-ai FallbackModel": pydantic_ai,
    RUST: liter,
    "ours": ours,
    "ours, plain": ours_plain,
}
"""For calls: without faults, `acompletion` needs no fallback."""

UNDER_FAULTS: dict[str, Factory] = {
    **{name: made for name, made in CONTENDERS.items() if name not in ("raw aiohttp", RUST)},
    "litellm acompletion": litellm_plain,
}
"""For faults: a client without fallbacks has nothing to say about them, but for the SDK itself."""
