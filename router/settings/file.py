"""Read `smallfirst.yaml`: `${ENV}` in values, errors and unknown keys named with their line."""

from __future__ import annotations

import difflib
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, SecretStr, ValidationError

from smallfirst.policies import Policy

from ..errors import SettingsError
from .defaults import default_settings, with_otel, with_redis_url
from .settings import Settings

FILE_NAME = "smallfirst.yaml"

Path_ = tuple[str | int, ...]

_LONGEST_WORD = 12
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")


@dataclass(frozen=True, slots=True)
class LoadedSettings:
    """Settings with where they came from.

    Attributes:
        settings: The settings themselves.
        path: The file, or None where there was none.
        warnings: One sentence each: about keys that mean nothing, with the line, and a file that others may read.
    """

    settings: Settings
    path: Path | None = None
    warnings: tuple[str, ...] = ()


def find_settings_file(explicit: Path | None, environ: Mapping[str, str], cwd: Path) -> Path | None:
    """Return the file to read: as given, else `SMALLFIRST_CONFIG`, else `smallfirst.yaml` in `cwd` if it is there."""
    if explicit is not None:
        return explicit
    if environ.get("SMALLFIRST_CONFIG"):
        return Path(environ["SMALLFIRST_CONFIG"])
    default = cwd / FILE_NAME
    return default if default.exists() else None


def load_settings(
    path: Path | None, environ: Mapping[str, str], *, text: str | None = None
) -> LoadedSettings:
    """Read a settings file, or return the defaults where `path` is None.

    Args:
        path: The file.
        environ: Variables that its values may name.
        text: What is in it, where it was read before.

    Raises:
        SettingsError: Names file, line, key and what was expected.
    """
    if path is None:
        return LoadedSettings(_valid_defaults(environ))
    if text is None:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            raise SettingsError(f"{path}: cannot be read: {exc}") from exc
    data, lines = _parse(text, path, environ)
    defaults = default_settings(environ)
    filled = {"models": defaults.models, **data}
    try:
        settings = Settings.model_validate(filled)
    except ValidationError as exc:
        # Without the cause: its text may quote a value.
        raise SettingsError("\n".join(_describe(path, lines, exc))) from None
    settings = settings.model_copy(
        update={
            "cache": with_redis_url(settings.cache, environ),
            "telemetry": with_otel(settings.telemetry, environ),
        }
    )
    warnings = tuple(
        f"{path}:{lines.get(where, 1)}: unknown key '{_dotted(where)}'{_suggest(where, known)}; it is ignored"
        for where, known in _unknown_keys(settings, data, ())
    )
    return LoadedSettings(settings, path, (*warnings, *_open_secrets(path, text, settings)))


def _valid_defaults(environ: Mapping[str, str]) -> Settings:
    try:
        return default_settings(environ)
    except ValidationError as exc:
        problems = "; ".join(f"{_dotted(error['loc'])}: {error['msg']}" for error in exc.errors())
        raise SettingsError(f"environment (OPENAI_BASE_URL, SMALLFIRST_CLOUD_MODEL): {problems}") from None


