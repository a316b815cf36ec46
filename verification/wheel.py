"""`python -m verification.wheel`: build the wheel, look into it, install it elsewhere, and use it.

It is installed without extras into an empty environment, which needs a package index. There a
user's first lines run, and mypy reads the types of the installed package, which needs `py.typed`.
What the installation brought is listed.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import zipfile
from email import message_from_bytes
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from email.message import Message

ROOT = Path(__file__).parents[1]
PACKAGE = "langchain_resilient"

FIRST_LINES = """
from langchain_resilient import ResilientChatModel, Target
from langchain_resilient.testing import ProviderSimulator, Status

with ProviderSimulator() as sim:
    sim.script("openai:*", then=Status(500))
    llm = ResilientChatModel(
        targets=[
            Target("openai:m", base_url=sim.base_url("openai"), api_key="test"),
            Target("together:m/m", base_url=sim.base_url("together"), api_key="test"),
        ]
    )
    print(llm.invoke("Say exactly: hello").text)
"""
TYPED = """
from langchain_resilient import ResilientChatModel

llm = ResilientChatModel(targets=["text:hello"])
reveal_type(llm.stats().calls)
llm.stats().calls.upper()
"""
"""An error that only types can show: without `py.typed` everything would be `Any`."""

TREE = """
from importlib.metadata import distributions, requires
from packaging.requirements import Requirement

def closure(name, extras=(), seen=()):
    seen = set(seen) | {name}
    for text in requires(name) or ():
        one = Requirement(text)
        wanted = one.marker is None or any(one.marker.evaluate({"extra": e}) for e in ("", *extras))
        other = one.name.lower().replace("_", "-")
        if wanted and other not in seen:
            seen = closure(other, one.extras, seen)
    return seen

frame = closure("langchain-core") | closure("openai", ("aiohttp",))
together = closure("together", ("aiohttp",)) - frame
print(len(list(distributions())), "packages; by together alone:", ", ".join(sorted(together)))
"""


def build(folder: Path) -> Path:
    """Build the wheel.

    Returns:
        Its path.
    """
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
        cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    (wheel,) = folder.glob("*.whl")
    return wheel


def names(wheel: Path) -> set[str]:
    """The files in it."""
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def metadata(wheel: Path) -> Message:
    """What package indexes show of it; the README is its payload."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        return message_from_bytes(archive.read(name))


def faults(wheel: Path) -> list[str]:
    """What is wrong with it: files missing or too many, `py.typed`, links that lead nowhere."""
    found = {name for name in names(wheel) if ".dist-info/" not in name}
    package = [path for path in (ROOT / PACKAGE).rglob("*") if path.is_file()]
    compiled = "__pycache__"
    wanted = {str(path.relative_to(ROOT)) for path in package if compiled not in path.parts}
    wrong = [f"{name} is missing" for name in sorted(wanted - found)]
    wrong += [f"{name} does not belong there" for name in sorted(found - wanted)]
    if f"{PACKAGE}/py.typed" not in found:
        wrong.append("py.typed is missing: type checkers would not read the types")
    description = metadata(wheel).get_payload()
    relative = re.findall(r"\](?:\(|: )(?!https://|#)([^)\s]+)", str(description))
    return wrong + [f"{link} leads nowhere from a package index" for link in relative]


def use(wheel: Path, folder: Path) -> list[str]:
    """Install it into an empty environment and do what a user does first.

    Returns:
        What did not work.
    """
    python = folder / "environment" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", folder / "environment"], check=True)
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, wheel], check=True)
    command = [python.with_name("langchain-resilient"), "ask", "--quiet", "-t", "text:hello", "Hi"]
    wrong = []
    for what, run in (("the first lines", [python, "-c", FIRST_LINES]), ("the command", command)):
        done = subprocess.run(run, cwd=folder, capture_output=True, text=True, check=False)
        if done.stdout.strip() != "hello":
            wrong.append(f"{what}: {done.stdout}{done.stderr}")
    user = folder / "user.py"
    user.write_text(TYPED)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--python-executable", python, user],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    typed = 'Revealed type is "int"' in done.stdout.replace("builtins.", "")
    if not typed or '"int" has no attribute "upper"' not in done.stdout:
        wrong.append(f"mypy: {done.stdout}{done.stderr}")
    tree = subprocess.run([python, "-c", TREE], capture_output=True, text=True, check=True)
    print(tree.stdout.strip())
    return wrong


def main() -> int:
    """Do all of it; 0 if nothing is wrong."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = build(folder)
        wrong = faults(wheel) + use(wheel, folder)
    for fault in wrong:
        print(fault)
    print(f"{wheel.name} on Python {sys.version.split()[0]}: {len(wrong)} faults")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
