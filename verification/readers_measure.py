"""`python -m verification.readers_measure`: what a reader of the package has to carry.

    python -m verification.readers_measure [--root DIR] [--json] [--static]

DIR is the directory of the package, of this or of any other version of the tree; nothing in it but
its public names is relied on. Two columns: the product (the package without `testing`, `simulation`
and `demo`) and the whole package. It is a reader's measure and no target: where a smaller number
would make worse code, leave it.

What is counted:

- Code lines are those with a token that is neither a comment nor a docstring (of an attribute
  either). Small files have under 60 lines in all, large ones over 600.
- An importer is another module of the package that names this one in an import statement, wherever
  it stands. Imports by a string (a lazy `__getattr__`) and parent packages, which Python imports
  by the way, do not count. "For types" are imports under `if TYPE_CHECKING`.
- A private helper is a function or method whose name begins with one underscore. It has one call
  site if the package names it once, and calls it there (else it is a callback or a property, say).
  `self._x` in a class with an `_x` is that one; any other `._x` could be any class's. A method
  that overrides another or is overridden is a hook, and not counted.
- A circle is a strongly connected part of the graph of imports. Those inside functions count.
- The length of a function is its lines of code, without docstring, comments and blank lines.
- A class implements a protocol if it names it as a base or has all its members. Protocols of
  `__call__` alone are left out: any function may be one.
- A function passes through if it only returns a call with its own parameters, all and in order.
  Decorated ones, dunder methods and those without parameters are left out.
- The counts of one call are explained in `verification/readers_calls.py`.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import os
import subprocess
import sys
import tokenize
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from verification.readers_calls import ASIDE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

HERE = Path(__file__).parent
SMALL, LARGE = 60, 600
_LAYOUT = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
_DIRECTIVES = ("noqa", "type:", "pragma:", "fmt:", "pyright:", "mypy:")
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Graph = dict[str, set[str]]


@dataclass
class Module:
    """One file, parsed."""

    name: str
    """Dotted, and relative to the package: `""` is its `__init__`."""
    tree: ast.Module
    lines: int
    code: set[int]
    """The numbers of the lines that hold code."""
    comments: list[str]
    is_package: bool
    runtime: set[str] = field(default_factory=set)
    """The modules of the package that it imports when it runs."""
    typing: set[str] = field(default_factory=set)
    """Those that only a type checker sees it import."""

    @property
    def room(self) -> str:
        """The directory right below the package; `"."` for the modules beside it."""
        first, dot, _ = self.name.partition(".")
        return first if dot or (self.is_package and first) else "."

    @property
    def is_aside(self) -> bool:
        """Whether it belongs to the package but not to the product."""
        return self.name.partition(".")[0] in ASIDE


@dataclass
class Definition:
    """A function or a method."""

    module: Module
    node: _Function
    owner: str
    """The class whose method it is, or nothing."""
    path: str
    """As `__qualname__` would say it, without `<locals>`."""

    @property
    def label(self) -> str:
        """Where it is: `engine.race:Race._start`."""
        return f"{self.module.name or '__init__'}:{self.path}"


@dataclass
class Class:
    """A class, with what it has of its own."""

    module: Module
    node: ast.ClassDef
    bases: set[str]
    members: set[str]

    @property
    def label(self) -> str:
        """Where it is: `engine.race:Race`."""
        return f"{self.module.name or '__init__'}:{self.node.name}"


def load(root: Path) -> list[Module]:
    """Parse every module of the package in `root`, and find out who imports whom."""
    modules = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        modules[name] = _parsed(name, path.read_text(encoding="utf-8"), is_package)
    for module in modules.values():
        for imported, is_typing in _imports(module, root.name, modules.keys()):
            if imported != module.name:
                (module.typing if is_typing else module.runtime).add(imported)
    return list(modules.values())


def _parsed(name: str, text: str, is_package: bool) -> Module:
    tree = ast.parse(text)
    tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    code = {
        line
        for token in tokens
        if token.type not in {*_LAYOUT, tokenize.COMMENT}
        for line in range(token.start[0], token.end[0] + 1)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and _is_text(node.value):
            code.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    comments = [token.string for token in tokens if token.type == tokenize.COMMENT]
    return Module(name, tree, len(text.splitlines()), code, comments, is_package)


def _comment_share(modules: Sequence[Module]) -> float:
    """Count the comments that speak to a reader, and not only direct a tool, per 100 lines."""
    comments = [text.lstrip("# ") for module in modules for text in module.comments]
    lines = sum(len(module.code) for module in modules)
    speaking = sum(not text.startswith(_DIRECTIVES) for text in comments)
    return round(100 * speaking / lines, 1) if lines else 0.0


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _imports(module: Module, package: str, names: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """Yield what a module imports of the package, and whether it does so for types alone."""
    known = set(names)
    for node, is_typing in _with_typing(module.tree, is_typing=False):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            source = _source(node, module, package)
            inner = [f"{source}.{alias.name}" for alias in node.names]
            targets = [one if _relative(one, package) in known else source for one in inner]
        else:
            continue
        for target in targets:
            relative = _relative(target, package)
            if relative in known:
                yield relative, is_typing


def _source(node: ast.ImportFrom, module: Module, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = [package, *filter(None, module.name.split("."))]
    above = node.level - module.is_package
    parts = parts[: len(parts) - above]
    return ".".join([*parts, *filter(None, [node.module])])


def _relative(name: str, package: str) -> str | None:
    if name == package:
        return ""
    return name.removeprefix(f"{package}.") if name.startswith(f"{package}.") else None


def _with_typing(node: ast.AST, *, is_typing: bool) -> Iterator[tuple[ast.AST, bool]]:
    yield node, is_typing
    if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
        for statement in node.body:
            yield from _with_typing(statement, is_typing=True)
        for statement in node.orelse:
            yield from _with_typing(statement, is_typing=is_typing)
        return
    for child in ast.iter_child_nodes(node):
        yield from _with_typing(child, is_typing=is_typing)


def importers(modules: Sequence[Module], *, typing: bool) -> _Graph:
    """Return who imports each module, with or without what only type checkers see."""
    result: _Graph = defaultdict(set)
    for module in modules:
        for name in module.runtime | (module.typing if typing else set()):
            result[name].add(module.name)
    return result


def circles(modules: Sequence[Module], *, typing: bool) -> list[list[str]]:
    """Return the strongly connected parts of more than one module: each is a circle or several."""
    graph = {one.name: one.runtime | (one.typing if typing else set()) for one in modules}
    reachable = {name: _reachable(graph, name) for name in graph}
    parts = {
        tuple(sorted(other for other in reachable[name] if name in reachable[other]))
        for name in graph
        if name in reachable[name]
    }
    return [[name or "__init__" for name in part] for part in sorted(parts)]


def _reachable(graph: _Graph, start: str) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        for name in graph.get(waiting.pop(), set()) - seen:
            seen.add(name)
            waiting.append(name)
    return seen


def definitions(
    module: Module, node: ast.AST | None = None, owner: str = "", path: tuple[str, ...] = ()
) -> Iterator[Definition]:
    """Yield each function and method of a module (or of a node in it), nested ones too."""
    for child in ast.iter_child_nodes(node or module.tree):
        inner = path
        if isinstance(child, (*_FUNCTIONS, ast.ClassDef)):
            inner = (*path, child.name)
        if isinstance(child, _FUNCTIONS):
            yield Definition(module, child, owner, ".".join(inner))
            yield from definitions(module, child, "", inner)
        else:
            below = child.name if isinstance(child, ast.ClassDef) else owner
            yield from definitions(module, child, below, inner)


def classes(module: Module) -> list[Class]:
    """Return each class of a module, nested ones too."""
    return [
        Class(module, node, {_last(base) for base in node.bases}, _members(node))
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef)
    ]


def _last(node: ast.expr) -> str:
    """Return the last part of a dotted name, without what stands in brackets after it."""
    return ast.unparse(node).partition("[")[0].rpartition(".")[2]


def _members(node: ast.ClassDef) -> set[str]:
    result = set()
    for child in node.body:
        if isinstance(child, _FUNCTIONS):
            result.add(child.name)
        elif isinstance(child, ast.AnnAssign) and isinstance(child.target, ast.Name):
            result.add(child.target.id)
        elif isinstance(child, ast.Assign):
            result |= {one.id for one in child.targets if isinstance(one, ast.Name)}
    for inner in ast.walk(node):
        if (
            isinstance(inner, ast.Attribute)
            and isinstance(inner.ctx, ast.Store)
            and ast.unparse(inner.value) == "self"
        ):
            result.add(inner.attr)
    return result


@dataclass
class _Use:
    """A place that names a private function: by its bare name, of `self`, or of another object."""

    name: str
    module: Module
    owner: str
    kind: Literal["bare", "own", "other"]
    is_call: bool


def named_once(modules: Sequence[Module]) -> dict[str, bool]:
    """Return the private helpers that the package names once, and whether it calls them there."""
    own_classes = [one for module in modules for one in classes(module)]
    ancestors = _ancestors(own_classes)
    uses: dict[str, list[_Use]] = defaultdict(list)
    for module in modules:
        for use in _uses(module, module.tree, ""):
            uses[use.name].append(use)
    private: dict[str, list[Definition]] = defaultdict(list)
    for module in modules:
        for one in definitions(module):
            if one.node.name.startswith("_") and not one.node.name.startswith("__"):
                private[one.node.name].append(one)
    result = {}
    for name, eligible in private.items():
        for one in eligible:
            if one.owner and _is_hook(one, own_classes, ancestors):
                continue
            places = [use for use in uses[name] if _may_mean(use, one, eligible)]
            if len(places) == 1:
                result[one.label] = places[0].is_call
    return result


def _uses(module: Module, node: ast.AST, owner: str) -> Iterator[_Use]:
    called = node.func if isinstance(node, ast.Call) else None
    for child in ast.iter_child_nodes(node):
        is_call = child is called
        if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Load):
            yield _Use(child.id, module, owner, "bare", is_call)
        elif isinstance(child, ast.Attribute) and isinstance(child.ctx, ast.Load):
            value = child.value
            if ast.unparse(value) == "super()":
                continue  # means another class's
            is_own = isinstance(value, ast.Name) and value.id in {"self", "cls", owner}
            yield _Use(child.attr, module, owner, "own" if is_own else "other", is_call)
        inner = child.name if isinstance(child, ast.ClassDef) else owner
        yield from _uses(module, child, inner)


def _may_mean(use: _Use, one: Definition, eligible: list[Definition]) -> bool:
    """Tell whether the name at this place may be that of this function."""
    if use.kind == "bare":
        if one.owner or use.module is one.module:
            return not one.owner
        imported = one.module.name in use.module.runtime | use.module.typing
        return imported and all(other.module is not use.module for other in eligible)
    if use.kind == "own":
        own = [d for d in eligible if d.module is use.module and d.owner == use.owner]
        return one in own if own else bool(one.owner)
    return True


def _ancestors(own_classes: Sequence[Class]) -> _Graph:
    graph: _Graph = defaultdict(set)
    for one in own_classes:
        graph[one.node.name] |= one.bases
    return {name: _reachable(graph, name) for name in list(graph)}


def _is_hook(one: Definition, own_classes: Sequence[Class], ancestors: _Graph) -> bool:
    """Tell whether a class above or below this method's has a member of its name."""
    related = {name for name, above in ancestors.items() if one.owner in above}
    related |= ancestors[one.owner]
    return any(c.node.name in related and one.node.name in c.members for c in own_classes)


