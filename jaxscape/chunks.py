"""How a long leading axis is cut into equal chunks.

Every chunk has the same static size, so one compiled body serves all of them. Where the size does
not divide the length, the last chunk starts early and overlaps its predecessor; entries that an
earlier chunk has already shown are not ``fresh`` and must weigh nothing. No data is padded or
copied.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from jaxscape.types import Batch, InputError


class Chunks(NamedTuple):
    """Starts of c chunks of equal size, and which of their entries are seen for the first time."""

    starts: Int[np.ndarray, "c"]
    fresh: Bool[np.ndarray, "c size"]

    @property
    def size(self) -> int:
        """Entries per chunk."""
        return self.fresh.shape[1]

    @property
    def positions(self) -> Int[np.ndarray, "c size"]:
        """Where each entry lies on the whole axis."""
        return self.starts[:, None] + np.arange(self.size, dtype=np.int32)


def cut(length: int, size: int, hands: int = 1) -> Chunks:
    """Cut ``range(length)`` into the fewest chunks of at most ``size``, as equal as possible.

    Of several ``hands`` to work on them, each gets as many; the last chunks may hold nothing fresh.
    """
    if size < 1:
        raise InputError(f"expected a chunk size of at least 1, found {size}; raise it")
    count = math.ceil(length / (size * hands)) * hands
    size = math.ceil(length / count)
    starts = np.minimum(np.arange(count) * size, length - size)
    positions = starts[:, None] + np.arange(size)
    return Chunks(starts.astype(np.int32), positions >= (np.arange(count) * size)[:, None])


def turns(count: int, hands: int) -> Int[np.ndarray, "count"]:
    """Which chunks each hand has, one hand after the other, where they are dealt in turn."""
    return np.arange(count).reshape(-1, hands).T.ravel()


def take(data: Batch, start: Int[Array, ""], size: int) -> Batch:
    """Entries ``start : start + size`` of every array in ``data``."""
    return jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, size), data)


def join(chunks: Chunks, rows: Batch) -> Batch:
    """Undo ``cut``: the fresh entries of arrays ``[c, size, ...]`` in order, ``[length, ...]``."""
    whole = int(chunks.fresh.all(1).sum())  # then perhaps a ragged one, then perhaps empty ones
    ragged = chunks.fresh[whole : whole + 1]

    def flat(leaf: Array) -> Array:
        parts = [leaf[:whole].reshape(-1, *leaf.shape[2:])]
        if ragged.any():
            parts.append(leaf[whole][int(np.argmax(ragged)) :])
        return jnp.concatenate(parts)

    return jax.tree.map(flat, rows)


def length_of(data: Batch) -> int:
    """The common leading axis of all arrays in ``data``; an ``InputError`` where there is none."""
    if isinstance(data, Iterator):
        raise InputError(
            "expected arrays, found an iterator of batches, which is read once; only the sweeps "
            "(evaluate, delta, surface) take one"
        )
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(data)]
    lengths = {shape[0] for shape in shapes if shape}
    if len(lengths) != 1 or not all(shapes):
        raise InputError(
            f"expected arrays with one common leading sample axis, found shapes {shapes}; "
            "give every array of the batch the same first axis"
        )
    (length,) = lengths
    if length == 0:
        raise InputError(
            "expected at least one sample, found none; check how the data was selected"
        )
    return length
