"""Secrets in the settings and in the environment: in no error of a start that fails, in no repr, in no output."""

from __future__ import annotations

import json
import logging
import subprocess
import traceback
from pathlib import Path

import pytest
from fixtures.real_server import PROGRAM, environ
from pydantic import SecretStr

from smallfirst.agents import ChatSmallFirst
from smallfirst.router.errors import SettingsError
from smallfirst.router.gateway import Gateway
from smallfirst.router.models.cloud import CloudModel
from smallfirst.router.remote.gateway import RemoteGateway
from smallfirst.router.server import make_app
from smallfirst.router.settings import (
    CacheSettings,
    CloudModelSettings,
    Key,
    LedgerSettings,
    ServerSettings,
    Settings,
    TelemetrySettings,
)
from smallfirst.router.settings.file import load_settings

SECRET = "sk-canary0123456789abcdef"

# Each is wrong in another way, near the key.
BROKEN: dict[str, str] = {
    "a quote that is not closed": f'models: [{{name: big, kind: openai, api_key: "{SECRET}]\n',
    "a tag": f"models: [{{name: big, kind: openai, api_key: !{SECRET} x}}]\n",
    "a tag before the key": f"models: [{{name: big, kind: openai, api_key: !secret {SECRET}}}]\n",
    "an alias": f"models: [{{name: big, kind: openai, api_key: *{SECRET}}}]\n",
    "an anchor twice": f"models: [{{name: big, kind: openai, api_key: &{SECRET} }}, &{SECRET} b, *{SECRET}]\n",
    "a sign that begins nothing": f"models: [{{name: big, kind: openai, api_key: @{SECRET}}}]\n",
    "a percent sign": f"models: [{{name: big, kind: openai, api_key: %{SECRET}}}]\n",
    "a backtick": f"models: [{{name: big, kind: openai, api_key: `{SECRET}`}}]\n",
    "a tab": f"models:\n\t- api_key: {SECRET}\n",
    "an indent": f"models:\n  - name: big\n   api_key: {SECRET}\n",
    "a colon": f"models: [{{name: big, kind: openai, api_key: a: {SECRET}: b}}]\n",
    "an escape": f'models: [{{name: big, kind: openai, api_key: "{SECRET}\\q"}}]\n',
    "a control character": f"models: [{{name: big, kind: openai, api_key: {SECRET}\x07}}]\n",
    "a NUL": f"models: [{{name: big, kind: openai, api_key: {SECRET}\x00}}]\n",
    "bytes that are no UTF-8": f"models: [{{name: big, kind: openai, api_key: {SECRET}\udcff}}]\n",
    "two documents": f"models: []\n---\napi_key: {SECRET}\n",
    "a text in place of all": f"{SECRET}\n",
    "a list in place of all": f"[{SECRET}]\n",
    "a key in place of a list": f"models: {SECRET}\n",
    "a key in place of a model": f"models: [{SECRET}]\n",
    "a kind that is a key": f"models: [{{name: big, kind: {SECRET}}}]\n",
    "a list in place of the key": f"models: [{{name: big, kind: openai, api_key: [{SECRET}]}}]\n",
    "an object in place of the key": f"models: [{{name: big, kind: openai, api_key: {{{SECRET}: 1}}}}]\n",
    "a base that is a key": f"models: [{{name: big, kind: openai, base_url: {SECRET}}}]\n",
    "a base with a password": f"models: [{{name: big, kind: openai, base_url: 'https://u:{SECRET}@h/v1'}}]\n",
    "a base with a query": f"models: [{{name: big, kind: openai, base_url: 'https://h/v1?key={SECRET}'}}]\n",
    "a key of callers with a blank": f"server: {{keys: [{{key: '{SECRET} x'}}]}}\n",
    "a list of keys": f"server: {{keys: [{SECRET}]}}\n",
    "keys by tenant": f"server: {{keys: {{acme: {SECRET}}}}}\n",
    "an admin key that is short": "server: {admin_key: sk-canary}\n",
    "a cache that is a key": f"cache: {{url: '{SECRET}'}}\n",
    "a cache's password with a hash": f"cache: {{url: 'redis://:{SECRET}#{SECRET}@127.0.0.1:1x/0'}}\n",
    "a cache's password in a query": f"cache: {{url: 'redis://h:1?socket_timeout={SECRET}'}}\n",
    "limits that are a key": f"limits: {{url: 'redis://:{SECRET}@h:{SECRET}/0'}}\n",
    "a ledger that is a key": f"ledger: {{url: 'postgresql://u:{SECRET}@h:{SECRET}/d?{SECRET}=1'}}\n",
    "a collector with a password": f"telemetry: {{endpoint: 'http://u:{SECRET}@127.0.0.1:9'}}\n",
    "a collector's headers": f"telemetry: {{headers: {SECRET}}}\n",
    "a collector's header": f"telemetry: {{headers: {{x-key: [{SECRET}]}}}}\n",
}


# Of each way to fail one: a start takes a second.
STARTED = (
    "a tag before the key",
    "an alias",
    "a NUL",
    "a kind that is a key",
    "a base with a password",
    "limits that are a key",
)


