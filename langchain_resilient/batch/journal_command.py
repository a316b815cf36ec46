"""`langchain-resilient journal show|export`: what a journal holds."""

from __future__ import annotations

import csv
import json
import os
import sys
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from langchain_resilient.batch.journal_file import JournalFile

_PATIENCE = 10.0

_SUMMARY = """
SELECT count(DISTINCT position) AS items, count(answer) AS answers, count(error) AS failed,
  count(DISTINCT CASE WHEN answer IS NOT NULL THEN position END) AS done,
  sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens,
  min(recorded) AS first, max(recorded) AS last FROM items
"""
_TARGETS = """
SELECT target, count(*) AS answers, sum(input_tokens) AS input_tokens,
  sum(output_tokens) AS output_tokens
FROM items WHERE answer IS NOT NULL GROUP BY target ORDER BY answers DESC, target
"""
_FAILED = """
SELECT position, error, recorded FROM items WHERE error IS NOT NULL ORDER BY position, recorded
"""
_ALL = "SELECT * FROM items ORDER BY position, recorded"

_NUMBERS = ("input_tokens", "output_tokens", "recorded")
_COLUMNS: tuple[str, ...] = ("position", "answer", "error", "target", *_NUMBERS, "key")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's subcommands."""
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    show = actions.add_parser("show", help="how much is done, by whom, and what failed")
    show.add_argument("file", metavar="FILE", type=Path, help="the journal")
    show.add_argument("--failed", action="store_true", help="list the failures")
    show.add_argument("--json", action="store_true", help="as JSON")
    show.set_defaults(action=_show)
    export = actions.add_parser(
        "export", help="all its answers and failures, by position (from 0), as JSON lines or CSV"
    )
    export.add_argument("file", metavar="FILE", type=Path, help="the journal")
    export.add_argument("-o", "--output", default="-", metavar="OUT",
                        help="a .jsonl or .csv file; standard output unless given")  # fmt: skip
    export.set_defaults(action=_export)


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Returns:
        The exit code: 0.

    Raises:
        JournalError: If the file is no journal or cannot be read.
        OSError: If the output cannot be written.
    """
    from langchain_resilient.batch.journal_file import JournalFile  # noqa: PLC0415  # import is slow

    file = JournalFile(args.file, patience=_PATIENCE, create=False)
    try:
        args.action(args, file)
    finally:
        file.close()
    return 0


# -- show -----------------------------------------------------------------------------------------


def _show(args: argparse.Namespace, file: JournalFile) -> None:
    told: dict[str, Any] = dict(next(file.select(_SUMMARY)))
    for name in ("first", "last"):
        told[name] = _moment(told[name])
    told["targets"] = [dict(row) for row in file.select(_TARGETS)]
    if args.json:
        if args.failed:
            told["failures"] = [_timed(row) for row in file.select(_FAILED)]
        sys.stdout.write(json.dumps(told) + "\n")
        return
    sys.stdout.write(_as_text(told))
    if args.failed:
        for row in file.select(_FAILED):
            sys.stdout.write(f"{row['position']}: {' '.join(row['error'].split())}\n")


def _as_text(told: dict[str, Any]) -> str:
    lines = [f"{told['items']} items, {told['done']} answered, {told['failed']} failed"]
    if told["answers"] > told["done"]:
        more = told["answers"] - told["done"]
        lines[0] += f"; {more} more answers to prompts or parameters that were changed"
    lines += [
        f"  {row['target'] or 'unknown'}: {row['answers']} answers{_tokens(row)}"
        for row in told["targets"]
    ]
    if told["first"]:
        lines.append(f"from {told['first']} to {told['last']}")
    return "".join(f"{line}\n" for line in lines)


def _tokens(row: dict[str, Any]) -> str:
    if row["input_tokens"] is None:
        return ""
    return f", {row['input_tokens']} tokens in, {row['output_tokens']} out"


def _moment(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _timed(row: Any) -> dict[str, Any]:
    return {**dict(row), "recorded": _moment(row["recorded"])}


# -- export ---------------------------------------------------------------------------------------


def _export(args: argparse.Namespace, file: JournalFile) -> None:
    with closing(file.select(_ALL)) as found, _output(args.output) as out:
        rows = map(_exported, found)
        if Path(args.output).suffix.lower() == ".csv":
            table = csv.DictWriter(out, _COLUMNS, extrasaction="ignore")
            table.writeheader()
            table.writerows(rows)
        else:
            out.writelines(json.dumps(row) + "\n" for row in rows)


def _exported(row: Any) -> dict[str, Any]:
    """One row, with the answer's text; and the whole message for who needs more."""
    from langchain_resilient.batch.stored import decode  # noqa: PLC0415  # import is slow

    found = {name: _timed(row)[name] for name in _COLUMNS}
    if row["answer"] is not None:
        message = decode(row["answer"])
        found["answer"] = str(message.text)
        found["message"] = json.loads(row["answer"])
    return {name: value for name, value in found.items() if value is not None}


@contextmanager
def _output(name: str) -> Iterator[TextIO]:
    if name == "-":
        yield sys.stdout
        return
    # Half of a surrogate pair is not worth losing an export for.
    with open(  # pathlib's takes no opener
        name, "w", encoding="utf-8", errors="replace", newline="", opener=_for_its_user
    ) as file:
        yield file


def _for_its_user(path: str, flags: int) -> int:
    """Make a file private, as the journal is; a link that the user named is followed."""
    return os.open(path, flags, 0o600)
