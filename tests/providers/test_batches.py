"""Files and batches of OpenAI and Together, over their SDKs and the simulator, in virtual time."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from langchain_resilient import Target
from langchain_resilient.faults import FaultKind
from langchain_resilient.providers import create_provider
from langchain_resilient.providers.batches import (
    BatchRequestError,
    ProviderBatches,
    batches_of,
    result_lines,
)
from langchain_resilient.providers.sdk import UnbatchableRequestError
from langchain_resilient.testing import Backlog, ProviderSimulator, answer_to
from verification.kit.virtual_time import VirtualLoop, run_virtual

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from langchain_resilient.exchange import BatchState

MODEL = {"openai": "gpt-4.1-mini", "together": "openai/gpt-oss-120b"}
CHAT = "/v1/chat/completions"
USER = {"role": "user", "content": "Hello"}

both = pytest.mark.parametrize("name", ["openai", "together"])


def _target(name: str, sim: ProviderSimulator, **more: Any) -> Target:
    return Target(f"{name}:{MODEL[name]}", base_url=sim.base_url(name), api_key="sk-secret", **more)


def _run(
    name: str,
    backlog: Backlog,
    story: Callable[[ProviderBatches, ProviderSimulator], Coroutine[Any, Any, None]],
    *,
    transport: Any = "aiohttp",
) -> None:
    async def main(loop: VirtualLoop) -> None:
        async with ProviderSimulator(wall_clock=loop.calendar) as sim:
            sim.backlog("*", backlog)
            provider = create_provider(_target(name, sim))
            batches = batches_of(provider)
            assert batches is not None
            await story(batches, sim)
            await provider.aclose()

    run_virtual(main, transport=transport)


def _write(path: Path, batches: ProviderBatches, name: str, count: int) -> Path:
    with path.open("w") as file:
        for n in range(count):
            body = {"model": MODEL[name], "messages": [{"role": "user", "content": f"q{n}"}]}
            file.write(json.dumps(batches.line(f"id-{n}", CHAT, body)) + "\n")
    return path


async def _create(batches: ProviderBatches, folder: Path, name: str) -> tuple[str, BatchState]:
    """Upload ten requests, and create their batch; returns the file's id as well."""
    file = await batches.upload(_write(folder / "a.jsonl", batches, name, 10))
    return file, await batches.create(file, CHAT, "tag")


@pytest.mark.parametrize("transport", ["aiohttp", "httpx"])
@both
def test_from_the_file_to_the_answers(name, transport, tmp_path):
    """Uploaded, found, created, found, watched, fetched."""

    async def story(batches: ProviderBatches, sim: ProviderSimulator) -> None:
        file = await batches.upload(_write(tmp_path / "a.jsonl", batches, name, 10))
        assert await batches.find_file("a.jsonl") == file
        assert await batches.find_file("b.jsonl") is None
        assert await batches.find(file, "tag") is None
        made = await batches.create(file, CHAT, "tag")
        found = await batches.find(file, "tag")
        assert found is not None
        assert (found.id, found.status, found.input_file) == (made.id, "waiting", file)
        await asyncio.sleep(330)
        state = await batches.retrieve(made.id)
        assert (state.status, state.share, state.ended) == ("running", 0.5, False)
        await asyncio.sleep(400)
        state = await batches.retrieve(made.id)
        assert (state.status, state.share, state.error_file) == ("completed", 1.0, None)
        assert state.output_file is not None
        await batches.download(state.output_file, tmp_path / "out")
        lines = {line.custom_id: line.body for line in result_lines(tmp_path / "out")}
        assert sorted(lines) == sorted(f"id-{n}" for n in range(10))
        body = json.loads(lines["id-3"] or b"")
        assert body["choices"][0]["message"]["content"] == answer_to("q3")

    _run(name, Backlog(), story, transport=transport)


@both
def test_cancelled_batches_keep_what_is_done(name, tmp_path):
    """And tell that they are being cancelled, where the provider does."""

    async def story(batches: ProviderBatches, sim: ProviderSimulator) -> None:
        _, made = await _create(batches, tmp_path, name)
        await asyncio.sleep(330)
        await batches.cancel(made.id)
        status = (await batches.retrieve(made.id)).status
        assert status == ("cancelling" if name == "openai" else "running")
        await asyncio.sleep(60)
        state = await batches.retrieve(made.id)
        assert state.status == "cancelled"
        assert state.output_file is not None
        await batches.download(state.output_file, tmp_path / "out")
        assert len(list(result_lines(tmp_path / "out"))) == 5
        if state.error_file is not None:
            await batches.download(state.error_file, tmp_path / "errors")
            [fault, *_] = [line.fault for line in result_lines(tmp_path / "errors")]
            assert fault is not None
            assert "cancelled" in fault.message
        with pytest.raises(BatchRequestError):
            await batches.cancel(made.id)

    _run(name, Backlog(), story)


@both
def test_why_a_batch_failed(name, tmp_path):
    """In the provider's words; such a batch is not found as ours."""

    async def story(batches: ProviderBatches, sim: ProviderSimulator) -> None:
        file, made = await _create(batches, tmp_path, name)
        await asyncio.sleep(60)
        state = await batches.retrieve(made.id)
        assert state.status == "failed"
        assert "invalid_model" in state.problem
        assert await batches.find(file, "tag") is None

    _run(name, Backlog(fails="invalid_model"), story)


