"""Looks up every installed package in a list of known vulnerabilities, and writes down what is installed.

    python deploy/audit.py VENV TOOLS

VENV is what is looked through, TOOLS where pip-audit and cyclonedx-bom are installed: an environment of their own, so
that they are not in what they write down. Both outputs are in `build/`: `audit.json` and `sbom.cdx.json` (CycloneDX).

Exit status 1: a vulnerability that is not in `deploy/audit.toml`, or an entry there that has run out or fits nothing.
Where the services cannot be asked, that is said, and is no failure: it tells nothing of this project. pip-audit itself
calls a package that its service does not know "skipped", and a run in which all were skipped a good one; here it is
none.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

SERVICES = ("pypi", "osv")
# What a virtual environment brings by itself: it installs, and nothing of it serves.
INSTALLERS = frozenset({"pip", "setuptools"})
# Seconds for all packages at one service, and for the bill of materials.
_AUDIT_SECONDS, _SBOM_SECONDS = 300, 300


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a look-up.

    Attributes:
        audited: Packages that a service knows.
        skipped: Those that none knows, with why.
        failures: What makes the build fail, a sentence each.
        accepted: Vulnerabilities that the reviewed list has, a sentence each.
    """

    audited: int
    skipped: Mapping[str, str]
    failures: tuple[str, ...]
    accepted: tuple[str, ...]


def judge(report: Mapping[str, Any], reviewed: Sequence[Mapping[str, Any]], today: date) -> Verdict:
    """Return what a report of pip-audit comes to.

    Args:
        report: Its JSON.
        reviewed: `accepted` of `deploy/audit.toml`: `id`, `package`, `reason`, `until`.
        today: Entries whose `until` is before it have run out.
    """
    packages = [one for one in report["dependencies"] if one["name"].lower() not in INSTALLERS]
    skipped = {one["name"]: one["skip_reason"] for one in packages if "skip_reason" in one}
    failures, accepted, used = list[str](), list[str](), set[int]()
    for package, found in _found(packages):
        names = {found["id"], *found.get("aliases", ())}
        what = f"{package['name']} {package['version']}: {found['id']}"
        fixed = ", ".join(found.get("fix_versions", ())) or "no version yet"
        at = next((at for at, entry in enumerate(reviewed) if _fits(entry, package["name"], names)), None)
        if at is None:
            failures.append(f"{what} (fixed in {fixed})")
            continue
        used.add(at)
        if _until(reviewed[at]) < today:
            failures.append(f"{what} (fixed in {fixed}): its entry in deploy/audit.toml has run out")
        else:
            accepted.append(f"{what}: {reviewed[at]['reason']}")
    looked_up = {one["name"].lower() for one in packages if "skip_reason" not in one}
    for at, entry in enumerate(reviewed):
        if not str(entry.get("reason", "")).strip():
            failures.append(f"deploy/audit.toml: {entry['id']} has no reason")
        if at not in used and entry["package"].lower() in looked_up:
            failures.append(f"deploy/audit.toml: {entry['id']} fits nothing any more; take it out")
    return Verdict(len(packages) - len(skipped), skipped, tuple(failures), tuple(accepted))


def _found(packages: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    for package in packages:
        for found in package.get("vulns", ()):
            yield package, found


def _fits(entry: Mapping[str, Any], package: str, names: set[str]) -> bool:
    return entry["id"] in names and entry["package"].lower() == package.lower()


def _until(entry: Mapping[str, Any]) -> date:
    until = entry["until"]
    return until if isinstance(until, date) else date.fromisoformat(str(until))


def look_up(site_packages: Path, tools: Path, output: Path) -> Mapping[str, Any] | None:
    """Return the report of the first service that knows any package; None where none can be asked."""
    file = output / "audit.json"
    for service in SERVICES:
        file.unlink(missing_ok=True)
        command: list[str | Path] = [
            tools / "bin" / "pip-audit",
            "--path",
            site_packages,
            "--format",
            "json",
            "--output",
            file,
        ]
        command += ["--vulnerability-service", service, "--progress-spinner", "off", "--timeout", "15"]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_AUDIT_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            say(f"{service}: no answer within {_AUDIT_SECONDS} seconds")
            continue
        report = _read(file)
        if report is None:
            last = done.stderr.strip().splitlines()[-1:] or ["no report"]
            say(f"{service}: cannot be asked ({last[0].split(':')[0][:100]})")
        elif all("skip_reason" in one for one in report["dependencies"]):
            say(f"{service}: knows none of the {len(report['dependencies'])} packages")
        else:
            say(f"{service}: asked")
            return report
    return None


def _read(file: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None
    return found


def write_sbom(venv: Path, tools: Path, output: Path) -> int:
    """Write the bill of materials, and return how many packages are in it."""
    file = output / "sbom.cdx.json"
    command: list[str | Path] = [
        tools / "bin" / "cyclonedx-py",
        "environment",
        "--pyproject",
        "pyproject.toml",
    ]
    command += ["--output-reproducible", "--output-format", "JSON", "--output-file", file, venv]
    subprocess.run(command, check=True, timeout=_SBOM_SECONDS)
    return len(json.loads(file.read_bytes())["components"])


def say(text: str) -> None:
    """Say it to who builds."""
    print(f"== {text}", flush=True)


def main(venv: Path, tools: Path, today: date, *, output: Path = Path("build")) -> int:
    """Audit, and return the exit status; what comes of it is in `output`."""
    output.mkdir(exist_ok=True)
    say(f"bill of materials: {write_sbom(venv, tools, output)} packages, {output / 'sbom.cdx.json'}")
    reviewed = tomllib.loads(Path("deploy/audit.toml").read_text(encoding="utf-8")).get("accepted", [])
    report = look_up(next(venv.glob("lib/python*/site-packages")), tools, output)
    if report is None:
        say(
            "NOT AUDITED: no service for known vulnerabilities can be asked from here. This says nothing of the"
        )
        say("packages, good or bad; run `make audit` where PyPI's or OSV's API can be reached.")
        return 0
    verdict = judge(report, reviewed, today)
    for name, why in verdict.skipped.items():
        say(f"not audited: {name} ({why[:120]})")
    for text in verdict.accepted:
        say(f"accepted: {text}")
    for text in verdict.failures:
        say(f"VULNERABLE: {text}")
    total = verdict.audited + len(verdict.skipped)
    say(f"{verdict.audited} of {total} packages audited, {len(verdict.failures)} to be seen to")
    return 1 if verdict.failures else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), date.today()))
