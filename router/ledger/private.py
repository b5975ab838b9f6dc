"""Files that nobody else may read, for SQLite to write to."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path


def make_private(path: Path) -> None:
    """Make an empty file that its owner alone may read (mode 0600), with its folder, where there is none.

    A file that is there is not opened, nor is one closed that others can see already: a process that closes a file
    loses all of its locks on it, those of SQLite's connections among them, which know nothing of that (2.2 of
    https://sqlite.org/howtocorrupt.html). Another process then takes its own connection for the last one, and deletes
    the log that this one goes on to write to.

    Raises:
        OSError: The folder or the file cannot be made.
    """
    target = Path(os.path.realpath(path))
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, made = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-")
    os.close(descriptor)
    try:
        # Another one may have been quicker: then there it is.
        with contextlib.suppress(FileExistsError):
            os.link(made, target)
    except OSError:
        # A disk without hard links. Who makes the file is then the first to open it, but for an unlucky moment.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    finally:
        os.unlink(made)
