"""`make bench`: one table of figures, one of behaviour, and `benchmarks/results/`.

python -m benchmarks [--quick] [--sizes] [--only calls|behaviour]
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess

from benchmarks import behaviour, calls, plot, report, starts
from benchmarks.environments import ROOT
from benchmarks.trial import PATIENCE, TIMEOUT

RESULTS = ROOT / "benchmarks" / "results"
PYTHON = platform.python_version()
IMPORT_ROUNDS = 5
QUICK = calls.Effort(rounds=1, alone=20, crowd=64, streams=2)


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="one small round: does it run?")
    parser.add_argument("--sizes", action="store_true", help="only measure what pip installs")
    parser.add_argument("--only", choices=("calls", "behaviour"))
    options = parser.parse_args()
    if options.sizes:
        starts.measure_sizes()
        return
    RESULTS.mkdir(exist_ok=True)
    if options.only != "behaviour":
        _calls(quick=options.quick)
    if options.only != "calls":
        _behaviour()


def _calls(*, quick: bool) -> None:
    effort = QUICK if quick else calls.Effort()
    rounds, versions = calls.measure(effort)
    starts.imports(1 if quick else IMPORT_ROUNDS, rounds)
    starts.known_sizes(rounds)
    about = _about(versions, effort.rounds)
    print(
        f"{about}\n\n{report.figures_table(rounds)}\n\n{report.spreads_table(rounds)}", flush=True
    )
    if not quick:
        report.write_figures(rounds, RESULTS / "calls.csv")
        plot.draw(rounds, RESULTS / "bench.png")
        (RESULTS / "ABOUT.md").write_text(f"# The last `make bench`\n\n{about}\n")


def _behaviour() -> None:
    cells = behaviour.measure()
    print(f"\nSeconds to the text, the fallback's own 0.3 s; timeout {TIMEOUT:g} s, {PATIENCE:g} s")
    print(
        "of patience. As a stream: first text / all of it. `wrong` is another text than was said."
    )
    for way in ("plain", "stream"):
        print(f"\n{report.behaviour_table(cells, way)}", flush=True)
    report.write_behaviour(cells, RESULTS / "behaviour.csv")


def _about(versions: dict[str, dict[str, str]], rounds: int) -> str:
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    ).stdout.strip()
    load = " ".join(f"{each:.1f}" for each in os.getloadavg())
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    lines = [
        f"- commit {commit or 'unknown'}, medians of {rounds} interleaved rounds",
        f"- {machine}, load {load}, Python {PYTHON}",
    ]
    for whose in ("litellm", "all others"):
        match = next(
            of for name, of in versions.items() if ("litellm" in name) == (whose == "litellm")
        )
        lines.append(f"- {whose}: {', '.join(f'{k} {v}' for k, v in match.items())}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
