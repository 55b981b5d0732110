"""The IDX file format of unsigned bytes, gzipped or plain.

Two zero bytes, the type 8 (unsigned byte), the number of axes, each axis as a big-endian uint32,
then the entries in C order: http://yann.lecun.com/exdb/mnist/.
"""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from jaxscape.types import InputError


def decode(raw: bytes, axes: int, where: Path) -> UInt8[np.ndarray, "..."]:
    """The array of ``axes`` axes in the bytes ``raw`` of file ``where``.

    Raises ``InputError`` for another type or number of axes, or for more or fewer entries than the
    header announces.
    """
    start = 4 * (axes + 1)
    magic = bytes([0, 0, 8, axes])
    if len(raw) < start or raw[:4] != magic:
        raise InputError(
            f"expected {where} to be an IDX file of bytes with {axes} axes, magic number "
            f"{magic.hex()}, found {raw[:4].hex() or 'an empty file'}; get the file again"
        )
    shape = tuple(int(length) for length in np.frombuffer(raw, ">u4", axes, offset=4))
    if len(raw) - start != math.prod(shape):
        raise InputError(
            f"expected {math.prod(shape)} entries in {where}, as its header says {shape}, "
            f"found {len(raw) - start}: it is truncated or altered; get the file again"
        )
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


def contents(path: Path) -> bytes:
    """The bytes of a file, unpacked where its name ends in .gz.

    Raises ``InputError`` where it cannot be read, or is not whole gzip data.
    """
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(
            f"expected {path} to be whole gzip data, found: {error}; get the file again"
        ) from error
    except OSError as error:
        raise InputError(
            f"expected to read {path}, found: {error.strerror}; check its permissions"
        ) from error
