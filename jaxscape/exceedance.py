"""Where the last Δ_k to reach a tolerance falls, over all orders of the samples."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxscape.intervals import Interval
from jaxscape.sample_size import MOST, SufficientSize, increment_size, smallest


def exceedance_size(
    terms: Float[Array, "M"],
    count: Int[Array, ""],
    tolerance: Float[Array, "*t"],
    *,
    level: float = 0.9,
) -> Interval:
    """The median of Definition 4's K over orders, and limits that hold it with chance ``level``.

    In a random order Δ_k = z/(k(k+1)), with z one of the terms of ``evidence``, reaches the
    tolerance with chance P(z ≥ tolerance·k(k+1)), nearly independently for different k. None from
    k on does with chance exp(−λ(k)),

        λ(k) = Σ_{k' ≥ k} P(z ≥ tolerance·k'(k'+1)) = E[(r(z) − k + 1)₊],

    where r(z) is the largest k' at which z still reaches it. K's quantile of order p is the
    smallest k with λ(k) ≤ −log p. ``terms`` holds the largest of ``count`` terms, as
    ``Evidence.delta.largest`` does. For the upper limit they get one more, twice as large as the
    largest, as in ``mean_interval``. Where losses are heavy-tailed, a K far beyond ``count`` is a
    guess that comes out too small: it hangs on losses rarer than any seen.

    Returns:
        An interval of ``SufficientSize``, each of the shape of ``tolerance``.
    """
    tolerance = jnp.asarray(tolerance)
    padded = jnp.concatenate([terms, 2 * terms.max(keepdims=True)])

    def quantile(z: Float[Array, "M"], number: Int[Array, ""], p: float) -> SufficientSize:
        first = increment_size(z, tolerance[..., None])
        last = jnp.where(first.reached, first.k - 1, MOST)

        def holds(k: Int[Array, "*t"]):
            beyond = jnp.maximum(last - k[..., None] + 1, 0).astype(z.dtype)
            return beyond.sum(-1) / number <= -math.log(p)

        return smallest(holds, tolerance.shape)

    return Interval(
        quantile(terms, count, (1 - level) / 2),
        quantile(terms, count, 0.5),
        quantile(padded, count + 1, (1 + level) / 2),
    )
