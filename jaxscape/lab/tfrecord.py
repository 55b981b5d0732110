"""The TFRecord file format.

Each record is its length (uint64, little-endian), the masked CRC-32C of that, the bytes, the masked
CRC-32C of those: https://www.tensorflow.org/tutorials/load_data/tfrecord.
"""

import struct
from pathlib import Path

import numpy as np
from jaxtyping import UInt32

from jaxscape.types import InputError

HEADER = struct.Struct("<QI")


FOOTER = struct.Struct("<I")


GROUP = 5_000  # records whose checksums are computed side by side


def read(path: Path) -> list[bytes]:
    """The records of a file, all lengths with all checksums verified.

    Raises ``InputError`` naming the file where it is truncated or altered.
    """
    raw = path.read_bytes()
    records, expected, start = [], [], 0
    while start < len(raw):
        if start + HEADER.size > len(raw):
            raise _broken(path, start)
        length, check = HEADER.unpack_from(raw, start)
        end = start + HEADER.size + length
        if masked_crc32c([raw[start : start + 8]])[0] != check or end + FOOTER.size > len(raw):
            raise _broken(path, start)
        records.append(raw[start + HEADER.size : end])
        expected.append(FOOTER.unpack_from(raw, end)[0])
        start = end + FOOTER.size
    for first in range(0, len(records), GROUP):
        group = slice(first, first + GROUP)
        if np.any(masked_crc32c(records[group]) != np.array(expected[group], np.uint32)):
            raise _broken(path, f"records {first} to {first + len(records[group]) - 1}")
    return records


def masked_crc32c(records: list[bytes]) -> UInt32[np.ndarray, "n"]:
    """The masked CRC-32C (Castagnoli) of each record, byte by byte over all records at once."""
    lengths = np.array([len(record) for record in records])
    order = np.argsort(-lengths, kind="stable")  # those still running are always the first ones
    padded = np.zeros((lengths.max(initial=0), len(records)), np.uint8)
    for column, index in enumerate(order):
        padded[: lengths[index], column] = np.frombuffer(records[index], np.uint8)
    running = np.searchsorted(-lengths[order], -np.arange(len(padded)), side="left")
    state = np.full(len(records), 0xFFFFFFFF, np.uint32)
    for row, count in zip(padded, running, strict=True):
        old = state[:count]
        state[:count] = _TABLE[(old ^ row[:count]) & 0xFF] ^ (old >> 8)
    crc = np.empty_like(state)
    crc[order] = ~state
    return ((crc >> 15) | (crc << 17)) + np.uint32(0xA282EAD8)


def _table() -> UInt32[np.ndarray, "256"]:
    table: np.ndarray = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> 1) ^ np.where(table & 1, np.uint32(0x82F63B78), np.uint32(0))
    return table


_TABLE = _table()


def _broken(path: Path, place: int | str) -> InputError:
    at = place if isinstance(place, str) else f"byte {place}"
    return InputError(
        f"expected whole TFRecords in {path}, found a wrong length or checksum at {at}: it is "
        "truncated or altered; prepare the data set again, or remove its folder"
    )
