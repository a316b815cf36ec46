"""`python -m verification.ray`: kills actors, nodes and drivers of Ray while `map_prompts` runs.

The simulator is in this process, the cluster has two raylets on this machine, and the driver is a
process of its own. Whatever is killed, in the end each row must have its own answer once, and no
answer that a journal held may have been asked for again. Needs the extra `ray`, and Linux.

Example:
    ```sh
    python -m verification.ray --kinds actor node driver --kills 20 --rows 5000
    ```
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from langchain_resilient.batch.segments import open_journal_file
from langchain_resilient.testing import ProviderSimulator, Reply, Uniform, answer_to
from verification.kit.wall_clock import WallClock

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

KINDS = ("actor", "node", "driver")
CONCURRENCY = 32
"""Rows that an actor asks at a time."""

ROWS_PER_TASK = 50
MAX_SECONDS = 1800.0
"""Seconds that all of one kind may take."""

QUIET_SECONDS = 180.0
"""Seconds without a request after which a run hangs."""

_FILES = 20
_ACTOR = "TableAsker"
_WORKERS = 2


@dataclass
class Verdict:
    """What kills of one kind did.

    Attributes:
        kind: What was killed.
        kills: How often.
        rows: Rows of the dataset.
        requests: Requests in all.
        late: Requests for a row whose answer the journal held already.
        lost: Rows that are not in the output, or without their answer.
        doubles: Rows that are in the output more than once.
        unrecorded: Rows that are not in the journal.
        wrong: Any other defects, in words.
    """

    kind: str
    kills: int = 0
    rows: int = 0
    requests: int = 0
    late: int = 0
    lost: int = 0
    doubles: int = 0
    unrecorded: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether all held."""
        return not (self.late or self.lost or self.doubles or self.unrecorded or self.wrong)

    def __str__(self) -> str:
        return (
            f"{self.kind}: {self.kills} kills, {self.rows} rows, {self.requests} requests "
            f"({self.requests - self.rows} for answers that were not recorded yet)\n"
            f"  recorded and asked again {self.late}, lost {self.lost}, duplicates in the output "
            f"{self.doubles}, not in the journal {self.unrecorded}; "
            f"wrong: {'; '.join(self.wrong) or 'nothing'}"
        )


def judge(
    verdict: Verdict,
    requests: Iterable[tuple[str, float]],
    recorded: Mapping[str, float],
    output: Iterable[tuple[str, str | None]],
) -> None:
    """Count what is not as it must be.

    Args:
        verdict: Gets the counts; knows the rows.
        requests: Prompts and moments, as the simulator saw them.
        recorded: When each prompt's answer was recorded, on the same clock.
        output: Prompts and answers of the rows that were written.
    """
    prompts = {prompt_of(number) for number in range(verdict.rows)}
    for prompt, moment in requests:
        verdict.requests += 1
        verdict.late += moment > recorded.get(prompt, float("inf"))
    written = list(output)
    counts = Counter(prompt for prompt, _ in written)
    answered = {prompt for prompt, answer in written if answer == answer_to(prompt)}
    verdict.lost += len(prompts - answered)
    verdict.doubles += sum(number - 1 for number in counts.values())
    verdict.unrecorded += len(prompts - recorded.keys())
    if strangers := counts.keys() - prompts:
        verdict.wrong.append(f"{len(strangers)} rows of the output are no rows of the input")


def prompt_of(number: int) -> str:
    """The prompt of a row."""
    return f"What is {number} in words?"


# -- the job --------------------------------------------------------------------------------------


