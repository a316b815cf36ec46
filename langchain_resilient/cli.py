"""The command line: `langchain-resilient ask`, `batch`, `targets`, `simulate`, `demo`, ...

Exit codes, for scripts:

| code | meaning |
|---|---|
| 0 | answered |
| 1 | every target failed; for a batch: some prompts failed |
| 2 | the command or its settings are wrong (bad target, no key) |
| 3 | the request was refused as wrong |
| 4 | the deadline passed |
| 5 | the answer broke off; what came stands on stdout |
| 130 | interrupted |
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import warnings
from typing import TYPE_CHECKING, Any, TextIO

from pydantic import ValidationError

from langchain_resilient._version import __version__
from langchain_resilient.batch import cli as batch
from langchain_resilient.batch import cli as journal
from langchain_resilient.demo import command as demo
from langchain_resilient.simulation import command as simulate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from langchain_resilient.chat_model import ResilientChatModel

OK, FAILED, WRONG, REFUSED, DEADLINE, BROKEN, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments without the program's name; the process's own if None.

    Returns:
        The exit code; see the module.
    """
    args = parser().parse_args(argv)
    warnings.showwarning = _show_warning
    command: Callable[[argparse.Namespace], int] = args.command
    try:
        return command(args)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away (`| head`): there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK


