"""Counts what one call walks through: files, functions and objects of the package.

`verification.readers_measure` runs this file in a process of its own, with the tree that is to be
measured on the path. It prints JSON: counts by kind of call (`ainvoke`, `astream` of 20 chunks,
`abatch` of 8), each call made when everything is warm, against `ProviderSimulator` on loopback.

How it counts:

- Functions: `sys.setprofile` and `threading.setprofile` report each Python frame. A frame counts
  where it begins, not where a generator or coroutine is resumed (the argument of its `RESUME`
  instruction is 0 then), and if its file lies in the package outside of `testing`, `simulation`
  and `demo`. Comprehensions are part of their function, because only Python 3.11 makes frames of
  them. Generated methods (`__init__` of a dataclass) have no file and are not counted.
- Objects: `__init__` of every class of the package is wrapped, and counts an instance once, by its
  own class. Classes are those which `object.__subclasses__()` reaches, so nested and local ones
  are seen. What skips `__init__` (`copy`, `NamedTuple._replace`, pydantic's `model_construct`) is
  not seen, nor are enums, protocols and the members of a `TypedDict`.

Functions are counted first and objects afterwards, so the wrappers are not among the functions.
Each figure is the median of some runs, for the number of reads that a socket needs varies.
"""

from __future__ import annotations

import asyncio
import enum
import functools
import gc
import json
import statistics
import sys
import threading
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from types import CodeType, FrameType

ASIDE = ("testing", "simulation", "demo")
"""Rooms of the package that are not the product."""

CHUNKS, BATCH, WARM_UP, RUNS = 20, 8, 20, 5
_COMPREHENSIONS = {"<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>"}
_Counts = dict[str, Any]


class Tracer:
    """Counts the functions of a package that begin while it is on, in every thread.

    Make it before the threads are started: Python 3.11 cannot reach those that run already.
    """

    def __init__(self, home: Path, aside: tuple[str, ...] = ASIDE) -> None:
        self.functions: Counter[tuple[str, str]] = Counter()
        """How often each was entered, by file and qualified name."""
        self._home, self._aside = home, aside
        self._is_on = False
        self._names: dict[CodeType, tuple[str, str] | None] = {}
        self._beginnings: dict[tuple[CodeType, int], bool] = {}
        threading.setprofile(self._profile)

    def _profile(self, frame: FrameType, event: str, _argument: object) -> None:
        if not self._is_on or event != "call":
            return
        code = frame.f_code
        if code not in self._names:
            self._names[code] = self._name(code)
        name = self._names[code]
        if name is not None and self._begins(code, frame.f_lasti):
            self.functions[name] += 1

    def _name(self, code: CodeType) -> tuple[str, str] | None:
        path = Path(code.co_filename)
        if code.co_name in _COMPREHENSIONS or not path.is_relative_to(self._home):
            return None
        file = path.relative_to(self._home)
        if file.parts[0].removesuffix(".py") in self._aside:
            return None
        return file.as_posix(), code.co_qualname

    def _begins(self, code: CodeType, instruction: int) -> bool:
        key = code, instruction
        if key not in self._beginnings:
            self._beginnings[key] = code.co_code[instruction + 1] == 0
        return self._beginnings[key]

    @property
    def counts(self) -> dict[str, int]:
        """Distinct files, distinct functions, and calls in all."""
        files = {file for file, _ in self.functions}
        return {
            "files": len(files),
            "functions": len(self.functions),
            "calls": self.functions.total(),
        }

    def __enter__(self) -> Self:
        self.functions.clear()
        self._is_on = True
        sys.setprofile(self._profile)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        self._is_on = False

    def close(self) -> None:
        """Let threads that start from now on run without it."""
        threading.setprofile(None)


def own_classes(package: str, aside: tuple[str, ...] = ASIDE) -> list[type]:
    """Return the live classes of a package whose instances can be counted."""
    seen: set[type] = set()
    waiting: list[type] = [object]
    while waiting:
        below: list[type] = type.__subclasses__(waiting.pop())
        waiting += set(below) - seen
        seen.update(below)
    return [one for one in seen if _is_own(one, package, aside)]


