"""Arrays in files, of which only the rows that are asked for come into memory."""

import math
import mmap
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import jax
import numpy as np
from jaxtyping import Int, Shaped

from jaxscape.types import Batch

PIECE = 2**24
"""Bytes that are read at a time."""


SCATTERED = 256
"""Scattered rows that are read at a time: the system maps 64 KiB around each of them."""


class Mapped:
    """A memory-mapped array whose rows are converted as they are read."""

    def __init__(self, stored: np.memmap, convert: Callable[[np.ndarray], np.ndarray]) -> None:
        self._stored, self._convert = stored, convert
        self.shape, self.ndim = stored.shape, stored.ndim
        self.dtype = convert(np.empty(0, stored.dtype)).dtype

    def __len__(self) -> int:
        return len(self._stored)

    def __getitem__(self, rows: slice | Int[np.ndarray, "b"]) -> Shaped[np.ndarray, "b ..."]:
        return self._convert(read(self._stored, rows))

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)


def read(
    array: Shaped[np.ndarray, "n ..."] | Mapped, rows: slice | Int[np.ndarray, "b"]
) -> Shaped[np.ndarray, "b ..."]:
    """The ``rows`` of ``array`` in memory of their own.

    Of a memory map no page stays in the process's memory, which ``array[rows]`` would grow by all
    that is ever read. ``rows`` are numbers from 0 on.

    Raises:
        OSError: a file that has become shorter; to go beyond its end would end the process.
    """
    if isinstance(array, Mapped):  # read and converted, into memory of their own
        return array[rows]
    if not isinstance(array, np.memmap) or _map_of(array) is None:
        return np.array(array[rows], copy=True if isinstance(rows, slice) else None)
    _check_length(array)
    if isinstance(rows, slice):
        found = np.array(array[rows])
        _forget(array)
        return found
    found = np.empty((len(rows), *array.shape[1:]), array.dtype)
    along = np.argsort(rows, kind="stable")  # a file is read fastest from its start to its end
    for start in range(0, len(rows), SCATTERED):
        part = along[start : start + SCATTERED]
        found[part] = array[rows[part]]
        _forget(array)
    return found


def take(arrays: Batch, rows: slice | Int[np.ndarray, "b"]) -> Batch:
    """The ``rows`` of every leaf, in memory."""
    return jax.tree.map(lambda leaf: read(leaf, rows), arrays)


def blocks(array: Shaped[np.ndarray, "n ..."] | Mapped) -> Iterator[Shaped[np.ndarray, "b ..."]]:
    """All rows in order, a few at a time."""
    size = max(1, PIECE // max(1, array.dtype.itemsize * math.prod(array.shape[1:])))
    for start in range(0, len(array), size):
        yield read(array, slice(start, start + size))


def of_npy(path: Path, start: int = 0, size: int | None = None) -> np.memmap | None:
    """The array in npy format that begins ``start`` bytes into a file, memory-mapped.

    Header and entries have ``size`` bytes of the file, by default all that follow.

    None where that cannot be done: Python objects, Fortran order, no entries, or a header that is
    not of version 1. Raises ``ValueError`` for anything but an array, or one cut short.
    """
    with path.open("rb") as file:
        file.seek(start)
        if np.lib.format.read_magic(file) != (1, 0):
            return None
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        offset = file.tell()
    if dtype.hasobject or (fortran and len(shape) > 1) or not shape or 0 in shape:
        return None
    room = (path.stat().st_size if size is None else start + size) - offset
    wanted = dtype.itemsize * math.prod(shape)
    if room < wanted:
        raise ValueError(f"expected {wanted} bytes of entries, found {room}")
    return np.memmap(path, dtype, "r", offset, shape)


def member_start(file: IO[bytes], member: zipfile.ZipInfo) -> int:
    """Where the bytes of a stored member begin in the ``file`` of the archive.

    They follow the member's own header: 30 bytes, the last four of them the lengths of a name and
    of extra fields, then these two (PKWARE, APPNOTE.TXT, section 4.3.7).
    """
    file.seek(member.header_offset)
    name, extra = np.frombuffer(file.read(30)[26:], "<u2")
    return member.header_offset + 30 + int(name) + int(extra)


def _map_of(array: np.memmap) -> Any:
    """The map behind the array, None for an array computed from one."""
    return array._mmap  # type: ignore[attr-defined]


def _check_length(array: np.memmap) -> None:
    """An ``OSError`` where the file of a map has become shorter than the map."""
    start = array.offset - array.offset % mmap.ALLOCATIONGRANULARITY
    whole = _map_of(array)
    wanted, found = start + len(whole), whole.size()
    if found < wanted:
        raise OSError(
            f"expected {array.filename} to keep its {wanted} bytes while it is read, found "
            f"{found}; put the file back, and leave it alone until the run is done"
        )


def _forget(array: np.memmap) -> None:
    """Let go of the pages, but those with changes of their own, which would be lost."""
    if array.mode != "c" and hasattr(mmap, "MADV_DONTNEED"):
        _map_of(array).madvise(mmap.MADV_DONTNEED)
