"""Samples from arrays in memory or in files: rows as they are needed, batches read ahead."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int, Shaped

from jaxscape.batching import length_of
from jaxscape.types import Batch, InputError

PIECE = 2**24
"""Bytes that ``blocks`` reads at a time."""


class Mapped:
    """A memory-mapped array whose rows are converted as they are read.

    Args:
        stored: what ``np.load(path, mmap_mode="r")`` gives.
        convert: maps stored rows ``[b, ...]`` to the rows wanted, in new memory.
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

    Raises:
        OSError: a mapped file that has become shorter.
    """
    return jax.tree.map(lambda leaf: _read(leaf, rows), arrays)


def blocks(array: Shaped[np.ndarray, "n ..."] | Mapped) -> Iterator[Shaped[np.ndarray, "b ..."]]:
    """All rows in order, about 16 MB at a time."""
    size = max(1, PIECE // max(1, array.dtype.itemsize * math.prod(array.shape[1:])))
    for start in range(0, len(array), size):
        yield _read(array, slice(start, start + size))


def batches(
    arrays: Batch, batch_size: int, *, order: Int[np.ndarray, "n"] | None = None, ahead: int = 1
) -> Iterator[Batch]:
    """Consecutive samples of ``arrays`` on the device, ``batch_size`` at a time.

    The last batch holds the samples that are left. ``delta``, ``surface`` and ``evaluate`` take
    such batches and compile one program for each length of batch. A few thousand samples keep a
    device busy while the next batch is read.

    Args:
        arrays: leaves ``[n, ...]``, NumPy arrays or ``np.load(path, mmap_mode="r")`` of a file
            larger than memory.
        batch_size: samples per batch.
        order: which samples to take, ``[n]`` or fewer indices; by default all in turn.
        ahead: how many batches are read ahead of the one in use.

    Raises:
        InputError: samples without a common axis, a batch_size below 1, an ahead below 0, or an
            order that names a sample that is not there.
    """
    n = length_of(arrays)
    if batch_size < 1 or ahead < 0:
        raise InputError(
            f"expected batch_size >= 1 and ahead >= 0, found {batch_size} and {ahead}; change them"
        )
    if order is not None and not (len(order) and np.min(order) >= 0 and np.max(order) < n):
        raise InputError(
            f"expected an order of one or more samples from 0 to {n - 1}, found {order}; change it"
        )
    count = n if order is None else len(order)

    def read() -> Iterator[Batch]:
        waiting: deque[Batch] = deque()
        for start in range(0, count, batch_size):
            rows = slice(start, start + batch_size)
            part = take(arrays, rows if order is None else np.asarray(order[rows]))
            waiting.append(jax.device_put(part))
            if len(waiting) > ahead:
                yield waiting.popleft()
        yield from waiting

    return read()  # the arguments are checked at once, the first batch is read when it is wanted


def wait(tree: Any) -> None:
    """Return once all arrays of ``tree`` are computed.

    Ctrl-C interrupts it, which ``jax.block_until_ready`` does not allow.
    """
    pause = 1e-4
    arrays = (leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array))
    for leaf in arrays:
        while not leaf.is_ready():  # type: ignore[attr-defined]  # missing in JAX's stubs
            time.sleep(pause)
            pause = min(2 * pause, 0.05)


def _read(
    array: Shaped[np.ndarray, "n ..."] | Mapped, rows: slice | Int[np.ndarray, "b"]
) -> Shaped[np.ndarray, "b ..."]:
    if isinstance(array, Mapped):
        return array[rows]
    _check_length(array)
    return np.array(array[rows], copy=True if isinstance(rows, slice) else None)


def _check_length(array: np.ndarray) -> None:
    """An ``OSError`` where a mapped file has become shorter: to read on would end the process."""
    if not isinstance(array, np.memmap) or array.filename is None:
        return
    wanted, found = array.offset + array.nbytes, Path(array.filename).stat().st_size
    if found < wanted:
        raise OSError(
            f"expected {array.filename} to keep its {wanted} bytes while it is read, found "
            f"{found}; put the file back, and leave it alone until the run is done"
        )
