"""The settings that serving processes are given: as their parent read them, so that all have the same."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from ..errors import SettingsError
from ..settings import Settings
from ..settings.file import find_settings_file, load_settings


class Options(msgspec.Struct, frozen=True):
    """What the command line says; it counts more than the file. None: as the file says."""

    host: str | None = None
    port: int | None = None
    policy: str | None = None
    workers: int | None = None
    insecure_no_keys: bool = False


class Given(msgspec.Struct, frozen=True):
    """Settings as they were at one moment.

    Attributes:
        path: Of the file; None: there is none, and the defaults hold.
        text: What was in it.
        options: Of the command line.
    """

    path: str | None
    text: str | None
    options: Options

    def settings(self) -> Settings:
        """Return the settings.

        Raises:
            SettingsError: They cannot be used.
        """
        path = None if self.path is None else Path(self.path)
        return apply(load_settings(path, os.environ, text=self.text).settings, self.options)


def read_given(path: Path | None, options: Options) -> Given:
    """Read the settings file, wherever it is found.

    Raises:
        SettingsError: It cannot be read.
    """
    found = find_settings_file(path, os.environ, Path.cwd())
    if found is None:
        return Given(None, None, options)
    try:
        return Given(str(found), found.read_text(encoding="utf-8"), options)
    except (OSError, UnicodeDecodeError) as exc:
        raise SettingsError(f"{found}: cannot be read: {exc}") from exc


def apply(settings: Settings, options: Options) -> Settings:
    """Return settings as the command line wants them.

    Raises:
        SettingsError: It names a policy that there is not.
    """
    policy = options.policy
    if policy is not None and policy not in settings.policy_names:
        raise SettingsError(f"--policy: there is no {policy!r}; there are {', '.join(settings.policy_names)}")
    given = {
        "host": options.host,
        "port": options.port,
        "workers": options.workers,
        "insecure_no_keys": options.insecure_no_keys or None,
    }
    server = settings.server.model_copy(
        update={name: value for name, value in given.items() if value is not None}
    )
    return settings.model_copy(update={"server": server, "policy": policy or settings.policy})
