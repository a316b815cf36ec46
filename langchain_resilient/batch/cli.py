"""The commands `batch`, `journal` and `lane`.

`batch` answers a file of prompts, `journal` shows or exports what was answered, and `lane` shows or
cancels the batches of providers that prompts are in.

Exit codes are those of `langchain_resilient.cli`, which runs both.
"""

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

from langchain_resilient.batch.files import (
    FORMATS,
    SPREADSHEETS,
    PromptFile,
    PromptRow,
    check_prompts_name,
)
from langchain_resilient.policies import money

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from langchain_core.messages import AIMessage

    from langchain_resilient.batch.journal import Journal
    from langchain_resilient.batch.journal_file import BatchRow, JournalFile
    from langchain_resilient.batch.mixin import BatchingChatModel


MAX_LISTED_FAILURES = 100
"""Failed prompts that are listed on standard error."""

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


# -- batch ----------------------------------------------------------------------------------------


def add_batch_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options that only `batch` has."""
    add = parser.add_argument
    add("file", metavar="FILE", help='the prompts; "-" reads standard input')
    add("-o", "--output", default="-", metavar="OUT",
        help="the answers, as JSON lines; standard output unless given")  # fmt: skip
    add("--format", choices=FORMATS, help="the format of FILE; taken from its name unless given")
    add("--column", metavar="NAME", help='the column of a CSV file; else its only one, or "prompt"')
    add("--max-concurrency", type=_positive_int, default=64, metavar="N",
        help="prompts at a time (default %(default)d)")  # fmt: skip
    add("--journal", metavar="FILE", help="where answers are kept (default OUT.journal)")
    add("--no-journal", action="store_true", help="keep none")
    add("--journal-match", choices=("prompt", "exact"), default="prompt",
        help="use an answer to the same prompt, whoever gave it (default), or only one of the same "
        "targets and parameters")  # fmt: skip
    add("--lane", choices=("batch",),
        help="send the prompts in batches of the provider (OpenAI, Together): half the price, and "
        "hours; needs a journal")  # fmt: skip
    add("--within", metavar="TIME",
        help='with --lane: when all is to be answered, such as "6h"; what would be late is asked '
        "live")  # fmt: skip
    add("-q", "--quiet", action="store_true", help="report failures only")


def _positive_int(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def check_batch_arguments(args: argparse.Namespace) -> None:
    """Check the options against each other, before anything is opened.

    Raises:
        ValueError: If they contradict each other.
    """
    if args.journal and args.no_journal:
        raise ValueError("--journal and --no-journal exclude each other")
    if args.column and args.format not in (None, "csv"):
        raise ValueError(f"--column is for CSV, not for --format {args.format}")
    if args.lane and _journal_name(args) is None:
        raise ValueError("--lane needs a journal: name one with --journal, or a file with --output")
    if args.within and not args.lane:
        raise ValueError("--within is for --lane batch; --timeout limits each answer")
    names = [args.file, args.output, _journal_name(args)]
    files = [Path(name).absolute() for name in names if name not in (None, "-")]
    if len(set(files)) < len(files):
        raise ValueError("the prompts, the answers and the journal must be different files")
    suffix = Path(args.output).suffix.lower()
    if suffix in (".csv", ".txt", *SPREADSHEETS):
        raise ValueError(
            f"answers are JSON lines: call the output .jsonl, not {args.output} "
            "(`journal export -o FILE.csv` makes a table of them)"
        )
    check_prompts_name(args.file, args.format)
    if Path(args.file).is_dir():
        raise ValueError(f"{args.file} is a folder: name a file of prompts")
    _check_folders([name for name in names[1:] if name not in (None, "-")])


def _check_folders(files: list[Any]) -> None:
    """Refuse files that could not be written in the end, when all answers are paid for."""
    for file in map(Path, files):
        if file.is_dir():
            raise ValueError(f"{file} is a folder: name a file in it")
        if not file.parent.is_dir():
            raise ValueError(f"there is no folder {file.parent} for {file.name}: make it first")


def run_batch_command(args: argparse.Namespace, llm: BatchingChatModel) -> bool:
    """Answer the file of prompts.

    Returns:
        Whether every prompt was answered.

    Raises:
        KeyboardInterrupt: If Ctrl-C or SIGTERM ended it.
        ValueError: If a row is not a prompt; nothing has been sent then.
        OSError: If a file cannot be read or written.
        JournalError: If the journal cannot be used.
    """
    with PromptFile(args.file, args.format, args.column) as rows:
        total = sum(1 for _ in rows)  # a bad row is found before anything is sent
        batch = _BatchRun(args, llm, _PromptRows(rows, args.system, total))
        batch.warn_of_what_is_there()
        try:
            asyncio.run(batch.run())
        except (KeyboardInterrupt, asyncio.CancelledError):
            batch.print_summary("interrupted")
            raise KeyboardInterrupt from None
        except BaseException:
            if batch.answered:  # the disk is full, say: what was answered is kept all the same
                batch.print_summary("stopped")
            raise
    batch.print_summary()
    return not batch.failed


class _PromptRows:
    """The prompts of a file, as the model takes them; remembers the rows that are under way.

    Its length is that of the file.
    """

    def __init__(self, rows: PromptFile, system: str | None, total: int) -> None:
        self._rows = rows
        self._system = [("system", system)] if system else []
        self._total = total
        self._under_way: dict[int, PromptRow] = {}

    def __len__(self) -> int:
        return self._total

    def __iter__(self) -> Iterator[list[Any]]:
        for index, row in enumerate(self._rows):
            # The runner reads a row only when a worker is free, so these are few.
            self._under_way[index] = row
            yield self._messages(row)

    def _messages(self, row: PromptRow) -> list[Any]:
        if isinstance(row.prompt, str):
            return [*self._system, ("human", row.prompt)]
        has_system = any(message.type == "system" for message in row.prompt)
        return row.prompt if has_system else [*self._system, *row.prompt]

    def pop(self, index: int) -> PromptRow:
        """Return the row of a prompt that has a result, and forget it."""
        return self._under_way.pop(index)


@dataclass
class _BatchRun:
    """One run of the `batch` command, and the summary that it prints in the end."""

    args: argparse.Namespace
    llm: BatchingChatModel
    prompts: _PromptRows
    journal: Journal | None = None
    answered: int = 0
    failed: int = 0
    failures: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def warn_of_what_is_there(self) -> None:
        """Say that a file will be replaced, unless its journal shows that it is of this batch."""
        name, journal = self.args.output, _journal_name(self.args)
        known = journal is not None and Path(journal).exists()
        if name != "-" and Path(name).exists() and not known:
            sys.stderr.write(
                f"langchain-resilient: {name} exists and is replaced when all answers are there\n"
            )

    async def run(self) -> None:
        from langchain_resilient.batch.files import AnswerFile  # noqa: PLC0415  # locks files
        from langchain_resilient.batch.journal import Journal  # noqa: PLC0415  # import is slow

        # A killed script keeps what is done and closes its streams as Ctrl-C does.
        task = asyncio.current_task()
        if task is not None and sys.platform != "win32":
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        if (name := _journal_name(self.args)) is not None:
            self.journal = Journal(name, match=self.args.journal_match)
        with AnswerFile(self.args.output) as answers:
            async with aclosing(self._results()) as results:
                async for index, result in results:
                    answers.put(index, self._line(self.prompts.pop(index), result))
            answers.finish()

    def _results(self) -> Any:
        return self.llm.amap(
            self.prompts,
            max_concurrency=self.args.max_concurrency,
            return_exceptions=True,
            # tqdm is an extra, and a command does not fail for want of a bar.
            progress=sys.stderr.isatty() and not self.args.quiet and bool(find_spec("tqdm")),
            journal=self.journal,
            lane=self.args.lane,
            within=self.args.within,
        )

    def _line(self, row: PromptRow, result: AIMessage | Exception) -> bytes:
        from langchain_resilient.batch.files import answer_line  # noqa: PLC0415  # as in `run`
        from langchain_resilient.batch.journal import winner_of  # noqa: PLC0415  # as in `run`

        if isinstance(result, Exception):
            return answer_line(row.rest, {"error": self._add_failure(row, result)})
        self.answered += 1
        usage = result.usage_metadata and {
            name: result.usage_metadata[name] for name in ("input_tokens", "output_tokens")
        }
        return answer_line(
            row.rest, {"answer": str(result.text), "target": winner_of(result), "usage": usage}
        )

    def _add_failure(self, row: PromptRow, error: Exception) -> str:
        self.failed += 1
        text = f"{type(error).__name__}: {error}"
        if len(self.failures) < MAX_LISTED_FAILURES:
            reason = " ".join(text.split())[:_MAX_REASON_LENGTH]
            self.failures.append(f"{self.args.file}:{row.line}: {reason}")
        return text

    def print_summary(self, ended: str = "") -> None:
        """Print what failed, how many were answered and what to do next, to standard error.

        Args:
            ended: What ended the batch early; empty if nothing did.
        """
        lines = list(self.failures)
        if self.failed > len(lines):
            lines.append(
                f"... and {self.failed - len(lines)} more, with their errors in the output"
            )
        if ended or not self.args.quiet:
            lines.append(self._summary(ended))
        sys.stderr.write("".join(f"{line}\n" for line in lines))
        sys.stderr.flush()

    def _done(self) -> int:
        """Prompts with an answer: some may be in the journal, and not in the output as yet."""
        return self.answered if self.journal is None else self.llm.batch_report().done

    def _summary(self, ended: str) -> str:
        parts = [f"{ended}: " if ended else ""]
        parts.append(f"{self._done()} of {len(self.prompts)} prompts answered")
        if self.journal is not None and self.journal.restored:
            parts.append(f" ({self.journal.restored} restored from {self.journal.path})")
        if self.failed:
            parts.append(f", {self.failed} failed")
        parts.append(f" in {time.monotonic() - self.started:.1f} s")
        if self.journal is not None and (ended or self.failed):
            parts.append("; the same command sends only what is missing")
        return f"langchain-resilient: {''.join(parts)}"


def _journal_name(args: argparse.Namespace) -> str | None:
    if args.no_journal or (args.journal is None and args.output == "-"):
        return None
    return str(args.journal or f"{args.output}.journal")


# -- journal --------------------------------------------------------------------------------------

_LOCK_TIMEOUT = 10.0

_SUMMARY = """
SELECT count(*) AS items, count(answer) AS done,
  count(CASE WHEN error != 'cancelled' THEN 1 END) AS failed,
  count(CASE WHEN error = 'cancelled' THEN 1 END) AS cancelled,
  (SELECT count(answer) FROM items) - count(answer) AS older,
  sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens,
  sum(spent) AS spent, sum(wasted) AS wasted,
  min(recorded) AS first, max(recorded) AS last FROM current
