"""Fetching a file from a server on this machine: whole, cut off, silent, or not there."""

import socket
import threading

import pytest

from data import download as module
from data.download import download
from data.errors import UserError

CONTENT = bytes(range(256)) * 400
WHOLE = b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(CONTENT) + CONTENT
HALF = WHOLE[:len(WHOLE) // 2]


def check(path):
    if path.read_bytes() != CONTENT:
        raise UserError(f"{path} has the wrong checksum")


@pytest.fixture
def fetch(tmp_path):
    """Fetch data/file from a server that gives this answer, and then closes the connection or keeps silent."""
    def run(answer=WHOLE, silent=False):
        done = threading.Event()

        def serve():
            connection, _ = listening.accept()
            with connection:
                connection.recv(10_000)
                connection.sendall(answer)
                done.wait(30 * silent)

        with socket.create_server(("127.0.0.1", 0)) as listening:
            threading.Thread(target=serve, daemon=True).start()
            try:
                download(f"http://127.0.0.1:{listening.getsockname()[1]}/file", tmp_path / "data" / "file", check,
                         "do without")
            finally:
                done.set()
        return tmp_path / "data" / "file"
    return run


@pytest.mark.parametrize("answer, silent, said", [
    (HALF, False, "wrong checksum"), (HALF, True, "timed out"), (b"HTTP/1.0 404 Not Found\r\n\r\n", False, "not found"),
    (b"nonsense", False, "nonsense")], ids=["broken off", "silent", "absent", "no server of files"])
def test_a_download_that_fails_changes_nothing_and_can_be_repeated(tmp_path, monkeypatch, fetch, answer, silent, said):
    monkeypatch.setattr(module, "TIMEOUT", 0.3)
    for before in ([], [tmp_path / "data" / "file"]):
        with pytest.raises(UserError, match=f"(?i){said}.*put the file at .*file yourself, or do without") as error:
            fetch(answer, silent)
        assert "\n" not in str(error.value) and list((tmp_path / "data").iterdir()) == before
        assert fetch().read_bytes() == CONTENT


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "data").write_bytes(b"")  # a file where the folder should be
    with pytest.raises(UserError, match="cannot fetch .*data.*do without"):
        download("http://127.0.0.1:9/file", tmp_path / "data" / "file", check, "do without")
