"""Batches of data that do not fit into memory, on the device ahead of their use."""

from collections import deque
from collections.abc import Iterator

import jax
import numpy as np

from jaxscape.chunks import length_of
from jaxscape.types import Batch, InputError


def batches(arrays: Batch, batch_size: int, *, ahead: int = 1) -> Iterator[Batch]:
    """Consecutive samples of ``arrays``, leaves ``[n, ...]``, ``batch_size`` at a time.

    The leaves are NumPy arrays, such as ``np.load(path, mmap_mode="r")`` of a file larger than
    memory: what is read is one batch at a time, ``ahead`` of the one in use. The last batch holds
    the samples that are left. For ``delta``, ``surface`` and ``evaluate``, which compile one
    program for each length of batch; a few thousand samples keep a device busy while the next
    batch is read.

    Raises:
        InputError: samples without a common axis, a batch_size below 1, or an ahead below 0.
    """
    n = length_of(arrays)
    if batch_size < 1 or ahead < 0:
        raise InputError(
            f"expected batch_size >= 1 and ahead >= 0, found {batch_size} and {ahead}; change them"
        )
    return _read(arrays, n, batch_size, ahead)


def _read(arrays: Batch, n: int, batch_size: int, ahead: int) -> Iterator[Batch]:
    waiting: deque[Batch] = deque()
    for start in range(0, n, batch_size):
        stop = min(start + batch_size, n)
        part = jax.tree.map(lambda leaf: np.array(leaf[start:stop]), arrays)  # noqa: B023
        waiting.append(jax.device_put(part))
        if len(waiting) > ahead:
            yield waiting.popleft()
    yield from waiting
