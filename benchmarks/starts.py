"""What importing costs, in fresh processes, interleaved; and how large an installation is."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.contenders import RUST
from benchmarks.environments import ROOT, SHARED, installed, python_of
from benchmarks.figures import add

if TYPE_CHECKING:
    from benchmarks.figures import Rounds

CORE = "langchain-core alone"
"""What any LangChain chat model must import: ours is measured against it."""

ONLY_OURS = "ours, package alone"

IMPORTS = {
    "raw aiohttp": "import aiohttp",
    "openai SDK": "import openai",
    "openai SDK on aiohttp": "from openai import DefaultAioHttpClient",
    "ChatOpenAI": "from langchain_openai import ChatOpenAI",
    "ChatOpenAI + retry + fallbacks": "from langchain_openai import ChatOpenAI",
    "litellm acompletion": "import litellm",
    "litellm Router": "from litellm import Router",
    "pydantic-ai FallbackModel": (
        "from pydantic_ai.models.fallback import FallbackModel\n"
        "from pydantic_ai.models.openai import OpenAIChatModel"
    ),
    RUST: "import liter_llm",
    "ours": "from langchain_resilient import ResilientChatModel",
    "ours, plain": "from langchain_resilient import ResilientChatModel",
    CORE: "from langchain_core.language_models import BaseChatModel",
    ONLY_OURS: "import langchain_resilient",
}
"""What a user writes first."""

_SCRIPT = """
import json, os, sys, time
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
loaded, began = len(sys.modules), time.process_time()
{statement}
cpu = time.process_time() - began
print(json.dumps({{"cpu": cpu, "modules": len(sys.modules) - loaded}}))
"""

PACKAGES = {
    "raw aiohttp": "aiohttp",
    "openai SDK": "openai",
    "openai SDK on aiohttp": "openai[aiohttp]",
    "ChatOpenAI": "langchain-openai",
    "ChatOpenAI + retry + fallbacks": "langchain-openai",
    "litellm acompletion": "litellm",
    "litellm Router": "litellm",
    "pydantic-ai FallbackModel": "pydantic-ai-slim[openai]",
    RUST: "liter-llm",
    "ours": str(ROOT),
    "ours, plain": str(ROOT),
    CORE: "langchain-core",
}

SIZES = SHARED / "sizes.json"
"""Kept between runs: installing takes minutes and the network."""


def imports(count: int, rounds: Rounds) -> None:
    """Import each in so many fresh processes; the first of them, which reads the disk, is left out.

    Args:
        count: How many.
        rounds: Where to note `import` and `modules`.
    """
    for number in range(count + 1):
        for name in installed(IMPORTS):
            result = _import(python_of(name), IMPORTS[name])
            if number:
                add(rounds, "import", name, result["cpu"])
                add(rounds, "modules", name, result["modules"])


def _import(python: str, statement: str) -> dict[str, float]:
    script = _SCRIPT.format(statement=statement)
    done = subprocess.run([python, "-c", script], capture_output=True, text=True, check=True)
    parsed: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return parsed


def measure_sizes() -> None:
    """Install each alone, with all it depends on, into an empty folder, and keep the MB."""
    fields: dict[str, float] = {}
    for package in dict.fromkeys(PACKAGES.values()):
        folder = tempfile.mkdtemp(prefix="size-")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile"]
        try:
            subprocess.run([*command, "--target", folder, package], check=True)
            fields[package] = _size(Path(folder))
        finally:
            shutil.rmtree(folder)
        name = "this package" if package == str(ROOT) else package
        print(f"{name:28} {fields[package]:7.1f} MB", flush=True)
    SIZES.parent.mkdir(exist_ok=True)
    SIZES.write_text(json.dumps({n: fields[p] for n, p in PACKAGES.items()}, indent=1))


def _size(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def known_sizes(rounds: Rounds) -> None:
    """Note what `measure_sizes` found before, if it did."""
    if SIZES.exists():
        for name, size in json.loads(SIZES.read_text()).items():
            add(rounds, "installed", name, size)
