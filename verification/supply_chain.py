"""Audit the runtime dependencies (`make audit`), or list them (`make sbom`).

pip-audit alone would exit with 0 and "No known vulnerabilities" if the service knows nothing of a
package or cannot be reached for it: here what was not audited is no success.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

TOOLS = Path(".audit/tools/bin")
RUNTIME = Path(".audit/runtime")
SBOM = Path("dist/sbom.json")
SERVICES = ("pypi", "osv")
OK, VULNERABLE, UNREACHABLE = 0, 1, 2


def audit() -> int:
    """Ask one service after the other, until one knows all packages."""
    (packages,) = RUNTIME.glob("lib/python*/site-packages")
    for service in SERVICES:
        options = ["-s", service, "--path", packages, "-f", "json", "--progress-spinner", "off"]
        done = subprocess.run(
            [TOOLS / "pip-audit", *options, "--timeout", "15"],
            capture_output=True, text=True, check=False, timeout=900,
        )  # fmt: skip
        verdict = _judge(service, done.stdout)
        if verdict is not None:
            return verdict
    print("NOT AUDITED: no vulnerability service could be reached. Run it where one can be.")
    return UNREACHABLE


def _judge(service: str, report: str) -> int | None:
    """Read a report; None if the service did not tell of all packages."""
    try:
        known: list[dict[str, Any]] = json.loads(report)["dependencies"]
    except ValueError:
        print(f"{service}: could not be reached")
        return None
    asked = [one for one in known if one["name"] != "langchain-resilient"]
    skipped = [one["name"] for one in asked if "skip_reason" in one]
    sick = [one for one in asked if one.get("vulns")]
    for one in sick:
        ids = ", ".join(vulnerability["id"] for vulnerability in one["vulns"])
        print(f"{one['name']} {one['version']}: {ids}")
    if sick:
        return VULNERABLE
    if skipped:
        print(f"{service}: knows nothing of {len(skipped)} of {len(asked)} packages")
        return None
    print(f"{service}: no known vulnerability in {len(asked)} packages")
    return OK


def sbom() -> int:
    """Write the bill of materials, validated against its schema, and show the licences."""
    SBOM.parent.mkdir(exist_ok=True)
    options = ["--pyproject", "pyproject.toml", "--mc-type", "library", "--output-reproducible"]
    subprocess.run(
        [TOOLS / "cyclonedx-py", "environment", *options, "--validate", "-o", SBOM, RUNTIME],
        check=True, timeout=300,
    )  # fmt: skip
    components = json.loads(SBOM.read_text())["components"]
    for one in sorted(components, key=lambda one: one["name"].lower()):
        print(f"{one['name']:<28} {one['version']:<14} {_licence(one)}")
    print(f"{len(components)} components in {SBOM}, valid CycloneDX")
    return OK


def _licence(component: dict[str, Any]) -> str:
    """Name it; classifiers that repeat it are left out, and a whole text is cut."""
    names = []
    for one in component.get("licenses", []):
        given = one.get("license", {})
        names.append(one.get("expression") or given.get("id") or given.get("name") or "")
    own = [name for name in names if not name.startswith("License ::")] or names
    return " / ".join(dict.fromkeys(name.splitlines()[0][:60] for name in own if name)) or "unknown"


if __name__ == "__main__":
    sys.exit({"audit": audit, "sbom": sbom}[sys.argv[1]]())
