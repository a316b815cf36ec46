"""`langchain-resilient simulate`: a policy over the user's own recorded latencies."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from math import inf, isinf
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langchain_resilient.simulation.engine import Rules
    from langchain_resilient.simulation.recordings import Recording
    from langchain_resilient.simulation.run import Call, Run, Scenario
    from langchain_resilient.simulation.sizes import SizedRequest

MIN_RATE = 0.001
MAX_TIMEOUT = 3600.0
_PERCENTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "p99.9": 0.999}

DESCRIPTION = """\
Run a hedging policy over recorded latencies, in virtual time, beside no hedging (the first target
alone) and the best possible: the least that any policy could reach at the same extra load, for each
percentile by itself, if it knows no latency beforehand.

Each simulated request draws its latencies from the recording, independently for each target.
The file is CSV: columns "target,seconds", or one column a target. Latencies are seconds to the
first text; an empty cell, "inf" and "timeout" mean that no answer came. Beside "target,seconds"
there may be "tokens" (of the prompt) and "effort" (of reasoning): then the policy knows them, as it
does in real calls, and the report says what that is worth. Instead of the best possible it shows
the best with one delay for all requests, long and short; a policy that knows sizes may beat it."""

_ROWS = ("policy", "sizes_unknown", "no_hedging", "best_possible", "best_one_delay")
"""Of both tables; those that are not there are left out."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add = parser.add_argument
    add("--trace", required=True, type=Path, metavar="FILE", help="the recorded latencies, CSV")
    add("-t", "--target", action="append", metavar="NAME",
        help="a target of the chain; without any, all of the file's, in its order")  # fmt: skip
    add("--budget", type=float, metavar="SHARE", help="hedges as a share of requests")
    add("--delay", type=float, metavar="SECONDS", help="a fixed delay of the hedges")
    add("--max-parallel", type=int, metavar="N", help="attempts at the same time, a request")
    add("--timeout", type=float, default=60.0, metavar="SECONDS",
        help="the deadline (default %(default)g)")  # fmt: skip
    add("--rate", type=float, default=20.0, metavar="N",
        help="requests a second (default %(default)g)")  # fmt: skip
    add("--requests", type=int, default=20_000, metavar="N", help="how many (default %(default)d)")
    add("--seed", type=int, default=0, help="of all randomness (default %(default)d)")
    add("--price", action="append", type=_price, default=[], metavar="TARGET=DOLLARS",
        help="what one request costs there; once for every target")  # fmt: skip
    add("--json", action="store_true", help="as JSON")


def _price(text: str) -> tuple[str, float]:
    name, _, dollars = text.rpartition("=")
    try:
        price = float(dollars)
    except ValueError:
        price = -1.0
    if not name or not 0 <= price < inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form TARGET=DOLLARS")
    return name, price


def simulate(args: argparse.Namespace) -> str:
    """Run the command.

    Returns:
        What to print.

    Raises:
        ValueError: If an option or the file is wrong.
        OSError: If the file cannot be read.
        MissingSimulateExtraError: If the library for virtual time is not installed.
    """
    from langchain_resilient.simulation.recordings import read_recordings  # noqa: PLC0415
    from langchain_resilient.simulation.run import run  # noqa: PLC0415

    # Virtual time cannot jump over a whole day.
    if not MIN_RATE <= args.rate < inf or args.requests < 1:
        raise ValueError(f"--rate must be at least {MIN_RATE:g}, --requests at least 1")
    recorded = _chosen(read_recordings(args.trace), args)
    prices = _prices(args.price, recorded)
    scenario = _scenario(recorded, args)
    done = run(scenario, args.seed)
    comparison = _compare(done, prices)
    if scenario.sizes is not None:
        hidden = replace(scenario, sizes=replace(scenario.sizes, hidden=True))
        comparison |= _compare_sizes(done, run(hidden, args.seed))
    if args.json:
        return json.dumps(comparison, allow_nan=False) + "\n"
    return _as_text(comparison, recorded, args)


def _scenario(recorded: Mapping[str, Sequence[Recording]], args: argparse.Namespace) -> Scenario:
    """What is run: requests as they were recorded, of their sizes where those are known."""
    from langchain_resilient.engine.time_model import UNKNOWN  # noqa: PLC0415
    from langchain_resilient.simulation.latency import Recorded  # noqa: PLC0415
    from langchain_resilient.simulation.recordings import fit  # noqa: PLC0415
    from langchain_resilient.simulation.run import Scenario  # noqa: PLC0415
    from langchain_resilient.simulation.sizes import RecordedSizes  # noqa: PLC0415
    from langchain_resilient.simulation.targets import Script  # noqa: PLC0415

    profiles = [request.profile for requests in recorded.values() for request in requests]
    sizes = None
    if any(profile is not UNKNOWN for profile in profiles):
        profiles.sort(key=lambda profile: profile.prompt_tokens)
        sizes = RecordedSizes(profiles, [fit(requests) for requests in recorded.values()])
    models = sizes.models if sizes is not None else [fit([])] * len(recorded)
    targets = tuple(
        Script(name, Recorded([x.seconds / model.scale(x.profile) for x in requests]))
        for (name, requests), model in zip(recorded.items(), models, strict=True)
    )
    return Scenario(targets, _rules(args), args.rate, args.requests, sizes=sizes)