"""

_TARGETS = """
SELECT target, count(*) AS answers, sum(input_tokens) AS input_tokens,
  sum(output_tokens) AS output_tokens
FROM current WHERE answer IS NOT NULL GROUP BY target ORDER BY answers DESC, target
"""

_FAILED = """
SELECT position, error, recorded FROM current WHERE error != 'cancelled' ORDER BY position
"""

_CURRENT = "SELECT * FROM current ORDER BY position"
_ALL = "SELECT * FROM items ORDER BY run, position, recorded"
_NUMBER_COLUMNS = ("input_tokens", "output_tokens", "spent", "wasted", "recorded")
_COLUMNS: tuple[str, ...] = (
    "position", "prompt", "answer", "error", "target", *_NUMBER_COLUMNS, "key", "exact", "run"
)  # fmt: skip


def add_journal_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommands of `journal`."""
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    show = _add_action(actions, "show", "how much is done, by whom, and what failed")
    show.add_argument("--failed", action="store_true", help="list the failures")
    show.add_argument("--json", action="store_true", help="as JSON")
    show.set_defaults(action=_show)
    export = _add_action(
        actions,
        "export",
        "the prompts, answers and failures of the last run, one a prompt, by position (from 0), as "
        "JSON lines or CSV",
    )
    export.add_argument("-o", "--output", default="-", metavar="OUT",
                        help="a .jsonl or .csv file; standard output unless given")  # fmt: skip
    export.add_argument("--all", action="store_true",
                        help="also what was answered before prompts or models changed")  # fmt: skip
    export.set_defaults(action=_export)


