"""The settings file: what is read, and how errors point at their line."""

from pathlib import Path

import pytest

from smallfirst.router.errors import SettingsError
from smallfirst.router.settings import CloudModelSettings, LocalModelSettings, default_settings
from smallfirst.router.settings.file import LoadedSettings, find_settings_file, load_settings

GOOD = """\
models:
  - name: small
    kind: llama
    source: file:/models/small.gguf
  - name: big
    kind: openai
    api_key: ${CLOUD_KEY}
    base_url: https://cloud.example/v1/
    timeouts: {connect: 1}
policies:
  mine: {preset: thrifty, max_gap: 0.3}
policy: mine
baseline: big
server:
  port: ${PORT:-4100}
"""
ENVIRON = {"CLOUD_KEY": "sk-secret"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "smallfirst.yaml"


def load(file: Path, text: str, environ: dict[str, str] | None = None) -> LoadedSettings:
    file.write_text(text)
    return load_settings(file, ENVIRON if environ is None else environ)


def test_a_good_file_is_read_with_variables_filled_in(file: Path) -> None:
    loaded = load(file, GOOD)
    settings = loaded.settings
    small, big = settings.models
    assert loaded.warnings == ()
    assert isinstance(small, LocalModelSettings)
    assert isinstance(big, CloudModelSettings)
    assert big.api_key is not None
    assert big.api_key.get_secret_value() == "sk-secret"
    assert big.base_url == "https://cloud.example/v1"
    assert settings.server.port == 4100
    policy = settings.policy_named("mine")
    assert (policy.name, policy.min_local_success, policy.max_gap) == ("mine", 0.5, 0.3)


def test_secrets_are_never_printed(file: Path) -> None:
    settings = load(file, GOOD).settings
    assert "sk-secret" not in repr(settings) + str(settings) + settings.model_dump_json()


@pytest.mark.parametrize(
    ("find", "put", "line", "words"),
    [
        ("port: ${PORT:-4100}", "port: many", 15, "'server.port': Input should be a valid integer"),
        ("${CLOUD_KEY}", "${OTHER_KEY}", 7, "needs the environment variable OTHER_KEY"),
        ("kind: llama", "kind: lama", 2, "'lama'"),
        ("    source: file:/models/small.gguf\n", "", 2, "'models[0].source': Field required"),
        ("policy: mine", "policy: yours", 12, "there is no policy 'yours'; there are mine, balanced"),
        ("max_gap: 0.3", "maxgap: 0.3", 11, "'policies.mine.maxgap': Extra inputs are not permitted"),
        (
            "max_gap: 0.3",
            "max_gap: 3",
            11,
            "'policies.mine.max_gap': Input should be less than or equal to 1",
        ),
        ("preset: thrifty", "preset: cheap", 11, "there is no preset 'cheap'"),
        ("connect: 1", "connect: -1", 9, "'models[1].timeouts.connect': Input should be greater than 0"),
        ("baseline: big", "baseline: huge", 13, "no model is named 'huge'"),
        ("name: big", "name: small", 1, "the name 'small' is given twice"),
        ("name: big", "name: auto", 1, "reserved for routing"),
        ("policy: mine", "policy: mine\npolicy: mine", 13, "'policy' is given twice"),
        ("models:", "models", 2, "not valid YAML"),
        ("server:", "server: [", 15, "not valid YAML"),
    ],
)
def test_an_error_names_the_line_the_key_and_what_was_expected(
    file: Path, find: str, put: str, line: int, words: str
) -> None:
    assert GOOD.count(find) == 1
    with pytest.raises(SettingsError) as caught:
        load(file, GOOD.replace(find, put))
    assert f"{file}:{line}: " in str(caught.value)
    assert words in str(caught.value)


def test_an_error_never_quotes_a_secret(file: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        load(file, GOOD.replace("api_key: ${CLOUD_KEY}", "api_key: [sk-secret]"))
    assert "sk-secret" not in str(caught.value)


def test_unknown_keys_are_warned_of_with_line_and_suggestion(file: Path) -> None:
    text = GOOD.replace("    source:", "    contxt_tokens: 99\n    source:")
    assert load(file, text).warnings == (
        f"{file}:4: unknown key 'models[0].contxt_tokens', did you mean 'context_tokens'?; it is ignored",
    )


def test_an_empty_file_means_the_defaults(file: Path) -> None:
    assert load(file, "# nothing yet\n", {}).settings == default_settings({})


def test_a_file_without_models_gets_the_default_ones(file: Path) -> None:
    settings = load(file, "server: {port: 5000}", {"OPENAI_API_KEY": "k"}).settings
    assert [model.name for model in settings.models] == ["smollm2-135m", "gpt-4.1"]


def test_the_environment_alone_makes_a_gateway() -> None:
    settings = default_settings(
        {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "SMALLFIRST_CLOUD_MODEL": "m"}
    )
    cloud = settings.models[1]
    assert isinstance(cloud, CloudModelSettings)
    assert (cloud.name, cloud.base_url) == ("m", "http://127.0.0.1:9/v1")


def test_redis_url_is_honoured_unless_the_file_names_another(file: Path) -> None:
    environ = {"REDIS_URL": "redis://127.0.0.1:1"}
    first = load(file, "policy: thrifty", environ).settings.cache.url
    second = load(file, "cache: {url: 'redis://127.0.0.1:2'}", environ).settings.cache.url
    assert first is not None
    assert first.get_secret_value().endswith(":1")
    assert second is not None
    assert second.get_secret_value().endswith(":2")


def test_the_file_is_looked_for_in_order(tmp_path: Path) -> None:
    assert find_settings_file(None, {}, tmp_path) is None
    here = tmp_path / "smallfirst.yaml"
    here.touch()
    assert find_settings_file(None, {}, tmp_path) == here
    assert find_settings_file(None, {"SMALLFIRST_CONFIG": "/etc/s.yaml"}, tmp_path) == Path("/etc/s.yaml")
    assert find_settings_file(Path("mine.yaml"), {"SMALLFIRST_CONFIG": "/etc/s.yaml"}, tmp_path) == Path(
        "mine.yaml"
    )


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        load_settings(tmp_path / "none.yaml", {})
