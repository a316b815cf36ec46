"""Files and batches at the simulated providers, through both official SDKs, in virtual hours."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import openai
import pytest
import together

from langchain_resilient.testing import Backlog, ProviderSimulator, Reply, answer_to
from verification.kit.virtual_time import VirtualLoop, run_virtual

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

HOUR = 3600.0
MODEL = {"openai": "gpt-6-luna", "together": "openai/gpt-oss-120b"}


class Provider:
    """Both SDKs under the same names, as far as files and batches go."""

    def __init__(self, name: str, sim: ProviderSimulator) -> None:
        self.name, self.sim = name, sim
        settings: Any = {"api_key": "k", "base_url": sim.base_url(name), "max_retries": 0}
        self.client: Any = (
            openai.AsyncOpenAI(**settings)
            if name == "openai"
            else together.AsyncTogether(**settings)
        )

    async def upload(self, path: Path) -> str:
        if self.name == "openai":
            with path.open("rb") as file:
                return (await self.client.files.create(file=file, purpose="batch")).id
        sent = await self.client.files.upload(path, purpose="batch-api", check=False)
        return sent.id

    async def create(self, file: str) -> str:
        more = {"completion_window": "24h"}
        if self.name == "openai":
            more["metadata"] = {"tag": "t"}
        made = await self.client.batches.create(
            input_file_id=file, endpoint="/v1/chat/completions", **more
        )
        return made.id if self.name == "openai" else made.job.id

    async def status(self, batch: str) -> str:
        return str((await self.client.batches.retrieve(batch)).status).lower()

    async def lines(self, file: str | None) -> list[dict[str, Any]]:
        if file is None:
            return []
        content = (
            await (await self.client.files.content(file)).aread()
            if (self.name == "openai")
            else await (await self.client.files.content(file)).read()
        )
        return [json.loads(line) for line in content.splitlines()]


def _file(tmp_path: Path, name: str, count: int, **more: Any) -> Path:
    path = tmp_path / "prompts.jsonl"
    with path.open("w") as file:
        for n in range(count):
            body = {
                "model": MODEL[name],
                "messages": [{"role": "user", "content": f"q{n}"}],
                **more,
            }
            line: dict[str, Any] = {"custom_id": f"id-{n}", "body": body}
            if name == "openai":
                line |= {"method": "POST", "url": "/v1/chat/completions"}
            file.write(json.dumps(line) + "\n")
    return path


def _run(
    name: str, backlog: Backlog, story: Callable[[Provider], Coroutine[Any, Any, None]]
) -> None:
    async def main(loop: VirtualLoop) -> None:
        async with ProviderSimulator(wall_clock=loop.calendar) as sim:
            sim.backlog("*", backlog)
            provider = Provider(name, sim)
            try:
                await story(provider)
            finally:
                await provider.client.close()

    run_virtual(main, transport="httpx")


both = pytest.mark.parametrize("name", ["openai", "together"])


@both
def test_a_batch_takes_its_hours_and_answers_in_any_order(name, tmp_path):
    """Its states follow the clock; each answer is what a live request would get."""

    async def story(provider: Provider) -> None:
        batch = await provider.create(await provider.upload(_file(tmp_path, name, 20)))
        assert await provider.status(batch) == "validating"
        await asyncio.sleep(HOUR)
        assert await provider.status(batch) == "in_progress"
        [record] = provider.sim.batches
        assert (record.done, record.total, record.status) == (9, 20, "in_progress")
        await asyncio.sleep(HOUR + 70)
        assert await provider.status(batch) == "completed"
        ended = await provider.client.batches.retrieve(batch)
        lines = await provider.lines(ended.output_file_id)
        answers = {
            line["custom_id"]: line["response"]["body"]["choices"][0]["message"]["content"]
            for line in lines
        }
        assert answers == {f"id-{n}": answer_to(f"q{n}") for n in range(20)}
        assert [line["custom_id"] for line in lines] != [f"id-{n}" for n in range(20)]
        assert ended.error_file_id is None
        assert provider.sim.count() == 0

    _run(name, Backlog(seconds=2 * HOUR, start=60, finalizing=5), story)


@both
def test_a_stuck_batch_expires_with_what_is_done(name, tmp_path):
    """At 60 % for ever: expired after its day, with those answers."""

    async def story(provider: Provider) -> None:
        batch = await provider.create(await provider.upload(_file(tmp_path, name, 10)))
        await asyncio.sleep(23 * HOUR)
        assert await provider.status(batch) == "in_progress"
        await asyncio.sleep(2 * HOUR)
        assert await provider.status(batch) == "expired"
        ended = await provider.client.batches.retrieve(batch)
        assert len(await provider.lines(ended.output_file_id)) == 6
        undone = await provider.lines(ended.error_file_id)
        assert [line["error"]["code"] for line in undone] == ["batch_expired"] * (
            4 if name == "openai" else 0
        )

    _run(name, Backlog(seconds=HOUR, stuck_at=0.6), story)


@both
def test_a_cancelled_batch_gives_what_was_done(name, tmp_path):
    """After the minutes that this takes; a batch that has ended cannot be cancelled."""

    async def story(provider: Provider) -> None:
        batch = await provider.create(await provider.upload(_file(tmp_path, name, 10)))
        await asyncio.sleep(HOUR)
        await provider.client.batches.cancel(batch)
        assert await provider.status(batch) == ("cancelling" if name == "openai" else "in_progress")
        await asyncio.sleep(601)
        assert await provider.status(batch) == "cancelled"
        ended = await provider.client.batches.retrieve(batch)
        assert len(await provider.lines(ended.output_file_id)) == 5
        sdk: Any = openai if name == "openai" else together
        with pytest.raises(sdk.APIStatusError, match="Cannot cancel"):
            await provider.client.batches.cancel(batch)

    _run(name, Backlog(seconds=2 * HOUR, start=0, cancelling=600), story)


@both
def test_results_with_faults(name, tmp_path):
    """Errors, and missing, repeated and broken lines, as many as was said."""

    async def story(provider: Provider) -> None:
        batch = await provider.create(await provider.upload(_file(tmp_path, name, 400)))
        await asyncio.sleep(HOUR)
        ended = await provider.client.batches.retrieve(batch)
        content = await provider.client.files.content(ended.output_file_id)
        raw = await (content.aread() if name == "openai" else content.read())
        lines = raw.splitlines()
        good = []
        for line in lines:
            try:
                good.append(json.loads(line)["custom_id"])
            except ValueError:
                continue
        failed = await provider.lines(ended.error_file_id)
        assert 20 <= len({line["custom_id"] for line in failed}) <= 60
        assert 20 <= len(lines) - len(good) <= 70
        assert 20 <= len(good) - len(set(good)) <= 60
        assert len(set(good)) + len(failed) < 360

    faults = Backlog(seconds=60, errors=0.1, missing=0.1, repeated=0.1, broken=0.1)
    _run(name, faults, story)


@both
def test_refused_requests_are_in_the_file_of_errors(name, tmp_path):
    """With the words and the status that a live request gets."""

    async def story(provider: Provider) -> None:
        path = _file(tmp_path, name, 3, temperature=9)
        batch = await provider.create(await provider.upload(path))
        await asyncio.sleep(HOUR)
        ended = await provider.client.batches.retrieve(batch)
        assert await provider.lines(ended.output_file_id) == []
        lines = await provider.lines(ended.error_file_id)
        assert len(lines) == 3
        told = lines[0]["error"] or lines[0]["response"]["body"]["error"]
        assert "temperature" in told["message"]

    _run(name, Backlog(seconds=60), story)


@both
def test_a_batch_over_the_queue_limit_fails(name, tmp_path):
    """And the next one is taken once the first has ended."""

    async def story(provider: Provider) -> None:
        file = await provider.upload(_file(tmp_path, name, 20))
        first = await provider.create(file)
        second = await provider.create(file)
        await asyncio.sleep(120)
        assert await provider.status(second) == "failed"
        told = await provider.client.batches.retrieve(second)
        assert "Enqueued token limit" in str(told.error if name == "together" else told.errors)
        await asyncio.sleep(HOUR)
        assert await provider.status(first) == "completed"
        third = await provider.create(file)
        await asyncio.sleep(HOUR)
        assert await provider.status(third) == "completed"

    _run(name, Backlog(seconds=600, enqueued_tokens=1000), story)


@both
def test_mishaps_of_requests(name, tmp_path):
    """A lost upload is there all the same; so is a lost batch; half a download is an error."""

    async def story(provider: Provider) -> None:
        sim, path = provider.sim, _file(tmp_path, name, 5)
        sim.break_batches(name, "upload", "lost")
        with pytest.raises(Exception, match=r"(?i)connect|disconnect|protocol"):
            await provider.upload(path)
        [stored] = (await provider.client.files.list()).data
        assert stored.filename == path.name
        sim.break_batches(name, "create", 503, "lost")
        for _ in range(2):
            with pytest.raises(Exception, match=r"(?i)503|connect|disconnect"):
                await provider.create(stored.id)
        listed = await provider.client.batches.list()
        [batch] = listed.data if name == "openai" else listed
        assert batch.input_file_id == stored.id
        await asyncio.sleep(HOUR)
        output = (await provider.client.batches.retrieve(batch.id)).output_file_id
        sim.break_batches(name, "download", "half", "cut")
        with pytest.raises(Exception, match=r"(?i)incomplete|closed|connect|read|payload"):
            await provider.lines(output)
        with pytest.raises(ValueError, match=r"(?i)unterminated|expecting|delimiter"):
            await provider.lines(output)
        assert len(await provider.lines(output)) == 5

    _run(name, Backlog(seconds=60), story)


def test_an_outage_lasts_its_hour():
    """Every request about files and batches fails, and then none."""

    async def story(provider: Provider) -> None:
        provider.sim.batch_outage("openai", 60, HOUR)
        await provider.client.batches.list()
        await asyncio.sleep(60)
        with pytest.raises(openai.InternalServerError):
            await provider.client.batches.list()
        await asyncio.sleep(HOUR)
        await provider.client.batches.list()

    _run("openai", Backlog(), story)


def test_openai_lists_batches_in_pages(tmp_path):
    """Twenty at a time; the SDK asks for the rest."""

    async def story(provider: Provider) -> None:
        file = await provider.upload(_file(tmp_path, "openai", 1))
        made = [await provider.create(file) for _ in range(45)]
        listed = [batch.id async for batch in provider.client.batches.list()]
        assert listed == made[::-1]
        assert (await provider.client.batches.list()).has_more

    _run("openai", Backlog(), story)


def test_unknown_keys_and_operations_are_refused():
    """A key that is not known is let in nowhere."""

    async def story(provider: Provider) -> None:
        provider.sim.keys = {"other"}
        with pytest.raises(openai.AuthenticationError):
            await provider.client.batches.list()
        with pytest.raises(ValueError, match="operation must be one of"):
            provider.sim.break_batches("openai", "nonsense", 500)  # type: ignore[arg-type]
        provider.sim.reset()
        await provider.client.batches.list()

    _run("openai", Backlog(), story)


def test_the_reply_of_a_backlog():
    """What a batch answers can be said, as for live requests."""
    backlog = Backlog(reply=Reply("no"))
    assert backlog.reply.text == "no"
    assert backlog == Backlog(reply=Reply("no"))
