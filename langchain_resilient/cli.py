"""The command line: `ask`, `batch`, `lane`, `serve`, `targets`, `simulate`, `demo`, ...

Exit codes, for scripts:

| code | meaning |
|---|---|
| 0 | answered |
| 1 | every target failed; for a batch: some prompts failed |
| 2 | the command or its settings are wrong (bad target, no key) |
| 3 | the request was refused as wrong |
| 4 | the deadline passed |
| 5 | the answer broke off; the part that arrived is on stdout |
| 130 | interrupted |
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
import tomllib
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from langchain_resilient._version import __version__
from langchain_resilient.batch import cli as batch
from langchain_resilient.configuration import Configuration, chain_of
from langchain_resilient.demo import command as demo
from langchain_resilient.service import run as service
from langchain_resilient.simulation import command as simulate
from langchain_resilient.terminal import (
    LogLines,
    give_up_stdout,
    in_options,
    prompt_of,
    replace_unprintable,
    show_warning,
    write,
    write_json,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from langchain_resilient.chat_model import ResilientChatModel
    from langchain_resilient.options import Target

OK, FAILED, WRONG, REFUSED, DEADLINE, BROKEN, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments without the program's name; the process's own if None.

    Returns:
        The exit code; see the module.
    """
    replace_unprintable()
    args = parser().parse_args(argv)
    warnings.showwarning = show_warning
    log = logging.getLogger("langchain_resilient")
    handler = LogLines(is_service=args.command is _serve)
    log.addHandler(handler)
    command: Callable[[argparse.Namespace], int] = args.command
    try:
        return command(args)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        give_up_stdout()  # its reader has gone (`| head`)
        return OK
    except OSError as error:  # the disk is full, say
        give_up_stdout()
        _print_error(f"the output cannot be written: {error.strerror or error}")
        return FAILED
    finally:
        log.removeHandler(handler)