def _chosen(
    recorded: dict[str, list[Recording]], args: argparse.Namespace
) -> dict[str, list[Recording]]:
    unknown = [name for name in args.target or () if name not in recorded]
    if unknown:
        raise ValueError(
            f"{args.trace}: no latency of {', '.join(unknown)}; there are {', '.join(recorded)}"
        )
    return {name: recorded[name] for name in args.target or recorded}


def _prices(given: Sequence[tuple[str, float]], targets: Mapping[str, Any]) -> dict[str, float]:
    prices = dict(given)
    unknown = [name for name in prices if name not in targets]
    missing = [name for name in targets if name not in prices]
    if unknown or (prices and missing):
        names = f"for {', '.join(unknown)}, which is no target" if unknown else "for some targets"
        more = f"; {', '.join(missing)} has none" if missing else ""
        raise ValueError(f"--price is given {names}{more}")
    return prices


def _rules(args: argparse.Namespace) -> Rules:
    from langchain_resilient.policies import Hedge  # noqa: PLC0415
    from langchain_resilient.simulation.engine import Rules  # noqa: PLC0415

    if not 0 < args.timeout <= MAX_TIMEOUT:
        raise ValueError(f"--timeout must be over 0 and at most {MAX_TIMEOUT:g} seconds")
    options = {"budget": args.budget, "delay": args.delay, "max_parallel": args.max_parallel}
    hedge = Hedge(**{name: value for name, value in options.items() if value is not None})
    return Rules(deadline=args.timeout, hedge=hedge)


def _compare(done: Run, prices: dict[str, float]) -> dict[str, Any]:
    """Put the policy's figures beside no hedging and the best possible."""
    from langchain_resilient.simulation.baselines import Samples  # noqa: PLC0415
    from langchain_resilient.simulation.oracle import quantile  # noqa: PLC0415

    scenario = done.scenario
    requests, first = scenario.requests, scenario.targets[0].name
    deadline = scenario.rules.deadline or inf
    sizes = {call.number: call.size for call in done.calls}
    samples = Samples(scenario.targets, done.seed, deadline, sizes)
    taken = sorted(call.latency for call in done.calls)
    alone = sorted(samples.alone(call.number, call.arrived) for call in done.calls)
    extra = sum(done.sends.values()) / requests - 1
    # The bound knows no sizes.
    bound = "best_possible" if scenario.sizes is None else "best_one_delay"
    fields = {
        "policy": {name: quantile(taken, p) for name, p in _PERCENTILES.items()},
        "no_hedging": {name: quantile(alone, p) for name, p in _PERCENTILES.items()},
        bound: _best(done.calls, done, samples, extra),
    }
    for name, latencies in (("policy", taken), ("no_hedging", alone)):
        fields[name]["unanswered"] = sum(map(isinf, latencies)) / requests
    fields["policy"]["extra_load"] = fields[bound]["extra_load"] = extra
    fields["no_hedging"]["extra_load"] = 0.0
    if prices:
        dollars = sum(prices[name] * sent for name, sent in done.sends.items())
        fields["policy"]["dollars_per_request"] = dollars / requests
        fields["no_hedging"]["dollars_per_request"] = prices[first]
    return {
        "targets": done.sends,
        "requests": requests,
        "seed": done.seed,
        "trace": done.trace.digest,
        **{name: _finite(figures) for name, figures in fields.items()},
    }


