"""Fetch a file from a public source, whole and checked, or not at all."""

import hashlib
import http.client
import os
import tempfile
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


class DataError(OSError):
    """A data set that is missing, damaged or not what it should be; the message says which and what to do."""


def sha256(path: Path) -> str:
    """The SHA-256 checksum of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def download(url: str, path: Path, check: Callable[[Path], None], instead: str) -> None:
    """Fetch `url` to `path`.

    The file is fetched under another name beside its place, checked, and moved: `path` is never a broken file, and a
    download that was stopped is started again by calling this again.

    Args:
        check: raises DataError if a file is not what it should be.
        instead: what a user can do without this file, for the error message.

    Raises:
        DataError: the file could not be fetched or written, or it failed the check.
    """
    hint = f"put the file at {path} yourself, or {instead}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    except OSError as error:
        raise DataError(f"cannot write to {path.parent}: {error.strerror}") from error
    try:
        with os.fdopen(handle, "wb") as file, urllib.request.urlopen(url, timeout=60) as response:
            expected = response.headers.get("Content-Length")
            while block := response.read(1 << 20):
                file.write(block)
            size = file.tell()
        if expected is not None and size != int(expected):
            raise DataError(f"{url} ended after {size} of {expected} bytes; start again, or {hint}")
        try:
            check(Path(name))
        except DataError as error:
            raise DataError(f"what {url} gave is not the file expected ({error}); {hint}") from error
        os.chmod(name, 0o644)
        os.replace(name, path)
    except DataError:
        raise
    except (OSError, http.client.HTTPException) as error:  # of the connection or, with a full disk, of the file
        raise DataError(f"cannot fetch {url} ({getattr(error, 'reason', None) or error}); {hint}") from error
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)