def _add_action(actions: Any, name: str, text: str) -> argparse.ArgumentParser:
    """Declare a subcommand that is about a journal."""
    action: argparse.ArgumentParser = actions.add_parser(name, help=text)
    action.add_argument("file", metavar="FILE", type=Path, help="the journal: a file or a folder")
    return action


def run_journal_command(args: argparse.Namespace) -> None:
    """Show or export a journal.

    Raises:
        JournalError: If the file is not a journal or cannot be read.
        OSError: If the output cannot be written.
    """
    from langchain_resilient.batch.segments import open_journal_file  # noqa: PLC0415  # import is slow

    file = open_journal_file(args.file, lock_timeout=_LOCK_TIMEOUT, create=False)
    try:
        args.action(args, file)
    finally:
        file.close()


# -- show -----------------------------------------------------------------------------------------


def _show(args: argparse.Namespace, file: JournalFile) -> None:
    summary: dict[str, Any] = dict(next(file.current(_SUMMARY)))
    for name in ("first", "last"):
        summary[name] = _iso_time(summary[name])
    summary["targets"] = [dict(row) for row in file.current(_TARGETS)]
    if args.json:
        if args.failed:
            summary["failures"] = [_with_iso_time(row) for row in file.current(_FAILED)]
        sys.stdout.write(json.dumps(summary) + "\n")
        return
    sys.stdout.write(_summary_text(summary))
    if args.failed:
        for row in file.current(_FAILED):
            sys.stdout.write(f"{row['position']}: {' '.join(row['error'].split())}\n")


