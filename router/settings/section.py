"""What all sections of the settings have in common."""

from __future__ import annotations

from pathlib import Path

import platformdirs
from pydantic import BaseModel, ConfigDict


def user_cache_dir() -> Path:
    """The user's cache folder for models."""
    return Path(platformdirs.user_cache_dir("smallfirst", appauthor=False))


def user_data_dir() -> Path:
    """The user's data folder, where the embedded ledger lives."""
    return Path(platformdirs.user_data_dir("smallfirst", appauthor=False))


def plain_url(value: str) -> str:
    """Return an address without the slash at its end.

    Raises:
        ValueError: It has a user, a password, a query or a fragment in it: these may be secrets, and an address is
            shown in places where no secret may be.
    """
    if not value.isprintable() or any(sign in value for sign in "@?# "):
        raise ValueError(
            "expected an address with no user, password or query in it; secrets go into 'headers'"
        )
    return value.rstrip("/")


class Section(BaseModel):
    """A part of the settings: frozen, and silent about what it was given."""

    # Unknown keys are warned of by `file`, not refused: a file may be newer than the program.
    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)
