"""One contestant of `batch_throughput`, in a process of its own: answers prompts, prints seconds.

    python benchmarks/rivals.py NAME URL PROMPTS WORKERS

It imports nothing of this package but for "ours", so that rivals may live in another environment.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

MODEL = "gpt-4o-mini"
PROMPT = "Say exactly: The sky is blue because of Rayleigh scattering. ({})"
WARM_UP = 200

Batch = Callable[[list[str]], Awaitable[list[str]]]


def ours(url: str, workers: int, **fields: Any) -> Batch:
    """`abatch` of this package, with its defaults, which stream upstream."""
    from langchain_resilient import ResilientChatModel, Target

    targets = [Target(f"openai:{MODEL}", name=n, base_url=url, api_key="k") for n in ("a", "b")]
    llm = ResilientChatModel(targets=targets, **fields)

    async def batch(prompts: list[str]) -> list[str]:
        answers = await llm.abatch(list(prompts), {"max_concurrency": workers})
        return [answer.text for answer in answers]

    return batch


def ours_plain(url: str, workers: int) -> Batch:
    """The same without streaming, as the rivals do it."""
    from langchain_resilient import Hedge

    return ours(url, workers, hedge=Hedge(on="response"))


def langchain(url: str, workers: int) -> Batch:
    """LangChain's own `abatch`, with retries and a fallback."""
    from langchain_openai import ChatOpenAI

    options: Any = {"model": MODEL, "base_url": url, "api_key": "k", "max_retries": 0}
    one, other = ChatOpenAI(**options), ChatOpenAI(**options)
    chain = one.with_retry(stop_after_attempt=3).with_fallbacks([other])

    async def batch(prompts: list[str]) -> list[str]:
        answers = await chain.abatch(list(prompts), {"max_concurrency": workers})
        return [str(answer.content) for answer in answers]

    return batch


def litellm(url: str, workers: int) -> Batch:
    """The Router of litellm with retries and a fallback; the semaphore is ours, it has none."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it fetches prices when imported
    from litellm import Router

    params = {"model": f"openai/{MODEL}", "api_base": url, "api_key": "k"}
    router = Router(
        model_list=[{"model_name": n, "litellm_params": params} for n in ("a", "b")],
        num_retries=2,
        fallbacks=[{"a": ["b"]}],
    )
    free = asyncio.Semaphore(workers)

    async def one(prompt: str) -> str:
        async with free:
            answer = await router.acompletion("a", [{"role": "user", "content": prompt}])
            return str(answer.choices[0].message.content)

    async def batch(prompts: list[str]) -> list[str]:
        return await asyncio.gather(*map(one, prompts))

    return batch


CONTESTANTS = {
    "ours": ours,
    "ours, plain": ours_plain,
    "LangChain retry + fallbacks": langchain,
    "litellm Router": litellm,
}


async def main(name: str, url: str, count: int, workers: int) -> dict[str, float]:
    """Warm up, then answer all prompts; wall and CPU seconds."""
    batch = CONTESTANTS[name](url, workers)
    await batch([PROMPT.format("warm")] * WARM_UP)
    prompts = [PROMPT.format(n) for n in range(count)]
    began, cpu = time.perf_counter(), time.process_time()
    answers = await batch(prompts)
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    assert all(f"({n})" in answer for n, answer in enumerate(answers)), "a wrong answer"
    return {"wall": wall, "cpu": cpu}


if __name__ == "__main__":
    who, where, many, wide = sys.argv[1:]
    print(json.dumps(asyncio.run(main(who, where, int(many), int(wide)))))
