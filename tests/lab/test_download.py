"""Downloads from a loopback server: whole and checked, or nothing."""

import socket

import files
import pytest

from jaxscape.lab import download
from jaxscape.types import InputError


@pytest.fixture
def remote(tmp_path, alone, serve):
    """A served folder with one file; returns (the file, its record, paths asked for)."""
    folder = tmp_path / "remote"
    folder.mkdir()
    path = folder / "data.gz"
    path.write_bytes(bytes(range(256)) * 1000)
    url, asked = serve(folder)
    return path, files.record(path, url), asked


@pytest.fixture
def target(tmp_path):
    return tmp_path / "cache" / "data.gz"


def refused(record, target, message):
    """The fetch fails with ``message`` in one line, nothing is left behind."""
    with pytest.raises(download.Unavailable, match=message) as caught:
        download.fetch(record, target)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, InputError)
    assert not target.parent.exists() or list(target.parent.iterdir()) == []
    return str(caught.value)


def test_the_file_comes_whole(remote, target):
    path, record, asked = remote
    download.fetch(record, target)
    assert target.read_bytes() == path.read_bytes()
    assert list(target.parent.iterdir()) == [target]
    assert asked == ["/data.gz"]


def test_a_mirror_replaces_the_recorded_server(remote, target, monkeypatch):
    path, record, _ = remote
    base = record.url.removesuffix("data.gz")
    elsewhere = record._replace(url="http://127.0.0.1:9/far/away/data.gz")
    for mirror in (base, base.rstrip("/")):
        monkeypatch.setenv("JAXSCAPE_MIRROR", mirror)
        assert download.address(elsewhere) == record.url
    download.fetch(elsewhere, target)
    assert target.read_bytes() == path.read_bytes()


def test_one_altered_byte_is_refused(remote, target):
    path, record, _ = remote
    raw = bytearray(path.read_bytes())
    raw[1000] ^= 1
    path.write_bytes(raw)
    message = refused(record, target, r"data\.gz with 256000 bytes of SHA-256 .* truncated or alt")
    for part in (record.sha256, files.record(path).sha256):
        assert part in message


def test_a_short_file_is_refused(remote, target):
    path, record, _ = remote
    path.write_bytes(path.read_bytes()[:-1])
    refused(record, target, "found 255999 bytes")


def test_a_longer_file_is_given_up(remote, target):
    path, record, _ = remote
    path.write_bytes(path.read_bytes() * 50)
    message = refused(record, target, "found over 256000 bytes")
    assert files.record(path).sha256 not in message  # it was not read to its end


def test_a_failed_download_keeps_the_file_that_was_there(remote, target):
    path, record, _ = remote
    target.parent.mkdir()
    target.write_bytes(b"old")
    path.unlink()
    with pytest.raises(download.Unavailable, match="404"):
        download.fetch(record, target)
    assert target.read_bytes() == b"old"
    assert list(target.parent.iterdir()) == [target]


def test_a_file_that_is_not_there(remote, target):
    path, record, _ = remote
    path.unlink()
    refused(record, target, "404.*check the network")


def test_no_server(remote, target):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    record = remote[1]._replace(url=f"http://127.0.0.1:{port}/data.gz")
    refused(record, target, "[Cc]onnection refused")


def test_an_address_that_is_none(remote, target):
    refused(remote[1]._replace(url="nowhere/data.gz"), target, "nowhere/data.gz")


def test_a_server_that_hangs_up_half_way(remote, target):
    import threading

    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 256000\r\n\r\nhalf")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/data.gz"
        refused(remote[1]._replace(url=url), target, r"data\.gz, found")
        thread.join()


def test_a_server_that_stalls(remote, target, monkeypatch):
    monkeypatch.setattr(download, "STALL", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/data.gz"
        refused(remote[1]._replace(url=url), target, "timed out")


def test_five_seconds_to_connect(remote, target, monkeypatch):
    """The limit is handed to the socket; waiting it out would be a timed test."""
    seen = []

    def connect(address, timeout, *args, **kwargs):
        seen.append(timeout)
        raise TimeoutError("timed out")

    monkeypatch.setattr("urllib3.util.connection.create_connection", connect)
    refused(remote[1], target, "no connection within 5 s")
    assert seen == [5.0]


def test_a_cache_that_cannot_be_written(remote, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(download.Unavailable, match=r"expected to write .*file.*data\.gz, found"):
        download.fetch(remote[1], tmp_path / "file" / "data.gz")


@pytest.mark.parametrize("value", ["1", "true"])
def test_offline_asks_nobody(value, remote, target, monkeypatch):
    monkeypatch.setenv("JAXSCAPE_OFFLINE", value)
    refused(remote[1], target, "while JAXSCAPE_OFFLINE is set; unset it")
    assert remote[2] == []


@pytest.mark.parametrize("value", ["", "0"])
def test_offline_can_be_switched_off(value, remote, target, monkeypatch):
    monkeypatch.setenv("JAXSCAPE_OFFLINE", value)
    download.fetch(remote[1], target)
    assert target.exists()
