"""Numbers as unevaluated sums high + low of two floats, twice the working precision.

Every step stays right where a compiler contracts a product with a sum into one rounding.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

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


def cumsum(x: Pair) -> Pair:
    """Running sums along the last axis."""
    return jax.lax.associative_scan(add, x, axis=-1)


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
