"""Read `smallfirst.yaml`: `${ENV}` in values, errors and unknown keys named with their line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from smallfirst.policies import Policy

from ..errors import SettingsError
from .defaults import default_settings, with_otel, with_redis_url
from .settings import Settings

FILE_NAME = "smallfirst.yaml"

Path_ = tuple[str | int, ...]

_VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")


@dataclass(frozen=True, slots=True)
class LoadedSettings:
    """Settings with where they came from.

    Attributes:
        settings: The settings themselves.
        path: The file, or None where there was none.
        warnings: One sentence each, with the line, about keys that mean nothing.
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


def load_settings(path: Path | None, environ: Mapping[str, str]) -> LoadedSettings:
    """Read a settings file, or return the defaults where `path` is None.

    Raises:
        SettingsError: Names file, line, key and what was expected.
    """
    if path is None:
        return LoadedSettings(_valid_defaults(environ))
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
        raise SettingsError("\n".join(_describe(path, lines, exc))) from exc
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
    return LoadedSettings(settings, path, warnings)


def _valid_defaults(environ: Mapping[str, str]) -> Settings:
    try:
        return default_settings(environ)
    except ValidationError as exc:
        problems = "; ".join(f"{_dotted(error['loc'])}: {error['msg']}" for error in exc.errors())
        raise SettingsError(f"environment (OPENAI_BASE_URL, SMALLFIRST_CLOUD_MODEL): {problems}") from exc


def _parse(text: str, path: Path, environ: Mapping[str, str]) -> tuple[dict[str, Any], dict[Path_, int]]:
    """Return the file's data with variables filled in, and the line of every key."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as exc:
        line = exc.problem_mark.line + 1 if exc.problem_mark else 1
        raise SettingsError(f"{path}:{line}: not valid YAML: {exc.problem}") from exc
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
            return self._scalars.construct_object(node, deep=True)
        filled = _VARIABLE.sub(lambda match: self._variable(match, node, where), text)
        if getattr(node, "style", None):
            return filled
        # An unquoted `${PORT}` may be a number: let YAML read what came out of it.
        return yaml.safe_load(filled) if _VARIABLE.fullmatch(text) and filled else filled

    def _variable(self, match: re.Match[str], node: yaml.Node, where: Path_) -> str:
        value = self.environ.get(match["name"], match["default"])
        if value is None:
            raise SettingsError(
                f"{self.path}:{node.start_mark.line + 1}: '{_dotted(where)}' needs the environment variable "
                f"{match['name']}, which is not set; set it, or write ${{{match['name']}:-default}}"
            )
        return str(value)


def _describe(path: Path, lines: Mapping[Path_, int], exc: ValidationError) -> Iterator[str]:
    """Yield one line per error: file, line, key, what was expected."""
    for error in exc.errors(include_url=False, include_input=False):
        where = _in_file(error["loc"], lines)
        message = error["msg"].removeprefix("Value error, ")
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
