"""`langchain-resilient journal show|export`: what a journal holds."""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import os
import signal
import sys
import time
from contextlib import aclosing, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from langchain_resilient.batch.files import FORMATS, PromptFile, PromptRow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langchain_core.messages import AIMessage

    from langchain_resilient.batch.journal import Journal, JournalFile
    from langchain_resilient.batch.mixin import BatchingChatModel


OK, FAILED, INTERRUPTED = 0, 1, 130


MAX_LISTED = 100


_MAX_REASON_LENGTH = 300


DESCRIPTION = """\
Answer every prompt of a file, many at a time, and write the answers in the order of the prompts.

FILE holds JSON lines (a string, {"prompt": "..."} or {"messages": [...]}; other fields are passed
through to the answers), one prompt a line (.txt), or CSV with a column of prompts. "-" is standard
input. Each row of the output is a JSON line with the prompt's other fields and "answer", "target"
and "usage", or "error". While the batch runs the output is called OUT.part.

Each answer is kept in a journal, OUT.journal unless told otherwise, as soon as it is there. After a
crash, or when some prompts failed, the same command sends only what is missing. The journal stays;
remove it to ask everything anew.

Exit codes: 0 all answered, 1 some prompts failed, 2 wrong command, settings or file,
130 interrupted."""


def add_batch_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options, but for those that every command with a model has."""
    add = parser.add_argument
    add("file", metavar="FILE", help='the prompts; "-" reads standard input')
    add("-o", "--output", default="-", metavar="OUT",
        help="the answers, as JSON lines; standard output unless given")  # fmt: skip
    add("--format", choices=FORMATS, help="of FILE; else what its name ends in")
    add("--column", metavar="NAME", help='of a CSV file; else its only one, or "prompt"')
    add("--max-concurrency", type=_count, default=64, metavar="N",
        help="prompts at a time (default %(default)d)")  # fmt: skip
    add("--journal", metavar="FILE", help="where answers are kept (default OUT.journal)")
    add("--no-journal", action="store_true", help="keep none")
    add("-q", "--quiet", action="store_true", help="tell of failures only")


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def check_batch_arguments(args: argparse.Namespace) -> None:
    """Find what is wrong with the options before anything is opened.

    Raises:
        ValueError: If they do not fit each other.
    """
    if args.journal and args.no_journal:
        raise ValueError("--journal and --no-journal exclude each other")
    if args.column and args.format not in (None, "csv"):
        raise ValueError(f"--column is for CSV, not for --format {args.format}")
    names = [args.file, args.output, _journal_name(args)]
    files = [Path(name).absolute() for name in names if name not in (None, "-")]
    if len(set(files)) < len(files):
        raise ValueError("the prompts, the answers and the journal must be different files")
    if Path(args.output).suffix.lower() in (".csv", ".txt"):
        raise ValueError(f"answers are JSON lines: call the output .jsonl, not {args.output}")


def run_batch_command(args: argparse.Namespace, llm: BatchingChatModel) -> int:
    """Run the command.

    Returns:
        The exit code.

    Raises:
        ValueError: If a row is no prompt; nothing has been sent then.
        OSError: If a file cannot be read or written.
        JournalError: If the journal cannot be used.
    """
    with PromptFile(args.file, args.format, args.column) as rows:
        total = sum(1 for _ in rows)  # a bad row is found before anything is sent
        batch = _BatchRun(args, llm, _PromptRows(rows, args.system, total))
        try:
            asyncio.run(batch.run())
        except (KeyboardInterrupt, asyncio.CancelledError):
            batch.tell("interrupted")
            return INTERRUPTED
        except BaseException:
            if batch.done:  # a full disk, say: what is done is kept all the same
                batch.tell("stopped")
            raise
    batch.tell()
    return FAILED if batch.failed else OK


class _PromptRows:
    """What the rows ask, with what is known of those under way; its length is that of the file."""

    def __init__(self, rows: PromptFile, system: str | None, total: int) -> None:
        self._rows = rows
        self._system = [("system", system)] if system else []
        self._total = total
        self._open: dict[int, PromptRow] = {}

    def __len__(self) -> int:
        return self._total

    def __iter__(self) -> Iterator[list[Any]]:
        for index, row in enumerate(self._rows):
            # The runner reads a row only when a worker is free: few are open at a time.
            self._open[index] = row
            yield self._messages(row)

    def _messages(self, row: PromptRow) -> list[Any]:
        if isinstance(row.prompt, str):
            return [*self._system, ("human", row.prompt)]
        own = any(message.type == "system" for message in row.prompt)
        return row.prompt if own else [*self._system, *row.prompt]

    def close(self, index: int) -> PromptRow:
        """Give the row of a prompt that has ended."""
        return self._open.pop(index)


@dataclass
class _BatchRun:
    """One run of the command, and what it tells in the end."""

    args: argparse.Namespace
    llm: BatchingChatModel
    prompts: _PromptRows
    journal: Journal | None = None
    done: int = 0
    failed: int = 0
    reasons: list[str] = field(default_factory=list)
    begin: float = field(default_factory=time.monotonic)

    async def run(self) -> None:
        from langchain_resilient.batch.files import AnswerFile  # noqa: PLC0415  # locks files
        from langchain_resilient.batch.journal import Journal  # noqa: PLC0415  # import is slow

        # A killed script keeps what is done and closes its streams as Ctrl-C does.
        task = asyncio.current_task()
        if task is not None and sys.platform != "win32":
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        if (name := _journal_name(self.args)) is not None:
            self.journal = Journal(name)
        with AnswerFile(self.args.output) as answers:
            async with aclosing(self._results()) as results:
                async for index, result in results:
                    answers.put(index, self._line(self.prompts.close(index), result))
            answers.finish()

    def _results(self) -> Any:
        return self.llm.amap(
            self.prompts,
            max_concurrency=self.args.max_concurrency,
            return_exceptions=True,
            # tqdm is an extra, and a command does not fail for want of a bar.
            progress=sys.stderr.isatty() and not self.args.quiet and bool(find_spec("tqdm")),
            journal=self.journal,
        )

    def _line(self, row: PromptRow, result: AIMessage | Exception) -> bytes:
        from langchain_resilient.batch.files import answer_line  # noqa: PLC0415  # see `run_batch_command`
        from langchain_resilient.batch.journal import winner_of  # noqa: PLC0415  # see `run_batch_command`

        if isinstance(result, Exception):
            return answer_line(row.rest, {"error": self._note(row, result)})
        self.done += 1
        usage = result.usage_metadata and {
            name: result.usage_metadata[name] for name in ("input_tokens", "output_tokens")
        }
        return answer_line(
            row.rest, {"answer": str(result.text), "target": winner_of(result), "usage": usage}
        )

    def _note(self, row: PromptRow, error: Exception) -> str:
        self.failed += 1
        text = f"{type(error).__name__}: {error}"
        if len(self.reasons) < MAX_LISTED:
            reason = " ".join(text.split())[:_MAX_REASON_LENGTH]
            self.reasons.append(f"{self.args.file}:{row.line}: {reason}")
        return text

    # -- telling ----------------------------------------------------------------------------------

    def tell(self, ended: str = "") -> None:
        """List what failed; say how it went and what to do next, all on standard error.

        Args:
            ended: How the batch came to an early end.
        """
        lines = list(self.reasons)
        if self.failed > len(lines):
            lines.append(
                f"... and {self.failed - len(lines)} more, with their errors in the output"
            )
        if ended or not self.args.quiet:
            lines.append(self._summary(ended))
        sys.stderr.write("".join(f"{line}\n" for line in lines))
        sys.stderr.flush()

    def _summary(self, ended: str) -> str:
        told = [f"{ended}: " if ended else ""]
        told.append(f"{self.done} of {len(self.prompts)} prompts answered")
        if self.journal is not None and self.journal.restored:
            told.append(f" ({self.journal.restored} restored from {self.journal.path})")
        if self.failed:
            told.append(f", {self.failed} failed")
        told.append(f" in {time.monotonic() - self.begin:.1f} s")
        if self.journal is not None and (ended or self.failed):
            told.append("; the same command sends only what is missing")
        return f"langchain-resilient: {''.join(told)}"


def _journal_name(args: argparse.Namespace) -> str | None:
    if args.no_journal or (args.journal is None and args.output == "-"):
        return None
    return str(args.journal or f"{args.output}.journal")


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


def add_journal_arguments(parser: argparse.ArgumentParser) -> None:
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


def run_journal_command(args: argparse.Namespace) -> int:
    """Run the command.

    Returns:
        The exit code: 0.

    Raises:
        JournalError: If the file is no journal or cannot be read.
        OSError: If the output cannot be written.
    """
    from langchain_resilient.batch.journal import JournalFile  # noqa: PLC0415  # import is slow

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
    sys.stdout.write(_journal_as_text(told))
    if args.failed:
        for row in file.select(_FAILED):
            sys.stdout.write(f"{row['position']}: {' '.join(row['error'].split())}\n")


def _journal_as_text(told: dict[str, Any]) -> str:
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
    from langchain_resilient.batch.journal import decode_message  # noqa: PLC0415  # import is slow

    found = {name: _timed(row)[name] for name in _COLUMNS}
    if row["answer"] is not None:
        message = decode_message(row["answer"])
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
