"""The IDX format against bytes written by hand, whole or damaged."""

import gzip

import files
import numpy as np
import pytest

from jaxscape.lab import idx
from jaxscape.types import InputError


def test_reads_the_bytes_of_the_definition(tmp_path):
    raw = bytes.fromhex("000008020000000200000003") + bytes([1, 2, 3, 4, 5, 255])
    array = idx.decode(raw, 2, tmp_path)
    np.testing.assert_array_equal(array, [[1, 2, 3], [4, 5, 255]])
    assert array.dtype == np.uint8


def test_plain_or_gzipped_contents_are_the_same(tmp_path):
    raw = files.idx(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
    (tmp_path / "a").write_bytes(raw)
    (tmp_path / "a.gz").write_bytes(gzip.compress(raw))
    assert idx.contents(tmp_path / "a") == idx.contents(tmp_path / "a.gz") == raw


GOOD = files.idx(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "an empty file"),
        (GOOD[:3], "found 000008"),
        (GOOD[:9], "found 00000803"),
        (b"\x00\x00\x0d\x03" + GOOD[4:], "found 00000d03"),
        (b"\x00\x00\x08\x01" + GOOD[4:], "found 00000801"),
        (b"\x1f\x8b" + GOOD[2:], "found 1f8b0803"),
        (GOOD[:-1], "expected 24 entries.*found 23"),
        (GOOD + b"\x00", "expected 24 entries.*found 25"),
        (GOOD[:4] + b"\xff" * 12, "found 0"),
    ],
)
def test_a_damaged_file_is_named(raw, message, tmp_path):
    with pytest.raises(InputError, match=message) as caught:
        idx.decode(raw, 3, tmp_path / "some-file")
    assert "some-file" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [5, 20, -9, -1])
def test_truncated_gzip_is_named(keep, tmp_path):
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(GOOD)[:keep])
    with pytest.raises(InputError, match=r"x\.gz to be whole gzip data"):
        idx.contents(path)


@pytest.mark.parametrize("position", [0, 14, -8, -1])
def test_altered_gzip_is_named(position, tmp_path):
    path = tmp_path / "x.gz"
    raw = bytearray(gzip.compress(GOOD))
    raw[position] ^= 0xFF
    path.write_bytes(raw)
    with pytest.raises(InputError, match=r"x\.gz to be whole gzip data"):
        idx.contents(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=r"expected to read .*folder"):
        idx.contents(tmp_path / "folder")