@pytest.mark.parametrize("wrong", STARTED)
def test_a_file_that_is_wrong_is_named_and_its_key_is_not(tmp_path: Path, wrong: str) -> None:
    file = tmp_path / "smallfirst.yaml"
    file.write_text(BROKEN[wrong], encoding="utf-8")
    file.chmod(0o600)
    done = subprocess.run(
        [PROGRAM, "--config", str(file), "serve", "--port", "0"],
        capture_output=True,
        cwd=tmp_path,
        env=environ(),
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "sk-canary" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "\nerror: " in f"\n{done.stderr}"


@pytest.mark.parametrize(
    "value",
    [
        f"{begins}{SECRET}"
        for begins in (
            "*",
            "&",
            "!",
            "!!python/object ",
            "%",
            "@",
            "`",
            "[",
            "{",
            "a: b: ",
            '"',
            "'",
            "- ",
            "? ",
            "|",
            ">",
            "\t",
            "#",
        )
    ],
)
def test_a_key_that_looks_like_yaml_is_that_key(tmp_path: Path, value: str) -> None:
    file = tmp_path / "smallfirst.yaml"
    file.write_text("models:\n- name: big\n  kind: openai\n  api_key: ${KEY}\n", encoding="utf-8")
    (model,) = load_settings(file, {"KEY": value}).settings.models
    assert isinstance(model, CloudModelSettings)
    assert model.api_key == SecretStr(value)


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_what_went_wrong_underneath_is_not_quoted_either(tmp_path: Path, text: str) -> None:
    file = tmp_path / "smallfirst.yaml"
    file.write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(SettingsError) as failed:
        make_app(Gateway(load_settings(file, {}).settings))
    assert "sk-canary" not in "".join(traceback.format_exception(failed.value))


def settings(tmp_path: Path) -> Settings:
    hidden = SecretStr(SECRET)
    model = CloudModelSettings(
        name="big", kind="openai", base_url="http://127.0.0.1:9/v1", api_key=hidden, headers={"x-key": hidden}
    )
    return Settings(
        models=(model,),
        cache=CacheSettings(url=SecretStr(f"redis://:{SECRET}@127.0.0.1:9/0")),
        ledger=LedgerSettings(path=tmp_path / "ledger.db"),
        server=ServerSettings(keys=(Key(key=hidden, tenant="acme"),), admin_key=hidden),
        telemetry=TelemetrySettings(headers={"x-key": hidden}, enabled=False),
    )


def test_settings_and_what_is_made_of_them_show_stars(tmp_path: Path) -> None:
    made = settings(tmp_path)
    gateway = Gateway(made)
    model = gateway.models["big"]
    assert isinstance(model, CloudModel)
    shown = [
        made,
        made.models[0],
        made.server,
        made.cache,
        made.telemetry,
        gateway,
        model,
        *vars(model).values(),
    ]
    for one in shown:
        assert SECRET not in f"{one!r} {one!s}"
    assert SECRET not in made.model_dump_json()
    assert SECRET not in json.dumps(made.model_dump(mode="json"), default=str)
    logging.getLogger("canary").debug("%r", made)


def test_config_check_shows_stars(tmp_path: Path) -> None:
    file = tmp_path / "smallfirst.yaml"
    file.write_text(
        f"models: [{{name: big, kind: openai, api_key: {SECRET}, headers: {{x-key: {SECRET}}}}}]\n"
        f"server: {{keys: [{{key: {SECRET}}}], admin_key: {SECRET}}}\n"
        f"cache: {{url: 'redis://:{SECRET}@h/0'}}\nledger: {{url: 'postgresql://u:{SECRET}@h/d'}}\n"
        f"telemetry: {{headers: {{x-key: {SECRET}}}}}\n"
    )
    file.chmod(0o600)
    command = [str(PROGRAM), "--config", str(file), "config", "check", "--show"]
    done = subprocess.run(command, capture_output=True, env=environ(), text=True, timeout=60, check=True)
    assert "**********" in done.stdout
    assert SECRET not in done.stdout + done.stderr


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o666])
def test_a_file_with_a_key_that_others_may_read_is_warned_of(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "smallfirst.yaml"
    file.write_text(f"models: [{{name: big, kind: openai, api_key: {SECRET}}}]\n")
    file.chmod(mode)
    (warning,) = load_settings(file, {}).warnings
    assert f"{mode:o}" in warning
    assert "chmod 600" in warning
    assert SECRET not in warning


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        (f"models: [{{name: big, kind: openai, api_key: {SECRET}}}]\n", 0o600),
        ("models: [{name: big, kind: openai, api_key: '${KEY}'}]\n", 0o644),
        ("policy: balanced\n", 0o644),
        ("cache: {url: 'redis://127.0.0.1:6379/0'}\n", 0o644),
    ],
    ids=["nobody else may", "the key is in the environment", "no key", "an address without a password"],
)
def test_a_file_without_danger_is_not_warned_of(tmp_path: Path, text: str, mode: int) -> None:
    file = tmp_path / "smallfirst.yaml"
    file.write_text(text)
    file.chmod(mode)
    assert load_settings(file, {"KEY": SECRET}).warnings == ()


def test_clients_of_a_gateway_show_no_key() -> None:
    address = "http://127.0.0.1:9/v1"
    remote = RemoteGateway(address, api_key=SECRET)
    chat = ChatSmallFirst(base_url=address, api_key=SecretStr(SECRET))
    for one in (remote, *vars(remote).values(), chat, chat.model_dump(), chat.to_json()):
        assert SECRET not in f"{one!r} {one!s}"