def parser() -> argparse.ArgumentParser:
    """Declare every command and its options."""
    main_parser = argparse.ArgumentParser(
        prog="langchain-resilient",
        description="Text for a prompt, always and as fast as possible, over several providers.",
    )
    main_parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = main_parser.add_subparsers(required=True, metavar="COMMAND")

    ask = commands.add_parser("ask", help="answer one prompt", description="Answer one prompt.")
    ask.add_argument(
        "prompt",
        nargs="*",
        help='the prompt; "-" or nothing reads standard input; what is piped in follows a prompt',
    )
    ask.add_argument(
        "-n",
        "--no-stdin",
        action="store_true",
        help='a prompt is all: for loops whose own input is a pipe ("... | while read line; do")',
    )
    _add_targets(ask)
    _add_config(ask)
    _add_settings(ask)
    ask.add_argument("--json", action="store_true", help="one JSON object with text and receipt")
    ask.add_argument("--no-stream", action="store_true", help="print the answer when it is whole")
    ask.add_argument("-q", "--quiet", action="store_true", help="no receipt on standard error")
    ask.set_defaults(command=_ask)

    batching = commands.add_parser(
        "batch",
        help="answer a file of prompts",
        description=batch.DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    batch.add_batch_arguments(batching)
    _add_targets(batching)
    _add_config(batching)
    _add_settings(batching)
    batching.set_defaults(command=_batch)

    journal = commands.add_parser("journal", help="show or export what a batch has answered")
    batch.add_journal_arguments(journal)
    journal.set_defaults(command=_journal)

    serving = commands.add_parser(
        "serve",
        help="serve the chain to OpenAI's clients over HTTP",
        description=service.DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    service.add_arguments(serving)
    _add_targets(serving)
    _add_model_settings(serving)
    serving.set_defaults(command=_serve)
    lane = commands.add_parser(
        "lane", help="show or cancel the batches of providers that a batch's prompts are in"
    )
    batch.add_lane_arguments(lane)
    lane.set_defaults(command=_lane)

    fleet = commands.add_parser(
        "fleet",
        help="show what processes share",
        description="Show the limits, spend caps and troubles that processes share.",
    )
    fleet.add_argument("url", help="of the Redis or Valkey server, as in shared=")
    fleet.add_argument("--namespace", default="default", help="as in Shared (default: default)")
    fleet.set_defaults(command=_fleet)

    targets = commands.add_parser(
        "targets",
        help="show the chain and which keys are there",
        description="Show the chain, and which keys are present. Never shows a key. With --check "
        "each provider is asked whether the models live, and for how long.",
    )
    _add_targets(targets)
    _add_config(targets)
    targets.add_argument("--json", action="store_true", help="as JSON")
    targets.add_argument(
        "--check", action="store_true", help="ask each provider for its list of models"
    )
    targets.set_defaults(command=_targets)

    simulating = commands.add_parser(
        "simulate",
        help="run a hedging policy over recorded latencies",
        description=simulate.DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    simulate.add_arguments(simulating)
    simulating.set_defaults(command=_simulate)

    showing = commands.add_parser(
        "demo",
        help="a two-minute live show: providers misbehave, requests are answered",
        description=demo.DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    demo.add_arguments(showing)
    showing.set_defaults(command=_demo)
    return main_parser


def _add_targets(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-t",
        "--target",
        action="append",
        metavar="PROVIDER:MODEL",
        help='a target of the chain, e.g. "openai:gpt-6.1-sol", "together:maker/model", "local"; '
        "may be given several times, in order of preference",
    )
    parser.add_argument(
        "--base-url",
        metavar="URL",
        help="where the targets are served, e.g. http://localhost:8000/v1",
    )
    parser.add_argument(
        "--api-key-env",
        metavar="NAME",
        help="the environment variable with the targets' key, instead of their provider's own",
    )


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="a .toml or .json file with fields of ResilientChatModel (targets, timeout, hedge, "
        "...), or one for `serve`; options of the command line go before it",
    )


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-s", "--system", metavar="TEXT", help="a system message before the prompt")
    _add_model_settings(parser)


def _add_model_settings(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--timeout", type=float, metavar="SECONDS", help="the deadline (default 120)")
    add("--hedge", type=float, metavar="SECONDS", help="ask a second target this late")
    add("--max-tokens", type=int, metavar="N", help="the longest answer")
    add("--temperature", type=float, metavar="T", help="randomness, 0 to 2")
    add("--last-resort", metavar="TARGET", help='"local", a target, or a fixed text')
    remembering = parser.add_mutually_exclusive_group()
    remembering.add_argument(
        "--remember",
        metavar="FILE",
        type=Path,
        help="where times and health of targets are kept for the next command; no prompt, no key "
        "(default: $LANGCHAIN_RESILIENT_REMEMBER, where that is empty none, else a file in the "
        "cache folder)",
    )
    remembering.add_argument(
        "--forget", action="store_true", help="keep and use nothing from one command to the next"
    )


# -- ask ------------------------------------------------------------------------------------------


def _ask(args: argparse.Namespace) -> int:
    from langchain_resilient import errors  # noqa: PLC0415  # a wrong command should fail fast
    from langchain_resilient.providers.local import LocalModelError  # noqa: PLC0415

    try:
        prompt = prompt_of(args.prompt, reads=not args.no_stdin)
    except UnicodeDecodeError as error:
        return _print_error(f"standard input is not UTF-8, at byte {error.start}")
    if not prompt.strip():
        return _print_error('no prompt: give one, or pipe it in ("langchain-resilient ask -h")')
    try:
        llm = _model(args)
        _preload(llm)
    except (ValueError, OSError, LocalModelError, errors.MissingExtraError) as error:
        return _print_error(_error_text(error))
    try:
        return asyncio.run(_answer(llm, _messages(args.system, prompt), args))
    except errors.ResilientError as error:
        codes = {"StreamBrokenError": BROKEN, "DeadlineExceededError": DEADLINE,
                 "RequestRejectedError": REFUSED}  # fmt: skip
        return _fail(args, error, codes.get(type(error).__name__, FAILED))
    except asyncio.CancelledError:
        return INTERRUPTED


def _model(args: argparse.Namespace) -> ResilientChatModel:
    from langchain_resilient.service.config import model_of  # noqa: PLC0415  # see `_ask`

    return model_of(_settings(args, _config(args)))


def _settings(args: argparse.Namespace, config: dict[str, Any]) -> dict[str, Any]:
    """Join the fields of a configuration file and the flags, which go first.

    What is learned is kept in a file even where neither says so.
    """
    flags = {
        "targets": _chosen_targets(args, config),
        "timeout": args.timeout,
        "hedge": args.hedge,
        "max_tokens": args.max_tokens,
        "temperature": args.temperature,
        "last_resort": args.last_resort,
        "remember": args.remember,
    }
    given = {name: value for name, value in flags.items() if value is not None}
    settings = {"remember": _memory_file(), **config, **given}
    return {**settings, "remember": None} if args.forget else settings


def _memory_file() -> Path | None:
    """The file that is used where no option names one; None if the environment wants none."""
    from langchain_resilient.providers.local.weights import cache_folder  # noqa: PLC0415

    named = os.environ.get("LANGCHAIN_RESILIENT_REMEMBER")
    return cache_folder() / "learned.json" if named is None else Path(named) if named else None


def _config(args: argparse.Namespace) -> dict[str, Any]:
    """Read the fields of a configuration file; of one for `serve` its table `[model]`.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is no TOML or JSON, holds no fields, or names what does not exist.
    """
    from langchain_resilient.service.config import TABLES, resolved  # noqa: PLC0415  # see `_ask`

    if args.config is None:
        return {}
    text = Path(args.config).read_text(encoding="utf-8")
    try:
        fields = json.loads(text) if args.config.endswith(".json") else tomllib.loads(text)
    except ValueError as error:
        raise ValueError(f"{args.config}: {error}") from None
    if not isinstance(fields, dict):
        raise ValueError(f"{args.config} holds no table of fields")  # noqa: TRY004  # of the user's
    if fields and fields.keys() <= TABLES:
        fields = fields.get("model", {})
    return dict(resolved(fields, args.config, os.environ))


def _chosen_targets(args: argparse.Namespace, config: dict[str, Any]) -> Any:
    """The targets of the command line or else of the configuration, where they were told to be.

    Raises:
        ValueError: If there are none to be told where, or the key's variable is not set.
    """
    from langchain_resilient.options import as_target  # noqa: PLC0415  # see `_ask`

    targets = args.target or config.get("targets")
    if args.base_url is None and args.api_key_env is None:
        return targets
    if not targets:
        raise ValueError("--base-url and --api-key-env need a --target to say of which model")
    place: dict[str, Any] = {}
    if args.base_url is not None:
        place["base_url"] = args.base_url
    if args.api_key_env is not None:
        place["api_key"] = os.environ.get(args.api_key_env)
        if not place["api_key"]:
            raise ValueError(f"{args.api_key_env} is not set")
    chain = [as_target(target) for target in targets]
    own = ("local", "text", "runnable")
    return [target if target.provider in own else {**_given(target), **place} for target in chain]


def _given(target: Target) -> dict[str, Any]:
    return {name: getattr(target, name) for name in target.model_fields_set}


def _preload(llm: ResilientChatModel) -> None:
    """Download and load a local model that is asked first, before the deadline starts."""
    from langchain_resilient.providers.local import preload  # noqa: PLC0415

    first = chain_of(llm)[0]
    if first.provider == "local":
        preload(first.model)


def _messages(system: str | None, prompt: str) -> list[tuple[str, str]]:
    return [*([("system", system)] if system else []), ("human", prompt)]


async def _answer(llm: ResilientChatModel, messages: Any, args: argparse.Namespace) -> int:
    # SIGTERM ends it as Ctrl-C does: streams are closed.
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
            write(sys.stdout, str(chunk.text))
            metadata = chunk.response_metadata or metadata
            usage = chunk.usage_metadata or usage
    if args.json:
        output = {"text": text, "model": metadata.get("model_name"), "usage": usage,
                "receipt": metadata.get("resilience")}  # fmt: skip
        write_json(output)
        return OK
    write(sys.stdout, text + "\n" if args.no_stream else "\n")
    if not args.quiet:
        write(sys.stderr, _receipt_line(metadata, usage) + "\n")
    return OK


def _receipt_line(metadata: dict[str, Any], usage: Any) -> str:
    """Summarise a receipt in one line: the winner, times, tokens and attempts."""
    receipt = metadata.get("resilience") or {}
    attempts = receipt.get("attempts", [])
    winner = next((attempt for attempt in attempts if attempt["outcome"] == "won"), None)
    parts = [f"{receipt.get('winner')} answered in {receipt.get('seconds', 0):.2f} s"]
    if winner and "first_text" in winner:
        parts.append(f"first text {winner['first_text']:.2f} s")
    if usage:
        parts.append(f"{usage['output_tokens']} tokens")
    others = [
        f"{attempt['target']} {attempt['kind']} {attempt.get('fault', attempt['outcome'])}"
        for attempt in attempts
        if attempt is not winner
    ]
    parts.append(f"{len(attempts)} attempt{'s' if len(attempts) != 1 else ''}")
    return "[" + ", ".join(parts) + (": " + "; ".join(others) if others else "") + "]"


# -- batch ----------------------------------------------------------------------------------------


def _batch(args: argparse.Namespace) -> int:
    def run() -> int:
        batch.check_batch_arguments(args)
        llm = _model(args)
        _preload(llm)
        return OK if batch.run_batch_command(args, llm) else FAILED

    return _reporting_errors(run)


# -- journal --------------------------------------------------------------------------------------


def _journal(args: argparse.Namespace) -> int:
    def run() -> int:
        batch.run_journal_command(args)
        return OK

    return _reporting_errors(run)


def _lane(args: argparse.Namespace) -> int:
    def model_of(names: list[str]) -> ResilientChatModel:
        from langchain_resilient.chat_model import ResilientChatModel  # noqa: PLC0415

        return ResilientChatModel(targets=names)

    return _reporting_errors(lambda: OK if batch.run_lane_command(args, model_of) else FAILED)


# -- fleet ----------------------------------------------------------------------------------------


def _fleet(args: argparse.Namespace) -> int:
    def run() -> int:
        from langchain_resilient.fleet.options import Shared  # noqa: PLC0415  # see `_ask`
        from langchain_resilient.fleet.overview import overview  # noqa: PLC0415

        print(overview(Shared(args.url, namespace=args.namespace)))
        return OK

    return _reporting_errors(run)


def _reporting_errors(command: Callable[[], int]) -> int:
    """Run a command; an error that the user can mend becomes one line and `WRONG`."""
    from langchain_resilient.errors import (  # noqa: PLC0415  # see `_ask`
        JournalError,
        MissingExtraError,
    )
    from langchain_resilient.providers.local import LocalModelError  # noqa: PLC0415

    try:
        return command()
    except BrokenPipeError:
        raise
    except (ValueError, OSError, JournalError, LocalModelError, MissingExtraError) as error:
        return _print_error(_error_text(error))


# -- serve ----------------------------------------------------------------------------------------


def _serve(args: argparse.Namespace) -> int:
    def run() -> int:
        service.start_log(args.log_level)
        config, llm = service.configured(args, os.environ, partial(_settings, args))
        _preload(llm)
        service.serve(llm, config)
        return OK

    return _reporting_errors(run)


# -- targets --------------------------------------------------------------------------------------


def _targets(args: argparse.Namespace) -> int:
    from langchain_resilient.options import as_chain, default_chain  # noqa: PLC0415  # see `_ask`
    from langchain_resilient.providers.overview import as_text, overview  # noqa: PLC0415

    try:
        _check_config(args)
        chain = as_chain(_chosen_targets(args, _config(args)) or default_chain())
        rows = overview(chain, check=args.check)
    except (OSError, ValueError) as error:
        return _print_error(_error_text(error))
    write(sys.stdout, json.dumps(rows) + "\n" if args.json else as_text(rows))
    if not any(row["ready"] for row in rows):
        return WRONG
    return OK if any(row["ready"] and row.get("alive") is not False for row in rows) else FAILED


def _check_config(args: argparse.Namespace) -> None:
    """Refuse a configuration file that no model could be made of, keys aside."""
    from langchain_core.language_models import BaseChatModel  # noqa: PLC0415  # see `_ask`

    from langchain_resilient.service.config import with_none  # noqa: PLC0415

    fields = with_none(Configuration, _config(args))
    others = BaseChatModel.model_fields.keys() - Configuration.model_fields.keys()
    Configuration(**{name: value for name, value in fields.items() if name not in others})


# -- simulate -------------------------------------------------------------------------------------


def _simulate(args: argparse.Namespace) -> int:
    try:
        write(sys.stdout, simulate.simulate(args))
    except (ImportError, OSError, ValueError) as error:
        return _print_error(_error_text(error))
    return OK


# -- demo -----------------------------------------------------------------------------------------


def _demo(args: argparse.Namespace) -> int:
    try:
        return demo.run(args)
    except (ImportError, ValueError) as error:
        return _print_error(_error_text(error))


# -- output ---------------------------------------------------------------------------------------


def _fail(args: argparse.Namespace, error: Any, code: int) -> int:
    if args.json:
        output = {"error": type(error).__name__, "message": str(error),
                "receipt": error.receipt.as_dict() if error.receipt else None}  # fmt: skip
        write_json(output)
    elif code == BROKEN:
        write(sys.stdout, "\n")
    _print_error(str(error))
    return code


def _print_error(message: str) -> int:
    """Print one line to standard error; returns the exit code of a wrong command."""
    write(sys.stderr, f"langchain-resilient: {in_options(message)}\n")
    return WRONG


def _error_text(error: Exception) -> str:
    """Return an error's text; of a validation error only the arguments and what is wrong."""
    if isinstance(error, FileNotFoundError) and error.filename is not None:
        return f"there is no file {error.filename}"
    if not isinstance(error, ValidationError):
        return str(error)
    return "; ".join(
        ".".join(map(str, detail["loc"]))
        + (": " if detail["loc"] else "")
        + detail["msg"].removeprefix("Value error, ")
        for detail in error.errors()
    )


if __name__ == "__main__":
    sys.exit(main())
