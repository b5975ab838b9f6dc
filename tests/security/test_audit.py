"""`make audit`: what fails a build, what does not, and that asking nobody is not called a good answer."""

from __future__ import annotations

import importlib.util
import json
import tomllib
from datetime import date
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TODAY = date(2026, 11, 21)


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("smallfirst_audit", ROOT / "deploy" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Its frozen values look themselves up.
    import sys

    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def package(name: str, *ids: str, aliases: tuple[str, ...] = ()) -> dict[str, Any]:
    found = [{"id": one, "aliases": list(aliases), "fix_versions": ["2.0"]} for one in ids]
    return {"name": name, "version": "1.0", "vulns": found}


def skipped(name: str) -> dict[str, Any]:
    return {"name": name, "skip_reason": "Dependency not found on PyPI"}


def entry(**fields: Any) -> dict[str, Any]:
    given = {"id": "CVE-1", "package": "bad", "reason": "never called", "until": date(2027, 1, 1)}
    return given | fields


def failures(audit: ModuleType, packages: list[dict[str, Any]], *reviewed: dict[str, Any]) -> tuple[str, ...]:
    found: tuple[str, ...] = audit.judge({"dependencies": packages}, reviewed, TODAY).failures
    return found


def test_packages_without_a_known_vulnerability_pass(audit: ModuleType) -> None:
    assert failures(audit, [package("good"), skipped("ours")]) == ()


def test_what_only_installs_is_not_looked_at(audit: ModuleType) -> None:
    assert failures(audit, [package("good"), package("pip", "CVE-1"), package("setuptools", "CVE-2")]) == ()


def test_a_vulnerability_that_nobody_has_reviewed_fails(audit: ModuleType) -> None:
    assert failures(audit, [package("bad", "CVE-1", "CVE-2")], entry()) == ("bad 1.0: CVE-2 (fixed in 2.0)",)


def test_one_that_was_reviewed_passes_by_any_of_its_names(audit: ModuleType) -> None:
    verdict = audit.judge({"dependencies": [package("Bad", "PYSEC-9", aliases=("CVE-1",))]}, [entry()], TODAY)
    assert (verdict.failures, verdict.accepted) == ((), ("Bad 1.0: PYSEC-9: never called",))


@pytest.mark.parametrize(
    ("reviewed", "said"),
    [
        (entry(until=date(2026, 11, 20)), "run out"),
        (entry(reason="  "), "no reason"),
        (entry(package="good"), "fits nothing"),
    ],
)
def test_an_entry_must_be_good_still(audit: ModuleType, reviewed: dict[str, Any], said: str) -> None:
    assert said in " ".join(failures(audit, [package("bad", "CVE-1"), package("good")], reviewed))


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """Where programs stand in for pip-audit: a script writes what is in `pypi.json` or `osv.json`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "pip-audit"
    script.write_text(
        "#!/bin/sh\n"
        "while [ $# -gt 0 ]; do case $1 in --output) out=$2;; --vulnerability-service) service=$2;; esac; shift; done\n"
        f'echo "asked $service" >> {tmp_path}/asked\n'
        f'[ -f {tmp_path}/$service.json ] || {{ echo "ConnectionError: nobody" >&2; exit 1; }}\n'
        f'cp {tmp_path}/$service.json "$out"\n'
    )
    script.chmod(0o755)
    return tmp_path


def answers(tools: Path, service: str, *packages: dict[str, Any]) -> None:
    (tools / f"{service}.json").write_text(json.dumps({"dependencies": packages}))


def asked(tools: Path) -> list[str]:
    return (tools / "asked").read_text().split("asked ")[1:]


def test_the_second_service_is_asked_where_the_first_knows_nothing(audit: ModuleType, tools: Path) -> None:
    answers(tools, "pypi", skipped("bad"))
    answers(tools, "osv", package("bad", "CVE-1"))
    report = audit.look_up(tools, tools, tools)
    assert report["dependencies"][0]["vulns"][0]["id"] == "CVE-1"
    assert asked(tools) == ["pypi\n", "osv\n"]


def test_where_nobody_can_be_asked_nothing_is_said_to_be_well(
    audit: ModuleType, tools: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers(tools, "pypi", skipped("bad"))
    assert audit.look_up(tools, tools, tools) is None
    said = capsys.readouterr().out
    assert "pypi: knows none of the 1 packages" in said
    assert "osv: cannot be asked (ConnectionError)" in said


def test_the_reviewed_list_has_what_each_entry_needs() -> None:
    for one in tomllib.loads((ROOT / "deploy" / "audit.toml").read_text())["accepted"]:
        assert {"id", "package", "reason", "until"} <= set(one)


def test_continuous_integration_audits() -> None:
    assert "make audit" in (ROOT / ".ci" / "run").read_text()
