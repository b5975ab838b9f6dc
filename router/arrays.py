"""Reading files of arrays (`.npz`): a broken one is a `ValueError`, however it is broken, and no file stays open."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


def read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of a file by name; never unpickles anything.

    Raises:
        OSError: The file cannot be opened.
        ValueError: It is no such file, or a broken one.
    """
    # Opened here: numpy leaves a file open that looks like an archive and is none.
    with path.open("rb") as file:
        try:
            if not zipfile.is_zipfile(file):
                raise ValueError("it is no .npz file")
            file.seek(0)
            with np.load(file, allow_pickle=False) as stored:
                return {name: stored[name] for name in stored.files}
        # What zip, zlib and numpy raise for damaged files.
        except (EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as exc:
            raise ValueError(str(exc)) from exc
