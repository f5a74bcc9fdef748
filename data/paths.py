"""The file that a name means, where another program has written the name in another way."""

import os
import unicodedata
from pathlib import Path

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".gif", ".bmp", ".ppm", ".pgm")  # of images, best first


def find_file(path: Path, any_suffix: bool = False) -> Path:
    """The file at `path`, or the one of the same name in other case or with its accents composed otherwise, as Windows
    and archives of macOS have it. With `any_suffix` a name that has none of `SUFFIXES` may have any behind it, best the
    first of them. Where nothing is found, `path`, with .png if it has no suffix and may have one."""
    is_there = os.path.isfile if any_suffix else os.path.exists  # False, where pathlib's raises, of a name too long
    if is_there(path) or path == path.parent:
        return path
    parent = find_file(path.parent)
    names = sorted(os.listdir(parent)) if os.path.isdir(parent) and os.access(parent, os.R_OK) else []
    wanted, *plain = (unicodedata.normalize("NFC", name).casefold() for name in (path.name, *names))
    any_suffix = any_suffix and not wanted.endswith(SUFFIXES)
    same = [parent / name for name, found in zip(names, plain)
            if found == wanted or any_suffix and found.rpartition(".")[0] == wanted]
    return min(filter(is_there, same), key=lambda file: (*SUFFIXES, file.suffix.lower()).index(file.suffix.lower()),
               default=path if path.suffix or not any_suffix else path.with_suffix(".png"))