def _is_own(one: type, package: str, aside: tuple[str, ...]) -> bool:
    # A few classes of C libraries keep a descriptor there.
    first, _, rest = str(one.__module__).partition(".")
    if first != package or rest.partition(".")[0] in aside:
        return False
    return not issubclass(one, enum.Enum) and not vars(one).get("_is_protocol", False)


@contextmanager
def counted_objects(classes: list[type]) -> Iterator[Counter[str]]:
    """Count the instances that these classes make, by qualified name, until it is left."""
    created: Counter[str] = Counter()
    with_own_init = {one for one in classes if "__init__" in vars(one)}
    # All are read before any is replaced: a class may inherit the `__init__` of another of them.
    real = {one: one.__init__ for one in classes}  # type: ignore[misc]  # as it was defined
    for one in classes:
        one.__init__ = _counting(one, real[one], created)  # type: ignore[misc]
    try:
        yield created
    finally:
        for one in classes:
            if one in with_own_init:
                one.__init__ = real[one]  # type: ignore[misc]
            else:
                del one.__init__  # type: ignore[misc]


def _counting(owner: type, real: Callable[..., None], created: Counter[str]) -> Callable[..., None]:
    @functools.wraps(real)
    def init(self: object, *args: object, **kwargs: object) -> None:
        if type(self) is owner:
            created[f"{owner.__module__}.{owner.__qualname__}"] += 1
        # `object.__init__` takes arguments only where `__new__` is overridden and it is not.
        if real is not object.__init__:
            real(self, *args, **kwargs)

    return init


async def _measured(home: Path) -> dict[str, _Counts]:
    """Count three kinds of call over one target on loopback."""
    tracer = Tracer(home)

    from langchain_resilient import Hedge, ResilientChatModel, Target
    from langchain_resilient.testing import ProviderSimulator, Reply

    text = " ".join(f"word{number}" for number in range(CHUNKS))
    with ProviderSimulator(seed=0) as sim:
        sim.script("openai:gpt-4o-mini", then=Reply(text, chunk_gap=0.0))
        target = Target("openai:gpt-4o-mini", base_url=sim.base_url("openai"), api_key="any")
        # Counting slows the work down: a learned delay would hedge, and be counted.
        llm = ResilientChatModel(targets=[target], hedge=Hedge(delay=60))

        async def stream() -> None:
            texts = [chunk.text async for chunk in llm.astream("Hello")]
            if sum(map(bool, texts)) != CHUNKS:
                raise RuntimeError(f"{CHUNKS} chunks with text are wanted: {texts}")

        calls: dict[str, Callable[[], Awaitable[Any]]] = {
            "ainvoke": lambda: llm.ainvoke("Hello"),
            "astream": stream,
            "abatch": lambda: llm.abatch(["Hello"] * BATCH),
        }
        gc.disable()  # finalizers run at any time
        counts = {}
        for name, call in calls.items():
            for _ in range(WARM_UP):
                await call()
            counts[name] = await _traced(tracer, call)
        tracer.close()
        with counted_objects(own_classes(home.name)) as created:
            for name, call in calls.items():
                counts[name] |= await _objects(created, call)
    return counts


async def _traced(tracer: Tracer, call: Callable[[], Awaitable[Any]]) -> _Counts:
    runs = []
    names: set[tuple[str, str]] = set()
    for _ in range(RUNS):
        with tracer:
            await call()
        runs.append(tracer.counts)
        names |= tracer.functions.keys()
    medians = {key: int(statistics.median(run[key] for run in runs)) for key in runs[0]}
    return {**medians, "entered": sorted({file for file, _ in names})}


async def _objects(created: Counter[str], call: Callable[[], Awaitable[Any]]) -> _Counts:
    runs: list[Counter[str]] = []
    for _ in range(RUNS):
        created.clear()
        await call()
        runs.append(created.copy())
    total = int(statistics.median(run.total() for run in runs))
    return {"objects": total, "created": dict(sorted(runs[-1].items()))}


def main() -> None:
    """Measure the package that `import langchain_resilient` finds, and print JSON."""
    import langchain_resilient

    home = Path(langchain_resilient.__file__).parent
    counts = asyncio.run(_measured(home))
    sys.stdout.write(json.dumps({"home": str(home), "calls": counts}) + "\n")


if __name__ == "__main__":
    main()
