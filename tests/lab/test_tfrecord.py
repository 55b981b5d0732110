"""TFRecord files: checksums against known values, records whole or damaged."""

import struct

import numpy as np
import pytest

from jaxscape.lab import tfrecord
from jaxscape.types import InputError


def crc32c(raw):
    """Bit by bit, from the polynomial."""
    state = 0xFFFFFFFF
    for byte in raw:
        state ^= byte
        for _ in range(8):
            state = (state >> 1) ^ (0x82F63B78 if state & 1 else 0)
    return state ^ 0xFFFFFFFF


def masked(raw):
    crc = crc32c(raw)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def write(path, records):
    """The format, one field after the other."""
    raw = b""
    for record in records:
        length = struct.pack("<Q", len(record))
        raw += length + struct.pack("<I", masked(length)) + record
        raw += struct.pack("<I", masked(record))
    path.write_bytes(raw)


def test_reference_agrees_with_the_published_check_value():
    assert crc32c(b"123456789") == 0xE3069283  # RFC 3720, CRC-32C
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, section B.4


RNG = np.random.default_rng(0)
RECORDS = [RNG.bytes(length) for length in (5, 0, 300, 1, 5, 64, 301)]


def test_checksums_of_records_of_mixed_length():
    found = tfrecord.masked_crc32c(RECORDS)
    np.testing.assert_array_equal(found, [masked(record) for record in RECORDS])


@pytest.mark.parametrize("group", [1, 3, 7, 100])
def test_records_come_back(group, tmp_path, monkeypatch):
    monkeypatch.setattr(tfrecord, "GROUP", group)
    write(tmp_path / "x", RECORDS)
    assert tfrecord.read(tmp_path / "x") == RECORDS


def test_no_records(tmp_path):
    write(tmp_path / "x", [])
    assert tfrecord.read(tmp_path / "x") == []


def test_every_altered_byte_is_seen(tmp_path):
    write(tmp_path / "x", RECORDS[:2] + RECORDS[3:5])
    whole = (tmp_path / "x").read_bytes()
    for position in range(len(whole)):
        raw = bytearray(whole)
        raw[position] ^= 0x10
        (tmp_path / "x").write_bytes(raw)
        with pytest.raises(InputError, match=r"whole TFRecords in .*x, found a wrong"):
            tfrecord.read(tmp_path / "x")


def test_every_truncation_inside_a_record_is_seen(tmp_path):
    write(tmp_path / "x", RECORDS[3:5])
    whole = (tmp_path / "x").read_bytes()
    for keep in set(range(1, len(whole))) - {17}:  # after 17 bytes the first record ends
        (tmp_path / "x").write_bytes(whole[:keep])
        with pytest.raises(InputError, match="truncated or altered"):
            tfrecord.read(tmp_path / "x")
