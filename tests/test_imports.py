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
    "DroppedParameterWarning",
    "Fault",
    "FaultKind",
    "Health",
    "Hedge",
    "InsecureConnectionWarning",
    "InvalidAnswersError",
    "JournalDamagedError",
    "JournalError",
    "JournalFullError",
    "JournalLockedError",
    "JournalReadOnlyError",
    "MemoryFileWarning",
    "MissingExtraError",
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
    "RetirementWarning",
    "Retry",
    "Shared",
    "SharedStateWarning",
    "SkippedTargetWarning",
    "SpendCap",
    "SpendCapError",
    "Stats",
    "StreamBrokenError",
    "Target",
    "TimeLimits",
    "UnreachableWarning",
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
        (
            "from langchain_resilient import ResilientChatModel",
            # Loaded with the first model, batch, journal, tool, or look at what was done.
            (
                "openai",
                "together",
                "langchain_resilient.providers",
                "langchain_resilient.engine",
                "langchain_resilient.batch.report",
                "langchain_resilient.batch.journal",
                "langchain_resilient.observability.stats",
                "sqlite3",
                "langchain_core.tools.base",
            ),
        ),
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
    outcome = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert outcome.stdout.strip() == "[]"


LAYERS = {
    # module or room: what it may import of the package; arrows point down only
    "faults": set(),
    "receipt": {"faults"},
    "exchange": set(),
    "terminal": set(),
    "threads": set(),
    "notices": set(),
    "sampling": set(),
    "models": set(),
    "policies": {"faults", "sampling"},
    "options": {"models", "policies", "sampling"},
    "errors": {"faults", "receipt"},
    "prices": {"errors", "options", "providers", "receipt"},
    "configurable": set(),
    "binding": {"configurable", "runtime", "wire"},
    "fallbacks": {"faults", "options", "policies", "sampling"},
    "profiles": {"options", "prices", "providers"},
    "configuration": {"fleet", "observability", "options", "policies", "providers", "sampling"},
    "engine": {"engine", "exchange", "faults", "policies", "receipt"},
    "wire": {"exchange", "faults", "notices", "wire"},
    "providers": {
        "errors",
        "exchange",
        "faults",
        "models",
        "notices",
        "options",
        "providers",
        "threads",
        "wire",
    },
    "observability": {
        "_version",
        "engine",
        "errors",
        "faults",
        "observability",
        "options",
        "policies",
        "prices",
        "providers",
        "receipt",
        "threads",
    },
    "fleet": {
        "engine",
        "errors",
        "exchange",
        "faults",
        "fleet",
        "notices",
        "sampling",
    },
    "runtime": {
        "configuration",
        "engine",
        "errors",
        "exchange",
        "faults",
        "fleet",
        "notices",
        "observability",
        "options",
        "policies",
        "prices",
        "providers",
        "receipt",
        "runtime",
        "sampling",
        "threads",
        "wire",
    },
    "batch": {
        "batch",
        "errors",
        "exchange",
        "notices",
        "observability",
        "options",
        "policies",
        "prices",
        "receipt",
        "runtime",
    },
    "ray": {"batch", "errors"},
    "testing": {"testing"},
    "service": {
        "chat_model",
        "configuration",
        "errors",
        "observability",
        "policies",
        "receipt",
        "runtime",
        "sampling",
        "service",
        "wire",
    },
    "demo": {"chat_model", "demo", "observability", "options", "testing"},
    "simulation": {"engine", "exchange", "faults", "policies", "receipt", "simulation"},
}


@pytest.mark.parametrize("room", LAYERS)
def test_arrows_point_down_only(room):
    """The engine knows no provider, a provider no policy, the wire neither."""
    home = PACKAGE / room
    files = sorted(home.rglob("*.py")) if home.is_dir() else [PACKAGE / f"{room}.py"]
    assert files
    wrong = [
        f"{path.name}: {module}"
        for path in files
        for module in _imports(path)
        if module.split(".")[1] not in LAYERS[room] | {room}
    ]
    assert wrong == []


def _imports(path: Path) -> list[str]:
    results = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            "langchain_resilient."
        ):
            results.append(node.module or "")
        elif isinstance(node, ast.ImportFrom) and node.module == "langchain_resilient":
            results.extend(f"langchain_resilient.{alias.name}" for alias in node.names)
    return results


def test_no_import_circles():
    """Not even for type checkers or inside functions: modules of a circle change together.

    That importing `a.b` also runs `a/__init__.py` is not counted: a package that re-exports names
    of its modules would always be a circle with them.
    """
    assert _circles(_import_graph()) == []


def test_a_circle_is_found():
    """The test above can fail."""
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": {"d"}}
    assert _circles(graph) == [["b", "c"], ["d"]]


def _import_graph() -> dict[str, set[str]]:
    """Which modules of the package each of them names in an import, wherever that stands."""
    paths = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        paths[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    graph: dict[str, set[str]] = {name: set() for name in paths}
    for name, path in paths.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                graph[name] |= {alias.name for alias in node.names} & paths.keys()
            elif isinstance(node, ast.ImportFrom):
                base = package.split(".")[: len(package.split(".")) + 1 - node.level]
                source = ".".join([*(base if node.level else []), *filter(None, [node.module])])
                for alias in node.names:
                    submodule = f"{source}.{alias.name}"
                    graph[name] |= {submodule if submodule in paths else source} & paths.keys()
    return graph


def _circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The strongly connected components of several modules, and imports of oneself (Tarjan)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    circles: list[list[str]] = []

    def visit(module: str) -> None:
        order[module] = lowest[module] = len(order)
        stack.append(module)
        for imported in sorted(graph[module]):
            if imported not in order:
                visit(imported)
                lowest[module] = min(lowest[module], lowest[imported])
            elif imported in stack:
                lowest[module] = min(lowest[module], order[imported])
        if lowest[module] == order[module]:
            start = stack.index(module)
            component, stack[start:] = sorted(stack[start:]), []
            if len(component) > 1 or module in graph[module]:
                circles.append(component)

    for module in sorted(graph):
        if module not in order:
            visit(module)
    return sorted(circles)


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
