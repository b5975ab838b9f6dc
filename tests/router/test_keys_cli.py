"""`smallfirst keys`, and what `serve` says where there are none."""

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from smallfirst.router.access.gate import has_keys
from smallfirst.router.access.keys import digest
from smallfirst.router.access.store import SqliteKeyStore
from smallfirst.router.cli import cli
from smallfirst.router.cli.serve import check_exposure
from smallfirst.router.errors import SettingsError
from smallfirst.router.ledger import Entry, Ledger
from smallfirst.router.settings import LedgerSettings, Settings, default_settings

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs the command line with a settings file of one cloud model, and its data beside it."""
    config = tmp_path / "smallfirst.yaml"
    config.write_text(
        "models: [{name: big, kind: openai, api_key: sk-cloud}]\n"
        f"ledger: {{path: {tmp_path}/ledger.db}}\n"
        "policies: {mine: {preset: thrifty}}\n"
    )

    def command(*arguments: str, fails: bool = False) -> Result:
        done = CliRunner().invoke(cli, ["--config", str(config), "keys", *arguments])
        assert (done.exit_code != 0) == fails, done.output
        return done

    return command


def created(run: Run, *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("create", *arguments, "--json").stdout)
    return found


def listed(run: Run) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run("list", "--json").stdout)["keys"]
    return found


@pytest.mark.parametrize("tenant", ["", "  ", "x" * 201, "a\nb"])
def test_a_tenant_without_a_name_gets_no_key(run: Run, tenant: str) -> None:
    assert "--tenant" in run("create", "--tenant", tenant, fails=True).output
    assert listed(run) == []


def test_a_new_key_is_printed_alone_and_once(run: Run, tmp_path: Path) -> None:
    done = run("create", "--tenant", "acme", "--rpm", "60", "--usd-per-day", "5")
    secret = done.stdout.strip()
    assert secret.startswith("sf-")
    assert secret not in done.stderr
    assert "tenant acme: 60 requests a minute; $5 a day" in done.stderr
    assert SqliteKeyStore(tmp_path / "keys.db").load()[0].digest == digest(secret)
    assert secret not in run("list").output + run("list", "--json").output


def test_all_limits_can_be_given(run: Run) -> None:
    made = created(
        run,
        *("--tenant", "acme", "--name", "ci", "--models", "big", "--policies", "mine, balanced"),
        *("--rpm", "1", "--tpm", "2", "--requests", "3", "--requests-per-day", "4"),
        *("--usd-per-day", "5.5", "--usd-per-month", "6", "--max-concurrent", "7", "--thrifty-at", "0.9"),
        "--admin",
    )
    assert made["rules"] == {
        "models": ["big"],
        "policies": ["mine", "balanced"],
        "rpm": 1,
        "tpm": 2,
        "requests": 3,
        "requests_per_day": 4,
        "usd_per_day": 5.5,
        "usd_per_month": 6.0,
        "max_concurrent": 7,
        "thrifty_at": 0.9,
        "admin": True,
    }
    assert (made["tenant"], made["name"], made["state"]) == ("acme", "ci", "active")
    assert {key: value for key, value in made.items() if key != "key"} == listed(run)[0]


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--models", "bigg", "a key names the model 'bigg'; there are big"),
        ("--policies", "mime", "a key names the policy 'mime'"),
        ("--models", " , ", "may use no model at all"),
        ("--expires", "soon", "neither like 24h or 30d nor a date"),
        ("--expires", "2020-01-01", "is over already"),
        ("--rpm", "0", "not in the range"),
    ],
)
def test_what_would_be_another_limit_than_was_meant_is_refused(
    run: Run, option: str, value: str, said: str
) -> None:
    done = run("create", "--tenant", "acme", option, value, fails=True)
    assert said in done.output + str(done.exception)
    assert listed(run) == []


def test_a_key_expires_after_a_span_or_on_a_date(run: Run) -> None:
    span = created(run, "--tenant", "acme", "--expires", "30d")["expires_at"]
    seconds = datetime.fromisoformat(span).timestamp() - time.time()
    assert seconds == pytest.approx(30 * 86_400, abs=60)
    on = created(run, "--tenant", "acme", "--expires", "2099-05-01")["expires_at"]
    assert datetime.fromisoformat(on) == datetime(2099, 5, 1, tzinfo=UTC)


def test_a_key_is_revoked_by_its_id_and_only_once(run: Run) -> None:
    made = created(run, "--tenant", "acme")
    revoked = json.loads(run("revoke", made["id"], "--json").stdout)
    assert (revoked["id"], revoked["state"]) == (made["id"], "revoked")
    assert listed(run)[0]["state"] == "revoked"
    done = run("revoke", made["id"], fails=True)
    assert "there is no key" in str(done.exception)


def test_the_list_says_what_keys_have_used(run: Run, tmp_path: Path) -> None:
    made = created(run, "--tenant", "acme", "--name", "ci")
    now = time.time()
    ledger = Ledger(LedgerSettings(path=tmp_path / "ledger.db"))
    for at, (age, cost) in enumerate([(0.0, 0.25), (0.0, None), (400 * 86_400.0, 1.0)]):
        ledger.record(
            Entry(
                request_id=f"req_{at}",
                started_at=now - age,
                duration_ms=1,
                key_id=made["id"],
                cost_usd=cost,
            )
        )
    ledger.close()
    assert listed(run)[0]["used"] == {
        "requests": 3,
        "requests_day": 2,
        "usd_day": 0.25,
        "usd_month": 0.25,
        "usd": 1.25,
    }
    shown = run("list").stdout
    assert all(text in shown for text in (made["id"], made["prefix"], "acme", "ci", "2, $0.2500", "never"))


def test_without_keys_the_list_says_how_to_make_one(run: Run) -> None:
    assert "smallfirst keys create" in run("list").stderr


# --- serving --------------------------------------------------------------------------------------------------------


def served_on(host: str, folder: Path, **server: Any) -> Settings:
    made = default_settings({})
    return made.model_copy(
        update={
            "server": made.server.model_copy(update={"host": host, **server}),
            "ledger": LedgerSettings(path=folder / "ledger.db"),
        }
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "gateway.example"])
def test_without_a_key_other_machines_are_not_served(host: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="smallfirst keys create"):
        check_exposure(served_on(host, tmp_path))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_without_a_key_this_machine_is_served(host: str, tmp_path: Path) -> None:
    settings = served_on(host, tmp_path)
    check_exposure(settings)
    assert not has_keys(settings)


def test_a_key_or_the_flag_lets_other_machines_be_served(run: Run, tmp_path: Path) -> None:
    check_exposure(served_on("0.0.0.0", tmp_path, insecure_no_keys=True))
    run("create", "--tenant", "acme")
    check_exposure(served_on("0.0.0.0", tmp_path))