def duplicates(own_classes: Sequence[Class]) -> dict[str, list[str]]:
    """Return the names that classes of several modules bear, with the modules."""
    places: dict[str, list[str]] = defaultdict(list)
    for one in own_classes:
        places[one.node.name].append(one.module.name or "__init__")
    several = {name: sorted(set(where)) for name, where in sorted(places.items())}
    return {name: where for name, where in several.items() if len(where) > 1}


def single_protocols(own_classes: Sequence[Class]) -> dict[str, str]:
    """Return the protocols that one class of the package implements, each with that class."""
    ancestors = _ancestors(own_classes)
    members: _Graph = defaultdict(set)
    for one in own_classes:
        members[one.node.name] |= one.members

    def all_members(one: Class) -> set[str]:
        inherited = (members[name] for name in ancestors[one.node.name] if name in members)
        return one.members.union(*inherited)

    result = {}
    for protocol in own_classes:
        needed = all_members(protocol)
        if "Protocol" not in protocol.bases or needed <= {"__call__"}:
            continue
        implementing = [
            one.label
            for one in own_classes
            if "Protocol" not in one.bases
            and (protocol.node.name in ancestors[one.node.name] or needed <= all_members(one))
        ]
        if len(implementing) == 1:
            result[protocol.label] = implementing[0]
    return result


