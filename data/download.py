"""Fetch a file from a public source, whole and checked, or not at all."""

import http.client
import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

from torch.hub import download_url_to_file

from data.errors import UserError

TIMEOUT = 60  # seconds without a byte


def download(url: str, path: Path, check: Callable[[Path], object], instead: str) -> None:
    """Fetch `url` into a folder beside `path`, check and move it: `path` is never a broken file.

    `check` raises UserError if a file is not what it should be, one that broke off included. `instead` is what a user
    can do without it. UserError if the file could not be fetched or written, or failed the check.
    """
    hint = f"put the file at {path} yourself, or {instead}"
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)  # torch's function has none
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as folder:
            fetched = Path(folder) / path.name
            download_url_to_file(url, str(fetched), progress=False)
            check(fetched)
            os.replace(fetched, path)
    except UserError as error:
        raise UserError(f"what {url} gave is not the file expected ({error}); {hint}") from error
    except (OSError, ValueError, http.client.HTTPException) as error:  # of the connection, its answer, or the disk
        raise UserError(f"cannot fetch {url} ({getattr(error, 'reason', None) or error}); {hint}") from error
    finally:
        socket.setdefaulttimeout(before)
