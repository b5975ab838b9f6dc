"""Keys in the settings file, and keys over a change of the settings."""

from pathlib import Path

import httpx
import pytest
from fixtures.loopback_cloud import LoopbackCloud
from pydantic import SecretStr

from smallfirst.router.access.gate import Gate, open_limiter
from smallfirst.router.access.local import LocalLimiter
from smallfirst.router.access.shared import RedisLimiter
from smallfirst.router.errors import SettingsError
from smallfirst.router.gateway import Gateway
from smallfirst.router.server import make_app
from smallfirst.router.settings import CacheSettings, Key, LedgerSettings, Limits, ServerSettings, Settings
from smallfirst.router.settings.file import load_settings

MODELS = "models: [{name: big, kind: openai, api_key: sk}]\n"


def load(folder: Path, server: str) -> Settings:
    path = folder / "smallfirst.yaml"
    path.write_text(f"{MODELS}{server}")
    return load_settings(path, {}).settings


def test_keys_in_the_file_may_have_limits(tmp_path: Path) -> None:
    server = "server: {keys: [{key: abc, name: bot, tenant: t, rpm: 5, models: [big], usd_per_day: 1.5}]}\n"
    key = load(tmp_path, server).server.keys[0]
    assert (key.name, key.tenant, key.rpm, key.models, key.usd_per_day) == ("bot", "t", 5, ("big",), 1.5)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("[{key: abc, models: [bigg]}]", "a key names the model 'bigg'; there are big"),
        ("[{key: abc, policies: [mine]}]", "a key names the policy 'mine'"),
        ("[{key: abc, rpm: 5}]", "needs a 'name'"),
        ("[{key: abc, name: a}, {key: def, name: a}]", "given to two keys"),
        ("[{key: abc, name: a, rpm: 0}]", "rpm"),
        ("[{key: abc, tenant: ''}]", "tenant"),
        ("[{key: ''}]", "visible ASCII"),
        ("[{key: 'abc def'}]", "visible ASCII"),
        ("[{key: abcключ}]", "visible ASCII"),
    ],
)
def test_a_limit_that_cannot_be_meant_stops_the_start(tmp_path: Path, keys: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said) as caught:
        load(tmp_path, f"server: {{keys: {keys}}}\n")
    assert "abc" not in str(caught.value)


def settings(folder: Path, cloud: LoopbackCloud, key: str) -> Settings:
    return Settings.model_validate(
        {
            "models": [{"name": "big", "kind": "openai", "base_url": cloud.base_url}],
            "ledger": LedgerSettings(path=folder / "ledger.db"),
            "server": ServerSettings(keys=(Key(key=SecretStr(key)),)),
        }
    )


async def test_after_a_reload_the_new_keys_are_in_force_and_the_old_ones_are_not(
    tmp_path: Path, cloud: LoopbackCloud
) -> None:
    before = settings(tmp_path, cloud, "old")
    gate = Gate(before)
    after = settings(tmp_path, cloud, "new")
    gate.follow(after)
    assert [key.id for key in gate.table.keys] == ["settings:1"]
    app = make_app(Gateway(after))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        statuses = [
            (await client.get("/v1/models", headers={"x-api-key": key})).status_code for key in ("old", "new")
        ]
    assert statuses == [401, 200]


@pytest.mark.parametrize(
    ("limits", "cache", "kind"),
    [
        (Limits(), CacheSettings(), LocalLimiter),
        (Limits(), CacheSettings(url=SecretStr("redis://127.0.0.1:1/0")), RedisLimiter),
        (Limits(url=SecretStr("redis://127.0.0.1:1/0")), CacheSettings(enabled=False), RedisLimiter),
    ],
)
def test_limits_are_counted_in_the_caches_redis_unless_they_have_one_of_their_own(
    tmp_path: Path, cloud: LoopbackCloud, limits: Limits, cache: CacheSettings, kind: type
) -> None:
    made = settings(tmp_path, cloud, "k").model_copy(update={"limits": limits, "cache": cache})
    assert isinstance(open_limiter(made), kind)


def test_a_url_that_is_none_is_an_error_without_its_password(tmp_path: Path, cloud: LoopbackCloud) -> None:
    made = settings(tmp_path, cloud, "k")
    wrong = made.model_copy(update={"limits": Limits(url=SecretStr("redis://:secret@host:port/0"))})
    with pytest.raises(SettingsError, match=r"limits\.url: not understood") as caught:
        Gate(wrong)
    assert "secret" not in str(caught.value)