def parser() -> argparse.ArgumentParser:
    """Declare every command and its options."""
    found = argparse.ArgumentParser(
        prog="langchain-resilient",
        description="Text for a prompt, always and as fast as possible, over several providers.",
    )
    found.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = found.add_subparsers(required=True, metavar="COMMAND")

    ask = commands.add_parser("ask", help="answer one prompt", description="Answer one prompt.")
    ask.add_argument("prompt", nargs="*", help='the prompt; "-" or nothing reads standard input')
    _add_targets(ask)
    _add_settings(ask)
    ask.add_argument("--json", action="store_true", help="one JSON object with text and receipt")
    ask.add_argument("--no-stream", action="store_true", help="print the answer when it is whole")
    ask.add_argument("-q", "--quiet", action="store_true", help="no receipt on standard error")
    ask.set_defaults(command=_ask)

    many = commands.add_parser(
        "batch",
        help="answer a file of prompts",
        description=batch.DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    batch.add_batch_arguments(many)
    _add_targets(many)
    _add_settings(many)
    many.set_defaults(command=_batch)

    kept = commands.add_parser("journal", help="show or export what a batch has answered")
    journal.add_journal_arguments(kept)
    kept.set_defaults(command=_journal)

    targets = commands.add_parser(
        "targets",
        help="show the chain and which keys are there",
        description="Show the chain, and which keys are present. Never shows a key.",
    )
    _add_targets(targets)
    targets.add_argument("--json", action="store_true", help="as JSON")
    targets.set_defaults(command=_targets)

    simulation = commands.add_parser(
        "simulate",
        help="run a hedging policy over recorded latencies",
        description=simulate.DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    simulate.add_arguments(simulation)
    simulation.set_defaults(command=_simulate)

    show = commands.add_parser(
        "demo",
        help="a two-minute live show: providers misbehave, requests are answered",
        description=demo.DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    demo.add_arguments(show)
    show.set_defaults(command=_demo)
    return found


def _add_targets(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-t",
        "--target",
        action="append",
        metavar="PROVIDER:MODEL",
        help='a target of the chain, e.g. "openai:gpt-4o", "together:maker/model", "local"; '
        "may be given several times, in order of preference",
    )


def _add_settings(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-s", "--system", metavar="TEXT", help="a system message before the prompt")
    add("--timeout", type=float, metavar="SECONDS", help="the deadline (default 120)")
    add("--hedge", type=float, metavar="SECONDS", help="ask a second target this late")
    add("--max-tokens", type=int, metavar="N", help="the longest answer")
    add("--temperature", type=float, metavar="T", help="randomness, 0 to 2")
    add("--last-resort", metavar="TARGET", help='"local", a target, or a fixed text')


# -- ask ------------------------------------------------------------------------------------------


def _ask(args: argparse.Namespace) -> int:
    from langchain_resilient import errors  # noqa: PLC0415  # a wrong command should fail fast
    from langchain_resilient.providers.local import LocalModelError  # noqa: PLC0415

    prompt = " ".join(args.prompt)
    if prompt in ("", "-"):
        # A person at a terminal who gave no prompt waits for a hint, not for the end of input.
        prompt = "" if sys.stdin.isatty() else sys.stdin.read()
    if not prompt.strip():
        return _complain('no prompt: give one, or pipe it in ("langchain-resilient ask -h")')
    try:
        llm = _model(args)
        _preload(llm)
    except (ValueError, LocalModelError, errors.MissingExtraError) as error:
        return _complain(_plain(error))
    try:
        return asyncio.run(_answer(llm, _messages(args.system, prompt), args))
    except errors.ResilientError as error:
        codes = {"StreamBrokenError": BROKEN, "DeadlineExceededError": DEADLINE,
                 "RequestRejectedError": REFUSED}  # fmt: skip
        return _fail(args, error, codes.get(type(error).__name__, FAILED))
    except asyncio.CancelledError:
        return INTERRUPTED


def _model(args: argparse.Namespace) -> ResilientChatModel:
    from langchain_resilient.chat_model import ResilientChatModel  # noqa: PLC0415

    wanted = {
        "targets": args.target,
        "timeout": args.timeout,
        "hedge": args.hedge,
        "max_tokens": args.max_tokens,
        "temperature": args.temperature,
        "last_resort": args.last_resort,
    }
    return ResilientChatModel(**{k: v for k, v in wanted.items() if v is not None})


def _preload(llm: ResilientChatModel) -> None:
    """Fetch and load an embedded model that is asked first, before the deadline begins to run."""
    from langchain_resilient.providers.local import preload  # noqa: PLC0415

    first = llm.chain()[0]
    if first.provider == "local":
        preload(first.model)


def _messages(system: str | None, prompt: str) -> list[tuple[str, str]]:
    return [*([("system", system)] if system else []), ("human", prompt)]


async def _answer(llm: ResilientChatModel, messages: Any, args: argparse.Namespace) -> int:
    # A killed script closes its streams as Ctrl-C does.
    task = asyncio.current_task()
    if task is not None and sys.platform != "win32":
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    if args.json or args.no_stream:
        answer = await llm.ainvoke(messages)
        text, metadata = str(answer.text), answer.response_metadata
        usage = answer.usage_metadata
    else:
        text, metadata, usage = "", {}, None
        async for chunk in llm.astream(messages):
            _write(sys.stdout, str(chunk.text))
            metadata = chunk.response_metadata or metadata
            usage = chunk.usage_metadata or usage
    if args.json:
        told = {"text": text, "model": metadata.get("model_name"), "usage": usage,
                "receipt": metadata.get("resilience")}  # fmt: skip
        _write(sys.stdout, json.dumps(told, ensure_ascii=False) + "\n")
        return OK
    _write(sys.stdout, text + "\n" if args.no_stream else "\n")
    if not args.quiet:
        _write(sys.stderr, _receipt_line(metadata, usage) + "\n")
    return OK


def _receipt_line(metadata: dict[str, Any], usage: Any) -> str:
    """One line for people: who, how fast, how many attempts, how many tokens."""
    receipt = metadata.get("resilience") or {}
    attempts = receipt.get("attempts", [])
    won = next((a for a in attempts if a["outcome"] == "won"), None)
    parts = [f"{receipt.get('winner')} answered in {receipt.get('seconds', 0):.2f} s"]
    if won and "first_text" in won:
        parts.append(f"first text {won['first_text']:.2f} s")
    if usage:
        parts.append(f"{usage['output_tokens']} tokens")
    others = [
        f"{a['target']} {a['kind']} {a.get('fault', a['outcome'])}"
        for a in attempts
        if a is not won
    ]
    parts.append(f"{len(attempts)} attempt{'s' if len(attempts) != 1 else ''}")
    return "[" + ", ".join(parts) + (": " + "; ".join(others) if others else "") + "]"


# -- batch ----------------------------------------------------------------------------------------


def _batch(args: argparse.Namespace) -> int:
    def run() -> int:
        batch.check_batch_arguments(args)
        llm = _model(args)
        _preload(llm)
        return batch.run_batch_command(args, llm)

    return _or_complain(run)


def _journal(args: argparse.Namespace) -> int:
    return _or_complain(lambda: journal.run_journal_command(args))


def _or_complain(work: Callable[[], int]) -> int:
    from langchain_resilient.errors import (  # noqa: PLC0415  # see `_ask`
        JournalError,
        MissingExtraError,
    )
    from langchain_resilient.providers.local import LocalModelError  # noqa: PLC0415

    try:
        return work()
    except BrokenPipeError:
        raise
    except (ValueError, OSError, JournalError, LocalModelError, MissingExtraError) as error:
        return _complain(_plain(error))


# -- targets --------------------------------------------------------------------------------------


def _targets(args: argparse.Namespace) -> int:
    from langchain_resilient.options import DEFAULT_CHAIN, as_chain  # noqa: PLC0415
    from langchain_resilient.providers import key_for, provider_entry  # noqa: PLC0415

    try:
        chain = as_chain(args.target or DEFAULT_CHAIN)
        rows = [
            {
                "target": target.name,
                "provider": target.provider,
                "model": target.model,
                "key": provider_entry(target.provider).api_key_env,
                "ready": provider_entry(target.provider).api_key_env is None
                or key_for(target) is not None,
            }
            for target in chain
        ]
    except ValueError as error:
        return _complain(_plain(error))
    if args.json:
        _write(sys.stdout, json.dumps(rows) + "\n")
    else:
        width = max(len(str(row["target"])) for row in rows)
        for row in rows:
            key = (
                "needs no key"
                if row["key"] is None
                else f"{row['key']} is " + ("set" if row["ready"] else "not set")
            )
            _write(sys.stdout, f"{row['target']:<{width}}  {key}\n")
    return OK if any(row["ready"] for row in rows) else WRONG


# -- simulate -------------------------------------------------------------------------------------


def _simulate(args: argparse.Namespace) -> int:
    try:
        _write(sys.stdout, simulate.simulate(args))
    except (ImportError, OSError, ValueError) as error:
        return _complain(_plain(error))
    return OK


# -- demo -----------------------------------------------------------------------------------------


def _demo(args: argparse.Namespace) -> int:
    try:
        return demo.run(args)
    except (ImportError, ValueError) as error:
        return _complain(_plain(error))


# -- saying things --------------------------------------------------------------------------------


def _fail(args: argparse.Namespace, error: Any, code: int) -> int:
    if args.json:
        told = {"error": type(error).__name__, "message": str(error),
                "receipt": error.receipt.as_dict() if error.receipt else None}  # fmt: skip
        _write(sys.stdout, json.dumps(told, ensure_ascii=False) + "\n")
    elif code == BROKEN:
        _write(sys.stdout, "\n")
    _complain(str(error))
    return code


def _complain(message: str) -> int:
    _write(sys.stderr, f"langchain-resilient: {message}\n")
    return WRONG


def _plain(error: Exception) -> str:
    """A validation error in one line an argument, without pydantic's frame."""
    if not isinstance(error, ValidationError):
        return str(error)
    return "; ".join(
        ".".join(map(str, d["loc"]))
        + (": " if d["loc"] else "")
        + d["msg"].removeprefix("Value error, ")
        for d in error.errors()
    )


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    _write(sys.stderr, f"langchain-resilient: {message}\n")


def _write(out: TextIO, text: str) -> None:
    out.write(text)
    out.flush()


if __name__ == "__main__":
    sys.exit(main())
