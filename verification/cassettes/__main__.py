"""Record all cassettes anew: `make record`.

A dialect whose key is in the environment is recorded from the live provider, the other from the
simulator; the embedded model is recorded where the extra `local` is installed.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

from langchain_resilient import Target
from langchain_resilient.prices import price_for
from verification.cassettes.recording import KEYS, LIVE, MAX_LIVE_CALLS, MODEL, MODELS
from verification.cassettes.sources import table, tokens, write_source
from verification.cassettes.store import ENDING, FOLDER, PUBLIC_URLS

CLASSES = {"openai": "TestOpenAI", "together": "TestTogether"}
README = FOLDER / "README.md"
BEGIN, END = "<!-- recorded -->\n", "\n<!-- /recorded -->"


def main() -> int:
    """Record, say from what, and what a live recording costs."""
    live = [dialect for dialect, key in KEYS.items() if os.environ.get(key)]
    for dialect in live:
        print(f"{dialect}: live, {MODELS[dialect]}, {cost(dialect)}")
    failures = [record(dialect, live=dialect in live) for dialect in CLASSES]
    if importlib.util.find_spec("xllamacpp"):
        failures.append(pytest("embedded", "tests/verification/test_embedded_cassette.py"))
        server = "llama.cpp's own OpenAI-compatible HTTP server with the embedded model"
        write_source("embedded", "embedded", server, MODEL, "xllamacpp", "openai")
    show()
    print(README.read_text().partition(BEGIN)[2].partition(END)[0])
    return max(failures)


def record(dialect: str, *, live: bool) -> int:
    """Record the standard suite in one dialect."""
    os.environ[LIVE] = dialect if live else ""
    failed = pytest(dialect, f"tests/standard/test_replay.py::{CLASSES[dialect]}")
    kind = "live" if live else "simulator"
    simulated = f"this package's `ProviderSimulator`, speaking as {dialect}"
    server = PUBLIC_URLS[dialect] if live else simulated
    write_source(dialect, kind, server, MODELS[dialect], dialect, "langchain-tests")
    return failed


def pytest(folder: str, tests: str) -> int:
    """Record what some tests ask, in place of all that lies in a folder."""
    for old in (FOLDER / folder).glob(f"*.{ENDING}"):
        old.unlink()
    options = ["-q", "--record-mode=rewrite", "--benchmark-disable"]
    return subprocess.run([sys.executable, "-m", "pytest", tests, *options], check=False).returncode


def cost(dialect: str) -> str:
    """Tell what a recording costs, by the tokens of the last one and today's list price."""
    given, made = tokens(dialect)
    price = price_for(Target(f"{dialect}:{MODELS[dialect]}"))
    known = f"about ${given * price.input + made * price.output:.4f}" if price else "price unknown"
    bound = f"at most {MAX_LIVE_CALLS} requests"
    return f"{bound}; last time {given:,} tokens in and {made:,} out: {known}"


def show() -> None:
    """Bring the table in the README up to date."""
    head, _, rest = README.read_text().partition(BEGIN)
    README.write_text(head + BEGIN + table() + END + rest.partition(END)[2])


if __name__ == "__main__":
    if sys.argv[1:] == ["show"]:
        show()
        sys.exit(0)
    sys.exit(main())
