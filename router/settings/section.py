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


class Section(BaseModel):
    """A part of the settings: frozen, and silent about what it was given."""

    # Unknown keys are warned of by `file`, not refused: a file may be newer than the program.
    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)
