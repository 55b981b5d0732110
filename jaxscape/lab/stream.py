"""Samples from arrays in memory or in files, read as they are needed."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int, Shaped

from jaxscape.types import Batch

PIECE = 2**24  # bytes that ``blocks`` reads at a time


class Mapped:
    """A memory-mapped array whose rows are converted as they are read.

    ``convert`` maps rows ``[b, ...]`` of what ``np.load(path, mmap_mode="r")`` gives to the rows
    wanted, in new memory.
    """

    def __init__(
        self, stored: Shaped[np.memmap, "n ..."], convert: Callable[[np.ndarray], np.ndarray]
    ) -> None:
        self._stored, self._convert = stored, convert
        self.shape, self.ndim = stored.shape, stored.ndim
        self.dtype = convert(np.empty(0, stored.dtype)).dtype

    def __len__(self) -> int:
        return len(self._stored)

    def __getitem__(self, rows: slice | Int[np.ndarray, "b"]) -> Shaped[np.ndarray, "b ..."]:
        _check_length(self._stored)
        return self._convert(np.asarray(self._stored[rows]))

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)


@dataclass(frozen=True, eq=False)
class Stored:
    """n samples that are read when they are wanted: ``read(rows)`` gives some, in memory."""

    n: int
    read: Callable[[Int[np.ndarray, "b"]], Batch]


def take(arrays: Batch, rows: slice | Int[np.ndarray, "b"]) -> Batch:
    """The ``rows`` of every leaf ``[n, ...]``, in memory of their own.

    An ``OSError`` tells of a mapped file that has become shorter.
    """

    def read(array: Shaped[np.ndarray, "n ..."] | Mapped) -> Shaped[np.ndarray, "b ..."]:
        if isinstance(array, Mapped):
            return array[rows]
        _check_length(array)
        return np.array(array[rows], copy=True if isinstance(rows, slice) else None)

    return jax.tree.map(read, arrays)


def blocks(array: Shaped[np.ndarray, "n ..."] | Mapped) -> Iterator[Shaped[np.ndarray, "b ..."]]:
    """All rows in order, about 16 MB at a time."""
    size = max(1, PIECE // max(1, array.dtype.itemsize * math.prod(array.shape[1:])))
    for start in range(0, len(array), size):
        yield take(array, slice(start, start + size))


def wait(tree: Any) -> None:
    """Return once all arrays are computed: Ctrl-C interrupts it, unlike JAX's own way."""
    pause = 1e-4
    for leaf in filter(lambda leaf: isinstance(leaf, jax.Array), jax.tree.leaves(tree)):
        while not leaf.is_ready():
            time.sleep(pause)
            pause = min(2 * pause, 0.05)


def _check_length(array: np.ndarray) -> None:
    """An ``OSError`` where a mapped file has become shorter: to read on would end the process."""
    if not isinstance(array, np.memmap) or array.filename is None:
        return
    wanted, found = array.offset + array.nbytes, Path(array.filename).stat().st_size
    if found < wanted:
        said = f"expected {array.filename} to keep its {wanted} bytes while read, found {found}"
        raise OSError(f"{said}; put the file back, and leave it alone until the run is done")
