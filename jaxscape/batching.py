"""How a long leading axis is cut into equal chunks.

Every chunk has the same static size, so one compiled body serves all of them. Where the size does
not divide the length, the last chunk starts early and overlaps its predecessor; entries that an
earlier chunk has already shown are not ``fresh`` and must weigh nothing. No data is padded or
copied.

What suits the matrix products of a loss on a CPU.

Read off the loss function's own program. On other devices XLA's choices stand.
"""

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn, jaxprs_in_params, take_current_trace
from jaxtyping import Array, Bool, Int

from jaxscape.types import Batch, InputError, Params, PerSampleLoss


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


PRODUCTS = {"dot_general", "conv_general_dilated"}
"""The operations that multiply matrices."""


ROWS = 1500
"""Rows of a matrix that stay in a CPU's cache beside another that they are multiplied with."""


FEW = 32
"""Samples at a time, at the least."""


ELSEWHERE = 1000
"""Samples at a time on other devices."""


SMALL = 2**15
"""A call of Eigen takes about as long as this many multiplications."""


EIGEN = {"xla_cpu_experimental_ynn_fusion_type": ""}
"""Has XLA give no product to YNNPACK but all to Eigen."""


class Product(NamedTuple):
    """One operation of a program that multiplies matrices."""

    each: int
    """Multiplications in one product of two matrices."""
    beside: int
    """Such products side by side, or one after another."""
    rows: int
    """Rows of the taller factor of all of them."""


def batch_size(loss: PerSampleLoss, params: Params, data: Batch) -> int:
    """How many samples at a time: those with ``ROWS`` rows in the largest product.

    A dense layer has one row a sample; a convolution has one for each place of its kernel, a
    transformer for each token.
    """
    if jax.default_backend() != "cpu":
        return ELSEWHERE
    largest = max(_products(loss, params, data), key=_work, default=None)
    if largest is None:
        return ROWS
    return max(FEW, min(ROWS, math.ceil(ROWS * length_of(data) / max(1, largest.rows))))


def compiler_options(loss: PerSampleLoss, params: Params, data: Batch) -> dict[str, str]:
    """XLA's options for a program of this loss: ``EIGEN``, or none where that would not help.

    Eigen is called for each of many small products side by side, as in attention over short
    sequences; that must take at most a quarter of the whole. JAX takes options for a program of its
    own alone, not for one that becomes part of another under ``jax.jit`` or ``jax.grad``.
    """
    with take_current_trace() as trace:
        alone = type(trace).__name__ == "EvalTrace"
    if not alone or jax.default_backend() != "cpu" or not _known():
        return {}
    products = _products(loss, params, data)
    calls = sum(product.beside for product in products if product.each < SMALL)
    return EIGEN if 4 * SMALL * calls <= sum(map(_work, products)) else {}


@functools.cache
def _known() -> bool:
    """Whether this version of XLA has that option."""
    try:
        jax.jit(lambda: jnp.zeros(()), compiler_options=EIGEN).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def _products(loss: PerSampleLoss, params: Params, data: Batch) -> list[Product]:
    """The products in the loss of all samples."""
    program = jax.jit(loss).trace(params, data).jaxpr
    found = _equations(program)
    return [_measure(e, times) for e, times in found if e.primitive.name in PRODUCTS]


def _equations(program: Any, times: int = 1) -> Iterator[tuple[JaxprEqn, int]]:
    """All operations of a program, those of the programs within it too, and how often each runs."""
    for equation in program.eqns:
        yield equation, times
        again = times * equation.params["length"] if equation.primitive.name == "scan" else times
        for inner in jaxprs_in_params(equation.params):
            yield from _equations(inner, again)


def _work(product: Product) -> int:
    return product.each * product.beside


def _measure(equation: JaxprEqn, times: int) -> Product:
    avals: list[Any] = [atom.aval for atom in (*equation.invars, *equation.outvars)]
    first, second, out = (aval.shape for aval in avals)
    size = math.prod(out)
    if equation.primitive.name == "dot_general":
        (contracted, _), (batched, _) = equation.params["dimension_numbers"]
        terms = math.prod(first[axis] for axis in contracted)
        beside = math.prod(first[axis] for axis in batched)
        rows = max(math.prod(first), math.prod(second)) // max(1, terms)
    else:
        channels = second[equation.params["dimension_numbers"].rhs_spec[0]]
        terms, beside = math.prod(second) // max(1, channels), 1
        rows = size // max(1, channels)
    return Product(size * terms // max(1, beside), beside * times, rows)
