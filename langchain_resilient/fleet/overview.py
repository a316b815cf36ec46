"""What a fleet's server holds, for people: `langchain-resilient fleet redis://...`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_resilient.fleet.link import Link, patient

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langchain_resilient.fleet.options import Shared

_MINUTE = 60

_NAMED = 20
"""Processes that are named; of more, how many they are."""


def overview(shared: Shared) -> str:
    """Describe the processes, limits, caps and troubles of a namespace, a line each.

    Raises:
        MissingExtraError: If redis-py is not installed.
        ConnectionError: If the server cannot be used; says why.
    """
    link = Link(patient(shared))
    link.check()
    client = link.client()
    try:
        lines = [f"{shared}"]
        names = sorted(client.scan_iter(f"{link.prefix}:*", count=1000))
        clock = client.time()
        if isinstance(clock, dict):  # of each server of a cluster
            clock = max(clock.values())
        now = clock[0] + clock[1] / 1e6
        members = client.zrange(f"{link.prefix}:{{health}}:members", 0, -1, withscores=True)
        if members:
            lines.append(_members(members, now))
        for name in names:
            if name.startswith(f"{link.prefix}:limit:") and name.endswith("}"):
                users = client.zcard(f"{name}:members")
                lines.append(_limit(client.hgetall(name), users, now))
            elif name.startswith(f"{link.prefix}:cap:"):
                lines.append(_cap(client.hgetall(name), now))
            elif name == f"{link.prefix}:{{health}}":
                lines += _news(client.hgetall(name), now)
    finally:
        client.close()
    return "\n".join(lines if len(lines) > 1 else [*lines, "nothing is shared here"])


def _members(members: list[tuple[str, float]], now: float) -> str:
    """How many there are, and the first of them with when they last asked."""
    seen = sorted((max(0.0, now - at), name) for name, at in members)
    named = ", ".join(f"{name} ({ago:.0f} s ago)" for ago, name in seen[:_NAMED])
    more = f", and {len(seen) - _NAMED} more" if len(seen) > _NAMED else ""
    count = f"{len(seen)} process{'' if len(seen) == 1 else 'es'} asked lately"
    return f"fleet  {count}: {named}{more}"


def _limit(state: dict[str, str], members: int, now: float) -> str:
    number = {name: float(value) for name, value in state.items() if name != "label"}
    limits = [
        f"{_MINUTE * number[rate]:,.0f} {what}"
        for rate, what in (("rate_r", "requests"), ("rate_t", "tokens"))
        if number.get(rate)
    ]
    text = f"limit  {state.get('label', '?')}: {' and '.join(limits) or 'none known'}"
    text += " a minute" if limits else ""
    text += f"; {members} process{'' if members == 1 else 'es'}"
    text += f"; {number.get('sent_r', 0):,.0f} turns; {number.get('refusals', 0):.0f} refusals"
    if number.get("factor", 1) < 1:
        text += f"; at {number['factor']:.0%} of the rate"
    if number.get("paused", 0) > now:
        text += f"; paused for {number['paused'] - now:.0f} s"
    return text


def _cap(state: dict[str, str], now: float) -> str:
    dollars, _, window = state.get("cap", "0|0").partition("|")
    oldest = now - float(window) * 61 / 60 if float(window) else 0.0
    step = float(window) / 60 or 1.0
    spent = leased = 0.0
    holders = 0
    for name, value in state.items():
        kind, _, rest = name.partition(":")
        if kind == "at" and (not float(window) or int(rest) * step >= oldest - step):
            spent += float(value)
        elif kind == "lease":
            leased += float(value.partition("|")[0])
            holders += 1
    span = f"{float(window):,.0f} s" if float(window) else "all"
    label = state.get("label") or "without a name"
    return (
        f"cap    {label}: ${spent:.4g} of ${float(dollars):g} spent "
        f"in {span}; ${leased:.4g} leased to {holders} process{'' if holders == 1 else 'es'}"
    )


def _news(state: dict[str, Any], now: float) -> Iterator[str]:
    said = {"account": "an account is out", "limited": "a key is limited", "trip": "tripped"}
    for field, value in sorted(state.items()):
        kind, _, name = field.partition(":")
        if kind not in said:
            continue
        _, ends, _, detail = value.split("|", 3)
        if float(ends) > now:
            what, _, label = detail.partition("|")
            yield (
                f"health {label or name[:8]}: {said[kind]}{f' ({what})' if what else ''}; "
                f"for {float(ends) - now:.0f} s"
            )
