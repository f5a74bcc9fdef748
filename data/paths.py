"""The file that a name means, where another program has written the name in another way."""

import os
import unicodedata
from pathlib import Path


def find_file(path: Path, suffixes: tuple[str, ...] = ()) -> Path:
    """The file at `path`, or the one of the same name with its accents composed otherwise, as archives of macOS have
    them, or with the first of `suffixes` behind it that is there; where none is, `path`."""
    is_there = os.path.isfile if suffixes else os.path.exists  # False, where pathlib's raises, of a name too long
    if is_there(path) or path == path.parent:
        return path
    parent = find_file(path.parent)
    try:
        names = {unicodedata.normalize("NFC", name): parent / name for name in os.listdir(parent)}
    except OSError:
        return path
    found = [names.get(unicodedata.normalize("NFC", path.name + suffix), path) for suffix in ("", *suffixes)]
    return next(filter(is_there, found), path)