def passes_through(one: Definition) -> bool:
    """Tell whether a function only hands its parameters on to another."""
    decorators = {ast.unparse(node) for node in one.node.decorator_list}
    if decorators - {"staticmethod", "classmethod"} or one.node.name.startswith("__"):
        return False
    body = one.node.body
    if isinstance(body[0], ast.Expr) and _is_text(body[0].value):
        body = body[1:]
    if len(body) != 1 or not isinstance(body[0], ast.Return):
        return False
    value = body[0].value
    if isinstance(value, ast.Await):
        value = value.value
    if not isinstance(value, ast.Call):
        return False
    parameters = one.node.args
    positional = [arg.arg for arg in (*parameters.posonlyargs, *parameters.args)]
    if one.owner and "staticmethod" not in decorators:
        positional = positional[1:]
    stars = [f"*{parameters.vararg.arg}"] if parameters.vararg else []
    keywords = {arg.arg: arg.arg for arg in parameters.kwonlyargs}
    if parameters.kwarg:
        keywords["**"] = parameters.kwarg.arg
    given = [ast.unparse(arg) for arg in value.args]
    for_names = {keyword.arg or "**": ast.unparse(keyword.value) for keyword in value.keywords}
    # What the caller may give by position can be handed on by its name.
    handed_on = given + [name for name in positional if for_names.get(name) == name]
    rest = {key: text for key, text in for_names.items() if key not in positional}
    takes_any = bool(positional or stars or keywords)
    return takes_any and handed_on == positional + stars and rest == keywords


