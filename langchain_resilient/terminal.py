"""Standard input, output and error, as the commands use them."""

from __future__ import annotations

import io
import json
import logging
import os
import stat
import sys
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Sequence


def replace_unprintable() -> None:
    """Print what a terminal cannot show as question marks: it may know only ASCII."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def prompt_of(words: Sequence[str], *, reads: bool = True) -> str:
    """Join the prompt that was given and what is piped in; empty if there is neither.

    Args:
        words: The prompt; `"-"` as the last stands for standard input.
        reads: Whether what is piped in belongs to a prompt that does not say so.

    Raises:
        UnicodeDecodeError: If that is no text.
    """
    asked = words[-1:] == ["-"]
    given = " ".join(words[:-1] if asked else words)
    if asked or not given:
        # A person at a terminal who gave no prompt waits for a hint, not for the end of input.
        wanted = asked or reads
        text = _stdin() if wanted and (given or not sys.stdin.isatty()) else ""
    else:
        text = _stdin() if reads and _is_piped() else ""
    return f"{given}\n\n{text}" if given and text.strip() else given or text


def _stdin() -> str:
    raw = getattr(sys.stdin, "buffer", None)
    return sys.stdin.read() if raw is None else raw.read().decode()


def _is_piped() -> bool:
    """Whether somebody sends us something: a pipe or a file, not what a service inherits.

    Of a file only from its beginning: where a part of it has been read, it is the input of a shell
    loop around us (`while read line; do ... done < lines`), which would end with it.
    """
    try:
        number = sys.stdin.fileno()
        mode = os.fstat(number).st_mode
        whole = stat.S_ISREG(mode) and not os.lseek(number, 0, os.SEEK_CUR)
    except (AttributeError, OSError, ValueError):
        return False
    return whole or stat.S_ISFIFO(mode)


_open_lines: set[TextIO] = set()
"""Outputs whose last line has not ended; standard error may be the same terminal."""


def write(out: TextIO, text: str) -> None:
    """Write at once; what is for standard error begins a line of its own."""
    if out is not sys.stdout and sys.stdout in _open_lines:
        _open_lines.discard(sys.stdout)
        text = f"\n{text}"
    out.write(text)
    out.flush()
    if text:
        (_open_lines.discard if text.endswith("\n") else _open_lines.add)(out)


def write_json(output: dict[str, Any]) -> None:
    """Write one object to standard output."""
    # What a terminal cannot show would be replaced, and the text be another.
    unicode = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "") == "utf8"
    write(sys.stdout, json.dumps(output, ensure_ascii=not unicode) + "\n")


def give_up_stdout() -> None:
    """Write nothing more there: Python flushes it once more at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


_FOR_PYTHON = (
    'Target("openai:model", base_url=..., api_key=...); any LangChain chat model is a target as '
    "it is; others are added with langchain_resilient.providers.register"
)
_IN_OPTIONS = (
    ("(or pass api_key=...)", "(or name their variable: --api-key-env NAME)"),
    ('ResilientChatModel(targets=["local"])', "--target local"),
    ('`last_resort="local"`', "--last-resort local"),
    ("check base_url", "check --base-url"),
    ("`base_url`", "--base-url"),
    ("(timeout=); max_retries=1 makes it fail at once", "(--timeout)"),
    ("raise `timeout` or `TimeLimits(first_text=...)`", "raise --timeout"),
    ("raise `timeout`", "raise --timeout"),
    ("try `repair=True`, ", ""),
    (_FOR_PYTHON, "--target openai:model --base-url URL --api-key-env NAME"),
)
"""What messages advise in Python, and how it is said on the command line."""


def in_options(text: str) -> str:
    """The same advice in words of the command line."""
    for ours, theirs in _IN_OPTIONS:
        text = text.replace(ours, theirs)
    return text


_logged: set[str] = set()
"""Warnings that the log has said already."""


class LogLines(logging.Handler):
    """Writes what the library logs to standard error, on lines of its own.

    Args:
        is_service: Whether the command has a log of its own, which writes them.
    """

    def __init__(self, *, is_service: bool) -> None:
        super().__init__(logging.WARNING)
        self._is_service = is_service

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        message = record.getMessage()
        if hasattr(record, "warning_category"):
            _logged.add(message)
        if not self._is_service:
            write(sys.stderr, f"langchain-resilient: {in_options(message)}\n")


def show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Show a warning as the command line shows its messages; for `warnings.showwarning`."""
    if str(message) not in _logged:
        write(sys.stderr, f"langchain-resilient: {in_options(str(message))}\n")