def run_driver(settings: dict[str, Any]) -> None:
    """Be the driver: what a user's script is."""
    import ray  # an extra

    from langchain_resilient import ResilientChatModel, Target  # only here
    from langchain_resilient.ray import map_prompts  # only here

    ray.init(address=settings["address"], log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    target = Target("openai:m", base_url=settings["base_url"], api_key="any")
    ds = ray.data.read_parquet(settings["input"], override_num_blocks=_FILES)
    answered = map_prompts(
        ds,
        ResilientChatModel(targets=[target], hedge=None),
        id="id",
        journal=settings["journal"],
        workers=_WORKERS,
        max_concurrency=CONCURRENCY,
        rows_per_task=ROWS_PER_TASK,
        ray_remote_args={"resources": {"askers": 1}, "num_cpus": 1},
        timeout=None,
    )
    answered.write_parquet(settings["output"], mode="overwrite")


class Job:
    """A cluster, a simulator, a driver, and somebody who kills."""

    def __init__(
        self,
        folder: Path,
        sim: ProviderSimulator,
        clock: WallClock,
        kind: str,
        *,
        rows: int,
        seed: int,
    ) -> None:
        self._folder = folder
        self._sim = sim
        self._clock = clock
        self._random = Random(seed)
        self._cluster: Any = None
        self._second: Any = None
        self._driver: subprocess.Popen[bytes] | None = None
        self.verdict = Verdict(kind, rows=rows)
        # A folder of segments where machines come and go, a file where there is one machine.
        self._journal = folder / ("journal" if kind == "node" else "journal.db")
        self._settings = {
            "base_url": sim.base_url("openai"),
            "input": str(folder / "input"),
            "output": str(folder / "output"),
            "journal": str(self._journal),
        }

    def run(self, kills: int) -> Verdict:
        """Kill so many times over the rows, let it end, and judge."""
        self._write_input()
        self._start_cluster()
        try:
            deadline = time.monotonic() + MAX_SECONDS
            self._start_driver()
            for number in range(kills):
                part = self.verdict.rows / (kills + 1)
                moment = part * (number + self._random.uniform(0.5, 1.0))
                if not self._wait(moment, deadline):
                    break
                self._kill()
            self._finish(deadline)
        finally:
            self._stop()
        self._judge()
        return self.verdict

    def _write_input(self) -> None:
        import pyarrow as pa  # comes with Ray Data
        import pyarrow.parquet as pq  # as above

        folder = self._folder / "input"
        folder.mkdir()
        for part in range(_FILES):
            ids = list(range(part, self.verdict.rows, _FILES))
            table = pa.table({"id": ids, "prompt": [prompt_of(number) for number in ids]})
            pq.write_table(table, folder / f"{part:02}.parquet")

    # -- processes --------------------------------------------------------------------------------

    def _start_cluster(self) -> None:
        from ray.cluster_utils import Cluster  # an extra

        # Of a node that is killed all actors are: otherwise one elsewhere would do all the rest.
        both = self.verdict.kind != "node"
        self._node = _node(cpus=2, askers=_WORKERS - both)
        head = {**_node(cpus=3, askers=int(both)), "include_dashboard": False}
        self._cluster = Cluster(initialize_head=True, connect=False, head_node_args=head)
        self._second = self._cluster.add_node(**self._node)
        self._settings["address"] = self._cluster.address

    def _start_driver(self) -> None:
        command = [sys.executable, "-m", "verification.ray", "--driver", json.dumps(self._settings)]
        with (self._folder / "driver.log").open("ab") as log:
            self._driver = subprocess.Popen(command, stdout=log, stderr=log)  # ours

    def _wait(self, moment: float, deadline: float) -> bool:
        """Wait until so many rows are recorded, and something can be killed; False if it ends."""
        quiet_since, seen = time.monotonic(), -1
        while True:
            assert self._driver is not None  # started
            if self._driver.poll() is not None:
                self.verdict.wrong.append(f"the driver ended with {self._driver.returncode}")
                return False
            now, count = time.monotonic(), self._sim.count()
            if count != seen:
                quiet_since, seen = now, count
            if now > deadline or now - quiet_since > QUIET_SECONDS:
                self.verdict.wrong.append("a run hangs")
                return False
            if len(self._recorded()) >= moment and (
                self.verdict.kind == "driver" or self._victims()
            ):
                return True
            time.sleep(0.3)  # looking reads the whole journal

    def _victims(self) -> list[int]:
        """The actors that may be killed: of a node, those of the second one."""
        nodes = [self._second]
        if self.verdict.kind != "node":
            nodes.append(self._cluster.head_node)
        return [pid for node in nodes for pid in _children(_raylet(node)) if _is_actor(pid)]

    def _kill(self) -> None:
        if self.verdict.kind == "actor":
            os.kill(self._random.choice(self._victims()), signal.SIGKILL)
        elif self.verdict.kind == "driver":
            assert self._driver is not None  # started
            self._driver.kill()
            self._driver.wait()
            self._start_driver()
        else:
            raylet = _raylet(self._second)
            for pid in [*_children(raylet), raylet]:
                os.kill(pid, signal.SIGKILL)
            self._cluster.remove_node(self._second, allow_graceful=False)
            self._second = self._cluster.add_node(**self._node)
        self.verdict.kills += 1

    def _finish(self, deadline: float) -> None:
        assert self._driver is not None  # started
        try:
            code = self._driver.wait(max(1.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.verdict.wrong.append("the last run did not end")
            return
        if code != 0:
            self.verdict.wrong.append(f"the last run ended with {code}")

    def _stop(self) -> None:
        if self._driver is not None and self._driver.poll() is None:
            self._driver.kill()
            self._driver.wait()
        self._cluster.shutdown()

    # -- what is left -----------------------------------------------------------------------------

    def _recorded(self) -> dict[str, float]:
        """When each prompt's answer was recorded, in seconds since 1970."""
        if not self._journal.exists():
            return {}
        try:
            file = open_journal_file(self._journal, lock_timeout=60.0, create=False)
        except Exception:  # noqa: BLE001  # nothing is in it yet
            return {}
        try:
            rows = file.select("SELECT text, recorded FROM items WHERE answer IS NOT NULL")
            return {row["text"]: row["recorded"] for row in rows}
        finally:
            file.close()

    def _judge(self) -> None:
        import pyarrow.parquet as pq  # comes with Ray Data

        # The journal has the wall's clock, which may be set; the simulator's is monotonic.
        time_of = self._clock.time_of
        seen = [(r.body["messages"][-1]["content"], time_of(r.at)) for r in self._sim.requests]
        output = []
        if (self._folder / "output").is_dir():
            table = pq.read_table(self._folder / "output")
            output = list(
                zip(table["prompt"].to_pylist(), table["answer"].to_pylist(), strict=True)
            )
        judge(self.verdict, seen, self._recorded(), output)
        if not self.verdict.good:
            log = (self._folder / "driver.log").read_text(errors="replace")
            sys.stderr.write(log[-3000:])


def _node(cpus: int, askers: int) -> dict[str, Any]:
    resources = {"askers": askers} if askers else {}
    return {"num_cpus": cpus, "resources": resources, "object_store_memory": 150_000_000}


def _raylet(node: Any) -> int:
    return int(node.all_processes["raylet"][0].process.pid)


def _children(parent: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(fields[1]) == parent and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def _is_actor(pid: int) -> bool:
    try:
        return _ACTOR in Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return False


def kill(kind: str, kills: int, rows: int, seed: int) -> Verdict:
    """Run one dataset with kills of one kind.

    Args:
        kind: One of `KINDS`.
        kills: How many.
        rows: Rows of the dataset.
        seed: Seeds the moments.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        ProviderSimulator(seed, remember=10**6) as sim,
        WallClock() as clock,
    ):
        sim.script("*", then=Reply(first_text=Uniform(0.1, 0.5)))
        return Job(Path(folder), sim, clock, kind, rows=rows, seed=seed).run(kills)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 1 if anything is wrong.
    """
    parser = argparse.ArgumentParser(prog="python -m verification.ray")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--kills", type=int, default=20, help="of each kind")
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--driver", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.driver is not None:
        run_driver(json.loads(options.driver))
        return 0
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    good = True
    for kind in options.kinds:
        begin = time.monotonic()
        verdict = kill(kind, options.kills, options.rows, options.seed)
        good = good and verdict.good and verdict.kills == options.kills
        sys.stdout.write(f"{verdict}\n  seed {options.seed}, {time.monotonic() - begin:.0f} s\n")
        sys.stdout.flush()
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
