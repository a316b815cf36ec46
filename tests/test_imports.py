"""What `import langchain_resilient` gives, and what it must not load."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import langchain_resilient

PACKAGE = Path(langchain_resilient.__file__).parent

EXPECTED_ALL = [
    "AllTargetsFailedError",
    "AttemptKind",
    "AttemptRecord",
    "AuthenticationFailedError",
    "BatchProgress",
    "BatchReport",
    "CallDetails",
    "ContextTooLongError",
    "DeadlineExceededError",
    "Fault",
    "FaultKind",
    "Health",
    "Hedge",
    "InvalidAnswersError",
    "JournalDamagedError",
    "JournalError",
    "JournalFullError",
    "JournalLockedError",
    "JournalReadOnlyError",
    "ModelsNotFoundError",
    "NoTargetsError",
    "NotAJournalError",
    "Observer",
    "Outcome",
    "RateLimitedError",
    "Receipt",
    "RequestRejectedError",
    "ResilientChatModel",
    "ResilientError",
    "Retry",
    "SpendCap",
    "SpendCapError",
    "Stats",
    "StreamBrokenError",
    "Target",
    "Timeouts",
    "__version__",
    "sum_chunks",
]


def test_the_public_names():
    """Sorted, complete, and each of them loads."""
    assert langchain_resilient.__all__ == EXPECTED_ALL == sorted(EXPECTED_ALL)
    for name in EXPECTED_ALL:
        assert getattr(langchain_resilient, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    """As from any module."""
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = langchain_resilient.Nonsense


_MAKE = "r.ResilientChatModel(targets=['openai:m'], api_key='k')"
_CALL = """
from langchain_core.language_models import FakeListChatModel
from langchain_resilient import ResilientChatModel
ResilientChatModel(targets=[FakeListChatModel(responses=["yes"])]).invoke("hello")"""


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        (
            "import langchain_resilient",
            ("langchain_core", "openai", "together", "aiohttp", "tenacity", "genai_prices"),
        ),
        ("from langchain_resilient import ResilientChatModel", ("openai", "together")),
        (
            "import langchain_resilient as r\n" + _MAKE,
            ("openai", "together", "xllamacpp", "genai_prices"),
        ),
        (_CALL, ("openai", "together", "xllamacpp", "genai_prices")),
    ],
)
def test_nothing_heavy_is_loaded_before_it_is_needed(code, absent):
    """Not the SDKs; aiohttp is loaded by langsmith itself, which langchain-core imports."""
    script = f"{code}\nimport sys\nprint([m for m in {absent!r} if m in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout.strip() == "[]"


ROOMS = {
    # room: what it may import of the package; arrows point down only
    "fault": set(),
    "receipt": {"fault"},
    "request": set(),
    "quota": set(),
    "sampling": set(),
    "policy": {"fault"},
    "target": {"policy", "sampling"},
    "chunks": {"wire"},
    "errors": {"fault", "receipt"},
    "size": set(),
    "prices": {"errors", "target"},
    "affinity": set(),
    "selection": {
        "affinity",
        "call",
        "config",
        "engine",
        "fault",
        "prices",
        "purse",
        "receipt",
        "registry",
        "size",
        "target",
    },
    "judging": {"call", "engine", "fault", "request", "target", "wire"},
    "spend": {"policy"},
    "purse": {
        "errors",
        "fault",
        "policy",
        "prices",
        "providers",
        "receipt",
        "size",
        "spend",
        "target",
    },
    "batch/face": {"batch", "portal", "prices"},
    "batch/options": {"batch"},
    "batch/ports": {"batch"},
    "batch/source": {"batch"},
    "batch/runner": {"batch", "observability"},
    "batch/progress": {"batch", "errors", "policy"},
    "batch/receipts": {"batch", "fault", "receipt"},
    "batch/report": {"batch", "observability", "policy"},
    "batch/session": {"batch"},
    "batch/tally": {"batch", "observability", "prices", "receipt"},
    "batch/work": {"batch", "priority"},
    "priority": set(),
    "batch/journals": {"batch"},
    "batch/answers": set(),
    "batch/command": {"batch"},
    "batch/files": set(),
    "batch/journal": {"batch", "errors"},
    "batch/journal_command": {"batch"},
    "batch/journal_file": {"errors"},
    "batch/keys": {"target"},
    "batch/stored": set(),
    "observability": {
        "_version",
        "engine",
        "errors",
        "fault",
        "observability",
        "policy",
        "prices",
        "providers",
        "purse",
        "receipt",
        "target",
    },
    "engine": {"engine", "fault", "policy", "quota", "receipt", "request", "size"},
    "providers": {
        "providers",
        "errors",
        "fault",
        "quota",
        "request",
        "target",
        "wire",
        "sampling",
    },
    "wire": {"wire", "fault", "request"},
    "testing": {"testing"},
    "demo": {"demo", "chat_model", "observability", "target", "testing"},
    "simulation": {"simulation", "engine", "fault", "policy", "receipt", "request"},
}


@pytest.mark.parametrize("room", ROOMS)
def test_arrows_point_down_only(room):
    """The engine knows no provider, a provider no policy, the wire neither."""
    home = PACKAGE / room
    files = sorted(home.rglob("*.py")) if home.is_dir() else [PACKAGE / f"{room}.py"]
    assert files
    wrong = [
        f"{path.name}: {module}"
        for path in files
        for module in _imports(path)
        if module.split(".")[1] not in ROOMS[room] | {room}
    ]
    assert wrong == []


def _imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            "langchain_resilient."
        ):
            found.append(node.module or "")
        elif isinstance(node, ast.ImportFrom) and node.module == "langchain_resilient":
            found.extend(f"langchain_resilient.{alias.name}" for alias in node.names)
    return found


def test_the_engine_reads_no_clock_and_no_global_randomness():
    """A seed must replay a run exactly: time and randomness are given."""
    banned = {"time", "random", "datetime"}
    for path in sorted((PACKAGE / "engine").glob("*.py")):
        tree = ast.parse(path.read_text())
        type_only = {
            id(node)
            for block in ast.walk(tree)
            if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
            for node in ast.walk(block)
        }
        for node in ast.walk(tree):
            if id(node) in type_only:
                continue
            if isinstance(node, ast.Import):
                assert not banned & {a.name for a in node.names}, path.name
            elif isinstance(node, ast.ImportFrom):
                assert node.module not in banned, path.name
