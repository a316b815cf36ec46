"""Nothing that is read can make anything run: no eval, no pickle, no shell."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import langchain_resilient

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(langchain_resilient.__file__).parent

NAMES = {"eval", "exec", "compile", "__import__"}
MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml", "torch",
           "subprocess", "pty", "ctypes", "code", "runpy"}  # fmt: skip
CALLS = {"os.system", "os.popen", "os.execv", "os.execvp", "os.spawnv", "numpy.load", "np.load"}

ALLOWED = {
    (
        "batch/spool.py",
        "import pickle",
    ): "prompts in a nameless file that only this process has open",
    ("batch/spool.py", "call pickle.loads"): "of what it wrote there itself",
    ("observability/observer.py", "import pickle"): "only writes, to find out who can be pickled",
    (
        "providers/connection.py",
        "import ctypes",
    ): "keeps sockets of a parent from being finalised",
    ("providers/local/model.py", "import ctypes"): "ends the process without C++ destructors",
    (
        "providers/local/weights.py",
        "import subprocess",
    ): "runs the user's pip, without a shell",
}
"""What is used all the same, and why no file and no server can make use of it."""


def _found() -> Iterator[tuple[str, str]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            yield from ((name, what) for what in _dangers(node))


def _dangers(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        names = {alias.name.partition(".")[0] for alias in node.names}
        yield from (f"import {name}" for name in names & MODULES)
    elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in MODULES:
        yield f"import {node.module}"
    elif isinstance(node, ast.Call):
        called = ast.unparse(node.func)
        if called in NAMES | CALLS or called.endswith(("pickle.load", "pickle.loads")):
            yield f"call {called}"
        if any(
            keyword.arg == "shell" and not _is(keyword.value, value=False)
            for keyword in node.keywords
        ):
            yield f"call {called} with a shell"


def _is(node: ast.expr, *, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def test_whatever_could_run_what_it_reads_is_named_with_a_reason():
    """And whatever is named is still there."""
    assert set(_found()) == set(ALLOWED)


def test_pickles_are_never_read():
    """The one module that knows pickle calls nothing of it but `dumps`."""
    tree = ast.parse((PACKAGE / "observability" / "observer.py").read_text())
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle"
    }
    assert used == {"dumps"}