def _length(one: Definition) -> int:
    first, last = one.node.lineno, one.node.end_lineno or one.node.lineno
    return len(one.module.code.intersection(range(first, last + 1)))


def _percentile(values: Sequence[int], share: float) -> int:
    """Return the value that at least this share of the values do not exceed; 0 for none."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)] if ordered else 0


def count(modules: Sequence[Module], scope: Sequence[Module]) -> dict[str, Any]:
    """Count what a reader of the modules in `scope` meets.

    Args:
        modules: All of the package: importers, callers and implementations are looked for in all.
        scope: Those to count.
    """
    functions = [one for module in scope for one in definitions(module)]
    lengths = [_length(one) for one in functions]
    comments = [text for module in scope for text in module.comments]
    lists = _lists(modules, scope, functions)
    single, runtime = lists["one importer"], importers(modules, typing=False)
    numbers = {
        "files": len(scope),
        "lines of code": sum(len(one.code) for one in scope),
        "lines in all": sum(one.lines for one in scope),
        f"files under {SMALL} lines": sum(one.lines < SMALL for one in scope),
        f"files over {LARGE} lines": len(lists["large files"]),
        "modules with one importer": len(single),
        "  of these, for types only": sum(not runtime[name] for name in single),
        "modules with one importer at run time": len(lists["one importer at run time"]),
        "functions and methods": len(functions),
        "private helpers named once": len(lists["named once"]),
        "  of these, called there": sum(lists["named once"].values()),
        "classes": sum(len(classes(one)) for one in scope),
        "class names in several modules": len(lists["duplicate classes"]),
        "import circles at run time": len(lists["circles at run time"]),
        "import circles with types": len(lists["circles with types"]),
        "modules in circles with types": sum(map(len, lists["circles with types"])),
        "protocols with one implementation": len(lists["single protocols"]),
        "pass-through functions": len(lists["pass-throughs"]),
        "noqa": sum("noqa" in text for text in comments),
        "type: ignore": sum("type: ignore" in text for text in comments),
        "function length p50, lines": _percentile(lengths, 0.5),
        "function length p95, lines": _percentile(lengths, 0.95),
        "comments per 100 lines of code": _comment_share(scope),
    }
    rooms: dict[str, list[Module]] = defaultdict(list)
    for module in sorted(scope, key=lambda one: one.room):
        rooms[module.room].append(module)
    shares = {room: _comment_share(members) for room, members in rooms.items()}
    return {"numbers": numbers, "comments by room": shares, "lists": lists}


def _lists(
    modules: Sequence[Module], scope: Sequence[Module], functions: Sequence[Definition]
) -> dict[str, Any]:
    """Name what is counted, where a reader may want to look at it."""
    everywhere = [one for module in modules for one in classes(module)]
    protocols, once = single_protocols(everywhere), named_once(modules)
    inside = {one.name or "__init__" for one in scope}
    return {
        "one importer": _single(importers(modules, typing=True), scope),
        "one importer at run time": _single(importers(modules, typing=False), scope),
        "named once": {
            name: is_call for name, is_call in once.items() if name.partition(":")[0] in inside
        },
        "duplicate classes": duplicates([one for one in everywhere if one.module in scope]),
        "circles at run time": circles(scope, typing=False),
        "circles with types": circles(scope, typing=True),
        "single protocols": {
            name: one for name, one in protocols.items() if name.partition(":")[0] in inside
        },
        "pass-throughs": sorted(one.label for one in functions if passes_through(one)),
        "large files": sorted(one.name for one in scope if one.lines > LARGE),
    }


def _single(graph: _Graph, scope: Sequence[Module]) -> dict[str, str]:
    """Return the modules that one other imports, each with that one."""
    names = [one.name for one in scope if len(graph[one.name]) == 1]
    return {name: min(graph[name]) or "__init__" for name in names}


def measure(root: Path, *, calls: bool = True) -> dict[str, Any]:
    """Measure the package in a directory: its text, and what calls walk through."""
    modules = load(root)
    result: dict[str, Any] = {
        "product": count(modules, [one for one in modules if not one.is_aside]),
        "package": count(modules, modules),
    }
    if calls:
        result["calls"] = measured_calls(root)
    return result


def measured_calls(root: Path) -> dict[str, Any]:
    """Count what calls walk through, in a process that imports the package in this directory.

    Raises:
        RuntimeError: If another version of the package was imported.
    """
    # -P: the directory of the program must not shadow what the package imports.
    command = [sys.executable, "-P", str(HERE / "readers_calls.py")]
    path = os.pathsep.join(filter(None, [str(root.parent), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, check=True
    )
    result: dict[str, Any] = json.loads(done.stdout)
    if Path(result["home"]).resolve() != root:
        raise RuntimeError(f"{result['home']} was imported, and not {root}")
    calls: dict[str, Any] = result["calls"]
    return calls


def table(result: dict[str, Any]) -> list[str]:
    """Lay out a measure in plain lines."""
    product, package = result["product"], result["package"]
    rows = [("", "product", "package")]
    rows += [(key, str(n), str(package["numbers"][key])) for key, n in product["numbers"].items()]
    rows += [
        (f"  in {room}", str(product["comments by room"].get(room, "-")), str(share))
        for room, share in package["comments by room"].items()
    ]
    lines = [f"{label:<42}{one:>9}{other:>9}" for label, one, other in rows]
    if "calls" in result:
        kinds = ("files", "functions", "calls", "objects")
        lines += ["", f"{'one warm call, product':<24}" + "".join(f"{kind:>11}" for kind in kinds)]
        lines += [
            f"{name:<24}" + "".join(f"{counts[kind]:>11}" for kind in kinds)
            for name, counts in result["calls"].items()
        ]
    lists = package["lists"]
    lines += ["", "class names in several modules of the package:"]
    lines += [
        f"  {name:<24}{', '.join(where)}" for name, where in lists["duplicate classes"].items()
    ]
    for kind in ("circles at run time", "circles with types"):
        lines += ["", f"import {kind}:", *(f"  {', '.join(circle)}" for circle in lists[kind])]
    lines += ["", "protocols with one implementation:"]
    lines += [f"  {name:<44}{one}" for name, one in lists["single protocols"].items()]
    lines += ["", "pass-through functions:", *(f"  {name}" for name in lists["pass-throughs"])]
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m verification.readers_measure")
    parser.add_argument(
        "--root",
        type=Path,
        default=HERE.parent / "langchain_resilient",
        help="the directory of the package (default: this tree's)",
    )
    parser.add_argument("--json", action="store_true", help="print all lists too, as JSON")
    parser.add_argument("--static", action="store_true", help="make no calls")
    options = parser.parse_args(arguments)
    result = measure(options.root.resolve(), calls=not options.static)
    text = json.dumps(result, indent=1) if options.json else "\n".join(table(result))
    sys.stdout.write(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