@both
def test_what_an_error_says_of_the_request(name, tmp_path):
    """A refusal was not done; a lost response, a 500 or a 429 may have been, or may be later."""

    async def story(batches: ProviderBatches, sim: ProviderSimulator) -> None:
        path = _write(tmp_path / "a.jsonl", batches, name, 1)
        file = await batches.upload(path)
        for mishap, refused in ((400, True), (500, False), (429, False), ("lost", False)):
            sim.break_batches(name, "create", mishap)
            with pytest.raises(BatchRequestError) as raised:
                await batches.create(file, CHAT, "tag")
            assert raised.value.refused is refused
            assert "sk-secret" not in str(raised.value)
        assert len(sim.batches) == 1
        with pytest.raises(BatchRequestError) as raised:
            await batches.retrieve("batch_unknown")
        assert raised.value.missing
        sim.break_batches(name, "upload", "lost")
        with pytest.raises(BatchRequestError):
            await batches.upload(path.rename(tmp_path / "b.jsonl"))
        assert await batches.find_file("b.jsonl") is not None

    _run(name, Backlog(), story)


@both
def test_half_a_download_is_an_error(name, tmp_path):
    """Unless it ends as if that were all: then lines are missing."""

    async def story(batches: ProviderBatches, sim: ProviderSimulator) -> None:
        _, made = await _create(batches, tmp_path, name)
        await asyncio.sleep(3600)
        output = (await batches.retrieve(made.id)).output_file
        assert output is not None
        sim.break_batches(name, "download", "half", "cut")
        with pytest.raises(BatchRequestError):
            await batches.download(output, tmp_path / "out")
        await batches.download(output, tmp_path / "out")
        assert 3 <= len(list(result_lines(tmp_path / "out"))) <= 5

    _run(name, Backlog(), story)


def test_lines_that_cannot_be_read_are_left_out(tmp_path):
    """Halves, other JSON, and lines that say nothing."""
    lines = [
        '{"custom_id": "a", "response": {"status_code": 200, "body": {"x": 1}}, "error": null}',
        '{"custom_id": "b", "response": {"status_code": 400, "body": {"error": {"message": ""}}}}',
        '{"custom_id": "c", "error": {"message": "Request timeout", "code": "timeout"}}',
        '{"custom_id": "d", "response": null, "error": {"code": "batch_expired"}}',
        '{"custom_id": "e", "response": {"status_c',
        "[]",
        "",
        '{"custom_id": "f", "response": null, "error": null}',
        '{"custom_id": "g", "response": {"status_code": 500, "body": null}}',
    ]
    path = tmp_path / "out"
    path.write_text("\n".join(lines))
    found = {line.custom_id: line for line in result_lines(path)}
    assert list(found) == ["a", "b", "c", "d", "g"]
    assert found["a"].body == b'{"x": 1}'
    faults = {name: line.fault.kind for name, line in found.items() if line.fault is not None}
    assert faults == {
        "b": FaultKind.BAD_REQUEST,
        "c": FaultKind.SERVER,
        "d": FaultKind.SERVER,
        "g": FaultKind.SERVER,
    }


@pytest.mark.parametrize("spec", ["local", "text:hi", "groq:llama", "azure:mine"])
def test_who_has_no_batches(spec, monkeypatch):
    """An embedded model, a fixed text, servers that are only compatible."""
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", "https://a.example")
    assert batches_of(create_provider(Target(spec, api_key="k"))) is None


def test_what_cannot_be_part_of_a_batch():
    """Headers, and at Together the Responses API; OpenAI's batches take that."""
    together = create_provider(Target("together:m", api_key="k", api="responses"))
    with pytest.raises(UnbatchableRequestError, match="Responses API"):
        together.written({"messages": [USER]})
    openai = create_provider(Target("openai:gpt-6-luna", api_key="k", api="responses"))
    assert openai.written({"messages": [USER]}).form.endpoint == "/v1/responses"
    with pytest.raises(UnbatchableRequestError, match="extra_headers"):
        openai.written({"messages": [USER], "extra_headers": {"a": "b"}})


async def test_a_written_request_is_what_is_sent():
    """The same body as a live one, and the answer is read in the same way."""
    with ProviderSimulator() as sim:
        provider = create_provider(_target("openai", sim, temperature=0.5))
        tool = {
            "type": "function",
            "function": {"name": "a/b", "parameters": {"type": "object", "properties": {}}},
        }
        body = {"messages": [USER], "max_tokens": 7, "tools": [tool], "stop": ["x"]}
        written = provider.written(dict(body))
        stream = await provider.send(dict(body), stream=False)
        live = [chunk async for chunk in stream]
        await stream.aclose()
        assert sim.requests[-1].body == written.body
        data = json.dumps(live[0]).encode()
        assert [chunk async for chunk in written.read(data)] == live
        await provider.aclose()


@both
def test_files_of_an_account(name, tmp_path):
    """Whether one is there; deleted, it is not, and to delete it again fails."""

    async def story(batches: ProviderBatches, sim: ProviderSimulator) -> None:
        file, _ = await _create(batches, tmp_path, name)
        assert await batches.has_file(file)
        await batches.delete(file)
        assert not await batches.has_file(file)
        with pytest.raises(BatchRequestError) as raised:
            await batches.delete(file)
        assert raised.value.missing
        sim.break_batches(name, "files", 500)
        with pytest.raises(BatchRequestError) as raised:
            await batches.has_file(file)
        assert not raised.value.missing

    _run(name, Backlog(), story)
