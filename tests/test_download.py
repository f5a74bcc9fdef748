"""Fetching a file from a server on this machine: whole, cut off, silent, or not there."""

import contextlib
import functools
import hashlib
import http.server
import threading

import pytest

from data import download as module
from data.download import download
from data.errors import UserError

CONTENT = bytes(range(256)) * 400


@contextlib.contextmanager
def server(folder, cut=False, silent=False):
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def copyfile(self, source, output):
            content = source.read()
            output.write(content[:len(content) // 2] if cut else content)
            if silent:
                stop.wait(30)

    stop = threading.Event()
    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.server_port}"
    finally:
        stop.set()
        listening.shutdown()
        listening.server_close()


def check(path):
    if hashlib.sha256(path.read_bytes()).hexdigest() != hashlib.sha256(CONTENT).hexdigest():
        raise UserError(f"{path} has the wrong checksum")


@pytest.fixture
def fetch(tmp_path):
    """Fetch `file`, or another, from a server with the given faults to data/file; returns its path."""
    def run(name="file", **faults):
        source, target = tmp_path / "source", tmp_path / "data" / "file"
        source.mkdir(exist_ok=True)
        (source / "file").write_bytes(CONTENT)
        with server(source, **faults) as address:
            download(f"{address}/{name}", target, check, "do without")
        return target
    return run


@pytest.mark.parametrize("fault, said", [
    ({"cut": True}, "wrong checksum"), ({"silent": True, "cut": True}, "timed out"), ({"name": "nothing"}, "not found"),
], ids=["broken off", "silent", "absent"])
def test_a_download_that_fails_leaves_nothing_and_can_be_repeated(tmp_path, monkeypatch, fetch, fault, said):
    if "silent" in fault:
        monkeypatch.setattr(module, "TIMEOUT", 0.3)
    with pytest.raises(UserError, match=f"(?i){said}.*put the file at .*file yourself, or do without") as error:
        fetch(**fault)
    assert "\n" not in str(error.value) and list((tmp_path / "data").iterdir()) == []
    assert fetch().read_bytes() == CONTENT and len(list((tmp_path / "data").iterdir())) == 1


def test_what_was_there_stays_when_a_download_fails(fetch):
    path = fetch()
    path.write_bytes(b"older")
    with pytest.raises(UserError):
        fetch(cut=True)
    assert path.read_bytes() == b"older"


def test_a_place_that_cannot_be_written_is_named(tmp_path, fetch):
    (tmp_path / "data").write_bytes(b"")  # a file where the folder should be
    with pytest.raises(UserError, match="cannot fetch .*data.*do without"):
        fetch()
