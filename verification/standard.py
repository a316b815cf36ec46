"""Run LangChain's standard suites and say in one table what came of them: `make standard`."""

from __future__ import annotations

import contextlib
import io
import sys
from collections import Counter, defaultdict

import pytest

from verification.kit.report import Table

WHY = {
    "Model does not support PDF tool message.": (
        "a tool message of chat completions holds text, and no file: the API answers 400"
    ),
    "Model does not support PDF inputs.": "Together's API takes no files",
    "Model does not support audio inputs.": (
        "the Responses API takes none, and the recorded live model does not hear"
    ),
    "VCR not set up.": "there are cassettes of chat completions alone",
    "Model is not serializable.": (
        "`test_serdes`: LangChain's `load` admits only classes of its own packages"
    ),
}
"""What lies behind the suites' own reasons. One that is not here makes the command fail."""


class Summary:
    """A pytest plugin that counts."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)
        self.skips: dict[tuple[str, str], list[str]] = defaultdict(list)
        self.failures: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a test once: by its call, or by what kept it from being called."""
        if report.when != "call" and report.passed:
            return
        module, suite, test = report.nodeid.split("::")
        name = f"{module.rpartition('test_')[2].removesuffix('.py')}: {suite.removeprefix('Test')}"
        self.counts[name][report.outcome] += 1
        if report.failed:
            self.failures.append(f"{report.nodeid}\n{report.longreprtext}")
        if report.skipped and isinstance(report.longrepr, tuple):
            self.skips[test, report.longrepr[2].removeprefix("Skipped: ")].append(name)

    def show(self) -> int:
        """Print it; the exit status."""
        table = Table(("suite", "<30"), ("passed", ">8"), ("skipped", ">9"), ("failed", ">8"))
        print(table.header())
        for name, count in (*self.counts.items(), ("all", sum(self.counts.values(), Counter()))):
            print(table.line(name, count["passed"], count["skipped"], count["failed"]))
        for (test, reason), suites in sorted(self.skips.items()):
            print(f"\nskipped {len(suites)} times: {test}\n  LangChain says: {reason}")
            print(f"  because: {WHY.get(reason, '?')}\n  in {', '.join(suites)}")
        print("", *self.failures, sep="\n")
        unexplained = {reason for _, reason in self.skips} - WHY.keys()
        return int(bool(self.failures or unexplained or not self.counts))


def main() -> int:
    """Run the suites quietly."""
    summary, noise = Summary(), io.StringIO()
    with contextlib.redirect_stdout(noise):
        files = [f"tests/standard/test_{name}.py" for name in ("unit", "integration", "replay")]
        status = pytest.main([*files, "-q", "--benchmark-disable"], plugins=[summary])
    if status and not summary.failures:
        print(noise.getvalue())
    return summary.show() or int(status)


if __name__ == "__main__":
    sys.exit(main())
