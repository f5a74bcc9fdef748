"""A short run of damage.py: whatever happens to a file, it is read or refused in a line."""

import random

import pytest
from damage import damaged, lay, read, try_files, valid_files


@pytest.mark.slow
def test_damaged_files_are_read_or_refused_in_a_line():
    count, faults = try_files(seed=0, seconds=15)
    assert not faults, "\n".join(faults)
    assert count > 100


def test_what_is_damaged_was_good(tmp_path):
    files = valid_files()
    for name, content in files.items():
        read(lay(files, name, content, tmp_path))
        assert damaged(content, random.Random(name)) != content
