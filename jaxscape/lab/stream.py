"""Batches of data that do not fit into memory, on the device ahead of their use."""

from collections import deque
from collections.abc import Iterable, Iterator

import jax
import numpy as np
from jaxtyping import Int

from jaxscape.batching import length_of
from jaxscape.lab import mapped
from jaxscape.types import Batch, InputError


def batches(
    arrays: Batch,
    batch_size: int,
    *,
    order: Int[np.ndarray, "n"] | None = None,
    ahead: int = 1,
) -> Iterator[Batch]:
    """Consecutive samples of ``arrays``, leaves ``[n, ...]``, ``batch_size`` at a time.

    The leaves are NumPy arrays, such as ``np.load(path, mmap_mode="r")`` of a file larger than
    memory: what is read is one batch at a time, ``ahead`` of the one in use, and no page of the
    file stays in the process's memory. ``order`` are the numbers of the samples to take, all in
    turn where there is none. The last batch holds the samples that are left. For ``delta``,
    ``surface`` and ``evaluate``, which compile one program for each length of batch; a few
    thousand samples keep a device busy while the next batch is read.

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
    spans = (slice(start, start + batch_size) for start in range(0, count, batch_size))
    wanted = (span if order is None else np.asarray(order[span]) for span in spans)
    return on_device((mapped.take(arrays, rows) for rows in wanted), ahead=ahead)


def on_device(parts: Iterable[Batch], *, ahead: int = 1) -> Iterator[Batch]:
    """Batches on the device, ``ahead`` of the one in use."""
    waiting: deque[Batch] = deque()
    for part in parts:
        waiting.append(jax.device_put(part))
        if len(waiting) > ahead:
            yield waiting.popleft()
    yield from waiting
