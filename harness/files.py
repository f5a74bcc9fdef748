"""Files that are written atomically."""

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from data.errors import UserError, describe


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file beside its place and move it there, so that no reader ever sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")  # no longer than any name
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp's 0600 would keep a shared results folder from being shared
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {describe(OSError(error.errno, error.strerror))}") from error
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)


def check_writable(folder: Path) -> None:
    """Find out before hours of training, not after, that a folder cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"cannot write to the folder {folder}: {error.strerror}") from error
