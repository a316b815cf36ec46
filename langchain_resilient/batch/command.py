"""`langchain-resilient batch`: a file of prompts to a file of answers."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
from contextlib import aclosing
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_resilient.batch.files import FORMATS, Row, Rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langchain_core.messages import AIMessage

    from langchain_resilient.batch.face import BatchingChatModel
    from langchain_resilient.batch.journal import Journal

OK, FAILED, INTERRUPTED = 0, 1, 130
MOST_LISTED = 100
_LONGEST_REASON = 300

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


def add_arguments(parser: argparse.ArgumentParser) -> None:
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


def check(args: argparse.Namespace) -> None:
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


def run(args: argparse.Namespace, llm: BatchingChatModel) -> int:
    """Run the command.

    Returns:
        The exit code.

    Raises:
        ValueError: If a row is no prompt; nothing has been sent then.
        OSError: If a file cannot be read or written.
        JournalError: If the journal cannot be used.
    """
    with Rows(args.file, args.format, args.column) as rows:
        total = sum(1 for _ in rows)  # a bad row is found before anything is sent
        batch = _Batch(args, llm, _Prompts(rows, args.system, total))
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


class _Prompts:
    """What the rows ask, with what is known of those under way; its length is that of the file."""

    def __init__(self, rows: Rows, system: str | None, total: int) -> None:
        self._rows = rows
        self._system = [("system", system)] if system else []
        self._total = total
        self._open: dict[int, Row] = {}

    def __len__(self) -> int:
        return self._total

    def __iter__(self) -> Iterator[list[Any]]:
        for index, row in enumerate(self._rows):
            # The runner reads a row only when a worker is free: few are open at a time.
            self._open[index] = row
            yield self._messages(row)

    def _messages(self, row: Row) -> list[Any]:
        if isinstance(row.prompt, str):
            return [*self._system, ("human", row.prompt)]
        own = any(message.type == "system" for message in row.prompt)
        return row.prompt if own else [*self._system, *row.prompt]

    def close(self, index: int) -> Row:
        """Give the row of a prompt that has ended."""
        return self._open.pop(index)


@dataclass
class _Batch:
    """One run of the command, and what it tells in the end."""

    args: argparse.Namespace
    llm: BatchingChatModel
    prompts: _Prompts
    journal: Journal | None = None
    done: int = 0
    failed: int = 0
    reasons: list[str] = field(default_factory=list)
    begin: float = field(default_factory=time.monotonic)

    async def run(self) -> None:
        from langchain_resilient.batch.answers import AnswerFile  # noqa: PLC0415  # locks files
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

    def _line(self, row: Row, result: AIMessage | Exception) -> bytes:
        from langchain_resilient.batch.answers import as_line  # noqa: PLC0415  # see `run`
        from langchain_resilient.batch.stored import winner  # noqa: PLC0415  # see `run`

        if isinstance(result, Exception):
            return as_line(row.rest, {"error": self._note(row, result)})
        self.done += 1
        usage = result.usage_metadata and {
            name: result.usage_metadata[name] for name in ("input_tokens", "output_tokens")
        }
        return as_line(
            row.rest, {"answer": str(result.text), "target": winner(result), "usage": usage}
        )

    def _note(self, row: Row, error: Exception) -> str:
        self.failed += 1
        text = f"{type(error).__name__}: {error}"
        if len(self.reasons) < MOST_LISTED:
            reason = " ".join(text.split())[:_LONGEST_REASON]
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