def _compare_sizes(done: Run, unknowing: Run) -> dict[str, Any]:
    """Put a policy that knows the sizes beside one that does not, for short and long prompts."""
    from langchain_resilient.simulation.baselines import Samples  # noqa: PLC0415
    from langchain_resilient.simulation.oracle import quantile  # noqa: PLC0415
    from langchain_resilient.simulation.sizes import LENGTH_CLASSES  # noqa: PLC0415

    scenario = done.scenario
    sizes = {call.number: call.size for call in done.calls}
    deadline = scenario.rules.deadline or inf
    samples = Samples(scenario.targets, done.seed, deadline, sizes)
    classes = {}
    for _, label in LENGTH_CLASSES:
        calls, others = (
            [call for call in run.calls if call.size.label == label] for run in (done, unknowing)
        )
        if not calls:
            continue
        extra = sum(len(call.attempts) for call in calls) / len(calls) - 1
        p99 = {
            "policy": quantile(sorted(call.latency for call in calls), 0.99),
            "sizes_unknown": quantile(sorted(call.latency for call in others), 0.99),
            "no_hedging": quantile(
                sorted(samples.alone(call.number, call.arrived) for call in calls), 0.99
            ),
            "best_one_delay": _best(calls, done, samples, extra)["p99"],
        }
        classes[label] = _finite(p99)
    taken = sorted(call.latency for call in unknowing.calls)
    unknown = {name: quantile(taken, p) for name, p in _PERCENTILES.items()}
    unknown["unanswered"] = sum(map(isinf, taken)) / len(taken)
    unknown["extra_load"] = sum(unknowing.sends.values()) / scenario.requests - 1
    tokens = {
        "policy": _extra_tokens(done, sizes),
        "sizes_unknown": _extra_tokens(unknowing, sizes),
    }
    return {"sizes_unknown": _finite(unknown), "p99_by_length": classes, "extra_tokens": tokens}


def _extra_tokens(done: Run, sizes: Mapping[int, SizedRequest]) -> float:
    """The share of prompt tokens that were sent beyond once a request."""
    tokens = [sizes[call.number].profile.prompt_tokens for call in done.calls]
    sent = sum(n * len(call.attempts) for n, call in zip(tokens, done.calls, strict=True))
    return sent / max(1, sum(tokens)) - 1


def _best(calls: Sequence[Call], done: Run, samples: Any, load: float) -> dict[str, float]:
    """Compute the least possible percentiles, over all targets that a second request may go to."""
    from langchain_resilient.simulation.oracle import Sampled  # noqa: PLC0415

    bounds = [
        Sampled(
            [samples.draw(call.number, call.arrived, 0) for call in calls],
            [samples.draw(call.number, call.arrived, *other) for call in calls],
        )
        for other in [(position, 0) for position in range(1, len(done.scenario.targets))]
        or [(0, 1)]
    ]
    return {name: min(b.best(p, load) for b in bounds) for name, p in _PERCENTILES.items()}


def _finite(figures: dict[str, float]) -> dict[str, float | None]:
    """Say None for never: JSON knows no infinity."""
    return {name: None if isinf(value) else value for name, value in figures.items()}


# -- as text --------------------------------------------------------------------------------------


def _as_text(
    fields: dict[str, Any], recorded: dict[str, list[Recording]], args: argparse.Namespace
) -> str:
    lines = [
        f"{name}: {len(requests)} latencies, {sum(isinf(x.seconds) for x in requests)} never "
        f"answered; asked {fields['targets'][name]} times"
        for name, requests in recorded.items()
    ]
    lines.append(f"{args.requests} requests, {args.rate:g} a second, seed {args.seed}\n")
    priced = "dollars_per_request" in fields["policy"]
    heads = [*(f"{name:>9}" for name in _PERCENTILES), f"{'unanswered':>12}{'extra load':>12}"]
    lines.append(f"{'':14}{''.join(heads)}" + f"{'$/request':>12}" * priced)
    lines += [
        _line(row.replace("_", " "), fields[row], priced=priced) for row in _ROWS if row in fields
    ]
    if "p99_by_length" in fields:
        lines += ["", *_worth(fields)]
    return "\n".join(lines) + "\n"


def _worth(fields: dict[str, Any]) -> list[str]:
    """Say what knowing the sizes is worth: p99 by the prompt's length, and the tokens it costs."""
    classes, tokens = fields["p99_by_length"], fields["extra_tokens"]
    heads = "".join(f"{label:>14}" for label in classes)
    lines = [f"{'p99 by length':14}{heads}{'extra tokens':>14}"]
    rows = [row for row in _ROWS if all(row in p99 for p99 in classes.values())]
    for row in rows:
        cells = "".join(f"{_seconds(p99[row]):>14}" for p99 in classes.values())
        line = f"{row.replace('_', ' '):14}{cells}{_percent(tokens.get(row)):>14}"
        lines.append(line.rstrip())
    return lines


def _line(name: str, figures: dict[str, float | None], *, priced: bool) -> str:
    cells = [f"{name:14}"]
    cells += [f"{_seconds(figures[p]):>9}" for p in _PERCENTILES]
    cells += [f"{_percent(figures.get(key)):>12}" for key in ("unanswered", "extra_load")]
    dollars = figures.get("dollars_per_request")
    if priced:
        cells.append(f"{'' if dollars is None else f'{dollars:.6f}':>12}")
    return "".join(cells).rstrip()


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.2f} s"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"
