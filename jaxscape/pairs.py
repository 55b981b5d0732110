"""Numbers as unevaluated sums high + low of two floats, twice the working precision.

Every step stays right where a compiler contracts a product with a sum into one rounding.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Pair = tuple[Array, Array]


def two_sum(a: Array, b: Array) -> Pair:
    """a + b, rounded, then its rounding error, exactly (Knuth 1969, section 4.2.2)."""
    total = a + b
    virtual = total - a
    return total, (a - (total - virtual)) + (b - virtual)


def add(x: Pair, y: Pair) -> Pair:
    """x + y."""
    high, low = two_sum(x[0], y[0])
    return two_sum(high, low + (x[1] + y[1]))


RUN = 16
"""How many terms ``cumsum`` adds one after another."""


def cumsum(x: Pair) -> Pair:
    """Running sums along the last axis.

    Runs of ``RUN`` terms are summed term after term, all runs side by side, then the totals of the
    runs. These are two short loops: ``jax.lax.associative_scan`` unrolls into a program that takes
    three to seven times as long to compile, and no less to run.
    """
    *rows, n = x[0].shape
    count = -(-n // RUN)

    def cut(leaf: Array) -> Float[Array, "RUN *rows count"]:
        padded = jnp.pad(leaf, [(0, 0)] * len(rows) + [(0, count * RUN - n)])
        return jnp.moveaxis(padded.reshape(*rows, count, RUN), -1, 0)

    def step(total: Pair, term: Pair) -> tuple[Pair, Pair]:
        total = add(total, term)
        return total, total

    terms = jax.tree.map(cut, x)
    totals, inside = jax.lax.scan(
        step, jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0]), terms), terms
    )
    sums = add(_later(_doubling(totals), 1), inside)
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, -1).reshape(*rows, -1)[..., :n], sums)


def _doubling(x: Pair) -> Pair:
    """Running sums along the last axis, adding to each what is 1, 2, 4, ... places before it."""
    levels = (x[0].shape[-1] - 1).bit_length()
    return jax.lax.fori_loop(0, levels, lambda level, sums: add(_later(sums, 1 << level), sums), x)


def _later(x: Pair, places: int | Int[Array, ""]) -> Pair:
    """Moved ``places`` on along the last axis; zeros come in."""

    def move(leaf: Array) -> Array:
        n = leaf.shape[-1]
        padded = jnp.pad(leaf, [(0, 0)] * (leaf.ndim - 1) + [(n, 0)])
        return jax.lax.dynamic_slice_in_dim(padded, n - places, n, axis=-1)

    return jax.tree.map(move, x)


def divide(x: Pair, count: Float[Array, "..."]) -> Pair:
    """x / count, by one step of long division.

    The remainder is taken with halves of quotient and divisor, whose products are exact.
    """
    quotient = x[0] / count
    remainder = x[0]
    for q in _halves(quotient):
        for c in _halves(count):
            remainder = remainder - q * c
    return quotient, (remainder + x[1]) / count


def _halves(x: Array) -> Pair:
    """x as a sum of two numbers of half its digits."""
    info = jnp.finfo(x.dtype)
    high = jax.lax.reduce_precision(x, exponent_bits=info.nexp, mantissa_bits=info.nmant // 2)
    return high, x - high