def _parse(text: str, path: Path, environ: Mapping[str, str]) -> tuple[dict[str, Any], dict[Path_, int]]:
    """Return the file's data with variables filled in, and the line of every key."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as exc:
        line = exc.problem_mark.line + 1 if exc.problem_mark else 1
        # Its text quotes the line, and that may have a key in it.
        raise SettingsError(f"{path}:{line}: not valid YAML: {_unquoted(exc.problem or '')}") from None
    except yaml.reader.ReaderError as exc:
        line = text.count("\n", 0, exc.position) + 1
        raise SettingsError(f"{path}:{line}: not valid YAML: a character that may not be in it") from None
    if node is None:
        return {}, {}
    if not isinstance(node, yaml.MappingNode):
        raise SettingsError(f"{path}:1: expected keys and values at the top level, such as 'models:'")
    reader = _Reader(path, environ)
    data: dict[str, Any] = reader.read(node, ())
    return data, reader.lines


class _Reader:
    """Turns YAML nodes into plain data and remembers lines."""

    def __init__(self, path: Path, environ: Mapping[str, str]) -> None:
        self.path = path
        self.environ = environ
        self.lines: dict[Path_, int] = {}
        self._scalars = yaml.SafeLoader("")

    def read(self, node: yaml.Node, where: Path_) -> Any:
        self.lines.setdefault(where, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, where)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(child, (*where, at)) for at, child in enumerate(node.value)]
        return self._scalar(node, where)

    def _mapping(self, node: yaml.MappingNode, where: Path_) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            line = key_node.start_mark.line + 1
            if key in data:
                raise SettingsError(f"{self.path}:{line}: '{_dotted((*where, key))}' is given twice")
            self.lines[(*where, key)] = line
            data[key] = self.read(value_node, (*where, key))
        return data

    def _scalar(self, node: yaml.Node, where: Path_) -> Any:
        text = str(node.value)
        if not _VARIABLE.search(text):
            return self._value(node, where)
        filled = _VARIABLE.sub(lambda match: self._variable(match, node, where), text)
        if getattr(node, "style", None):
            return filled
        if not _VARIABLE.fullmatch(text):
            return filled
        # An unquoted `${PORT}` may be a number; but a key that begins with YAML's signs (`*`, `[`, `#`) is that key.
        tag = self._scalars.resolve(yaml.ScalarNode, filled, (True, False))  # type: ignore[no-untyped-call]
        return self._value(yaml.ScalarNode(tag, filled, node.start_mark), where) if filled else filled

    def _value(self, node: yaml.Node, where: Path_) -> Any:
        try:
            return self._scalars.construct_object(node, deep=True)
        except (yaml.YAMLError, ValueError):
            # Neither the value nor its tag is quoted: either may be a key.
            raise SettingsError(
                f"{self.path}:{node.start_mark.line + 1}: '{_dotted(where)}' has a tag or a value that YAML does not "
                "know; put a text into quotes"
            ) from None

    def _variable(self, match: re.Match[str], node: yaml.Node, where: Path_) -> str:
        value = self.environ.get(match["name"], match["default"])
        if value is None:
            raise SettingsError(
                f"{self.path}:{node.start_mark.line + 1}: '{_dotted(where)}' needs the environment variable "
                f"{match['name']}, which is not set; set it, or write ${{{match['name']}:-default}}"
            )
        return str(value)


def _unquoted(problem: str) -> str:
    """Return what is wrong with some YAML without the words of it that are quoted there; signs and tokens stay."""
    return _QUOTED.sub(lambda found: found[0] if len(found[0]) <= 4 or found[0][1] == "<" else "…", problem)


def _open_secrets(path: Path, text: str, settings: BaseModel) -> Iterator[str]:
    """Yield a warning where a file has secrets in it and others than its owner may read it."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return
    if os.name == "posix" and mode & 0o077 and any(secret in text for secret in _secrets(settings)):
        yield (
            f"{path}: has a key in it, and others on this machine may read it (mode {mode:o}): chmod 600 it, or write "
            "${VARIABLE} for the key"
        )


def _secrets(value: Any) -> Iterator[str]:
    """Yield every secret in some settings."""
    if isinstance(value, SecretStr):
        secret = value.get_secret_value()
        # An address without a password in it is none.
        if secret and ("://" not in secret or "@" in secret or "password=" in secret):
            yield secret
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _secrets(getattr(value, name))
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _secrets(each)
    elif isinstance(value, tuple):
        for each in value:
            yield from _secrets(each)


def _describe(path: Path, lines: Mapping[Path_, int], exc: ValidationError) -> Iterator[str]:
    """Yield one line per error: file, line, key, what was expected."""
    for error in exc.errors(include_url=False, include_input=False):
        where = _in_file(error["loc"], lines)
        message = error["msg"].removeprefix("Value error, ")
        if error["type"] == "union_tag_invalid":
            # pydantic quotes what stands there; a word that was mistyped is short, and a key is not.
            tag = str(error["ctx"]["tag"])
            given = f", not '{tag}'" if len(tag) <= _LONGEST_WORD else ""
            message = f"expected one of {error['ctx']['expected_tags']}{given}"
        yield f"{path}:{lines.get(where, 1)}: '{_dotted(_without_tags(error['loc']))}': {message}"


def _without_tags(loc: Sequence[str | int]) -> Path_:
    """Leave out the union tags that pydantic puts into locations (`models.0.llama.source`)."""
    tags = {"llama", "openai"}
    return tuple(
        part for at, part in enumerate(loc) if not (part in tags and at >= 2 and isinstance(loc[at - 1], int))
    )


def _in_file(loc: Sequence[str | int], lines: Mapping[Path_, int]) -> Path_:
    """Return the longest part of a location that stands in the file (a missing key has its parent's line)."""
    where = _without_tags(loc)
    while where and where not in lines:
        where = where[:-1]
    return where


def _dotted(where: Sequence[str | int]) -> str:
    text = ""
    for part in where:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "(top level)"


def _suggest(where: Path_, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(str(where[-1]), known, n=1)
    return f", did you mean '{close[0]}'?" if close else ""


def _unknown_keys(value: Any, data: Any, where: Path_) -> Iterator[tuple[Path_, list[str]]]:
    """Yield the keys of `data` that its validated `value` has no field for, with the fields it has."""
    if isinstance(value, BaseModel) and isinstance(data, dict):
        fields = list(type(value).model_fields)
        for key, child in data.items():
            if key not in fields:
                if not (key == "preset" and isinstance(value, Policy)):
                    yield (*where, key), fields
            else:
                yield from _unknown_keys(getattr(value, key), child, (*where, key))
    elif isinstance(value, Mapping) and isinstance(data, dict):
        for key, child in data.items():
            yield from _unknown_keys(value.get(key), child, (*where, key))
    elif isinstance(value, tuple) and isinstance(data, list):
        for at, (item, child) in enumerate(zip(value, data, strict=False)):
            yield from _unknown_keys(item, child, (*where, at))