def _summary_text(summary: dict[str, Any]) -> str:
    lines = [f"{summary['items']} items, {summary['done']} answered, {summary['failed']} failed"]
    if summary["cancelled"]:
        lines[0] += f", {summary['cancelled']} under way when it was interrupted"
    if summary["older"]:
        lines[0] += f"; {summary['older']} more answers to what was changed or removed since"
    if summary["spent"]:
        lines[0] += f"; {money(summary['spent'])} spent, {money(summary['wasted'])} of it wasted"
    lines += [
        f"  {row['target'] or 'unknown'}: {row['answers']} answers{_tokens(row)}"
        for row in summary["targets"]
    ]
    if summary["first"]:
        lines.append(f"from {summary['first']} to {summary['last']}")
    return "".join(f"{line}\n" for line in lines)


def _tokens(row: dict[str, Any]) -> str:
    if row["input_tokens"] is None:
        return ""
    return f", {row['input_tokens']} tokens in, {row['output_tokens']} out"


def _iso_time(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _with_iso_time(row: Any) -> dict[str, Any]:
    return {**dict(row), "recorded": _iso_time(row["recorded"])}


# -- export ---------------------------------------------------------------------------------------


def _export(args: argparse.Namespace, file: JournalFile) -> None:
    if Path(args.output).suffix.lower() in SPREADSHEETS:
        raise ValueError(
            f"an export is JSON lines or CSV: call it .jsonl or .csv, not {args.output}"
        )
    rows_of = file.select(_ALL) if args.all else file.current(_CURRENT)
    with closing(rows_of) as rows, _output(args.output) as out:
        records = map(_exported, rows)
        if Path(args.output).suffix.lower() == ".csv":
            table = csv.DictWriter(out, _COLUMNS, extrasaction="ignore")
            table.writeheader()
            table.writerows(records)
        else:
            out.writelines(json.dumps(record) + "\n" for record in records)


def _exported(row: Any) -> dict[str, Any]:
    """Return a row with the answer's text, and with the whole message beside it."""
    from langchain_resilient.batch.journal import decode_message  # noqa: PLC0415  # import is slow

    timed_row = _with_iso_time(row)
    timed_row["key"], timed_row["prompt"] = timed_row["prompt"], timed_row["text"]
    record = {name: timed_row[name] for name in _COLUMNS}
    if row["answer"] is not None:
        message = decode_message(row["answer"])
        record["answer"] = str(message.text)
        record["message"] = json.loads(row["answer"])
    return {name: value for name, value in record.items() if value is not None}


@contextmanager
def _output(name: str) -> Iterator[TextIO]:
    if name == "-":
        yield sys.stdout
        return
    # Half of a surrogate pair is not worth losing an export for.
    with open(  # pathlib's takes no opener
        name, "w", encoding="utf-8", errors="replace", newline="", opener=_open_private
    ) as file:
        yield file


def _open_private(path: str, flags: int) -> int:
    """Make a file that only its user can read, as the journal is; follows symbolic links."""
    return os.open(path, flags, 0o600)


# -- lane -----------------------------------------------------------------------------------------


def add_lane_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommands of `lane`."""
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    show = _add_action(actions, "show", "how the batches of a journal are, at their providers")
    cancel = _add_action(
        actions,
        "cancel",
        "cancel the batches of a journal that are still open; what is done of them is paid, and "
        "the next run of the same batch uses it",
    )
    for action in (show, cancel):
        action.add_argument("--json", action="store_true", help="as JSON")
        action.set_defaults(cancel=action is cancel)


def run_lane_command(
    args: argparse.Namespace, model_of: Callable[[list[str]], BatchingChatModel]
) -> bool:
    """Show the batches of a journal, or cancel those that are open.

    Args:
        args: The arguments.
        model_of: Makes a model of some targets by their names.

    Returns:
        Whether every provider answered.

    Raises:
        JournalError: If the file is not a journal or cannot be read.
    """
    from langchain_resilient.batch.segments import open_journal_file  # noqa: PLC0415  # import is slow

    file = open_journal_file(args.file, lock_timeout=_LOCK_TIMEOUT, create=False)
    try:
        batches = [(row, file.unpaid_of(row.tag)) for row in file.batches()]
    finally:
        file.close()
    shown = asyncio.run(_look(batches, model_of, cancel=args.cancel))
    if args.json:
        sys.stdout.write(json.dumps(shown) + "\n")
    else:
        sys.stdout.write("".join(_batch_line(one) for one in shown) or "no batches\n")
    return not any("problem" in one for one in shown)


async def _look(
    batches: list[tuple[BatchRow, int]],
    model_of: Callable[[list[str]], BatchingChatModel],
    *,
    cancel: bool,
) -> list[dict[str, Any]]:
    open_ones = [row for row, _ in batches if row.status == "open" and row.batch is not None]
    names = list(dict.fromkeys(row.target for row in open_ones))
    model = model_of(names) if names else None
    shown = []
    for row, unpaid in batches:
        one: dict[str, Any] = {
            "batch": row.batch,
            "target": row.target,
            "prompts": row.requests,
            "waiting": unpaid if row.status == "open" else 0,
            "status": row.status,
            "began": _iso_time(row.began),
            "ended": _iso_time(row.ended),
        }
        if model is not None and row in open_ones:
            one |= await _ask_about(row, model, cancel=cancel)
        shown.append(one)
    if model is not None:
        await model.aclose()  # type: ignore[attr-defined]  # the model of the command has it
    return shown


async def _ask_about(row: BatchRow, model: BatchingChatModel, *, cancel: bool) -> dict[str, Any]:
    from langchain_resilient.runtime.batched import BatchRequestError  # noqa: PLC0415  # import is slow

    desk = model._batch_desk(row.target)  # noqa: SLF001  # our own
    if desk is None or row.batch is None:
        return {"problem": "this target is not known here"}
    try:
        account = await desk.account_of(row.file or "", row.batch)
        if account is None:
            return {"problem": "no key of this target may see it"}
        if cancel:
            await account.cancel(row.batch)
        state = await account.retrieve(row.batch)
    except BatchRequestError as error:
        return {"problem": str(error)}
    told: dict[str, Any] = {"status": state.status, "share": round(state.share, 4)}
    return {**told, "reason": state.problem} if state.problem else told


def _batch_line(one: dict[str, Any]) -> str:
    parts = [f"{one['prompts']} prompts", one["status"]]
    if "share" in one:
        parts.append(f"{one['share']:.0%} done")
    parts.append(f"since {one['began']}")
    parts += [one[name] for name in ("reason", "problem") if name in one]
    return f"{one['batch'] or 'not created'} ({one['target']}): {', '.join(parts)}\n"
