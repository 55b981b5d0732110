"""Cached files: where they lie, whole or absent."""

import pytest

from jaxscape.lab import cache


def test_default_folder(alone, monkeypatch, tmp_path):
    assert cache.folder("mnist") == alone / ".cache" / "jaxscape" / "mnist"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    assert cache.folder("mnist") == tmp_path / "elsewhere" / "jaxscape" / "mnist"
    assert cache.folder("mnist", tmp_path) == tmp_path / "mnist"
    assert cache.folder("mnist", "~/mine") == alone / "mine" / "mnist"


def test_file_takes_its_name_when_whole(tmp_path):
    path = tmp_path / "deep" / "file"
    with cache.replacing(path) as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_failure_leaves_what_was_there(error, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write():
        with cache.replacing(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
