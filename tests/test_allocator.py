"""The allocator keeps what is freed where there is glibc, and is left alone elsewhere."""

import platform
import subprocess
import sys

import pytest
from conftest import ROOT

from harness import allocator

RESIDENT = """
from harness.allocator import keep_freed_memory
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])
if {keep}:
    keep_freed_memory()
array = bytearray(b"x") * 2**26
with_array = resident()
del array
print((with_array - resident()) * 4096 / 2**26)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="no glibc")
@pytest.mark.parametrize("keep, returned", [(False, 1), (True, 0)])
def test_what_is_freed_stays(keep, returned):
    share = subprocess.run([sys.executable, "-c", RESIDENT.format(keep=keep)], cwd=ROOT, text=True,
                           capture_output=True, check=True)
    assert float(share.stdout) == pytest.approx(returned, abs=0.1)


def test_nothing_is_called_elsewhere(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: pytest.fail("a C library was asked for"))
    allocator.keep_freed_memory()
