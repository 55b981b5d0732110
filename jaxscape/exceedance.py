"""Where the last Δ_k to reach a tolerance falls, over all orders of the samples."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxscape.intervals import Interval, check_level
from jaxscape.sample_size import MOST, SufficientSize, increment_size, smallest
from jaxscape.types import InputError


@partial(jax.jit, static_argnames=("level", "within"))
def exceedance_size(
    terms: Float[Array, "M"],
    count: Int[Array, ""],
    tolerance: Float[Array, "*t"],
    *,
    level: float = 0.9,
    within: float = math.inf,
) -> Interval:
    """The median of Definition 4's K over orders, and limits that hold it with chance ``level``.

    In a random order Δ_k = z/(k(k+1)), with z one of the terms of ``evidence``, reaches the
    tolerance with chance P(z ≥ tolerance·k(k+1)), nearly independently for different k. None from
    k on does with chance exp(−λ(k)),

        λ(k) = Σ_{k' ≥ k} P(z ≥ tolerance·k'(k'+1)) = E[(r(z) − k + 1)₊],

    where r(z) is the largest k' at which z still reaches it. K's quantile of order p is the
    smallest k with λ(k) ≤ −log p; of a run of ``within`` = n samples, which sees no later
    exceedance, with λ(k) − λ(n). For the upper limit the terms get one more, twice as large as the
    largest, as in ``mean_interval``. Where losses are heavy-tailed, a K far beyond ``count`` is a
    guess that comes out too small: it hangs on losses rarer than any seen.

    ``terms`` holds the largest of ``count`` terms, as ``Evidence.delta.largest`` does. Those that
    are left out count as 0 for the lower limit, as the smallest that is there for the rest: all
    three are exact for a K at which no term left out reaches the tolerance, else the limits are
    too wide. No K is reached where a term is not finite.

    Returns:
        An interval of ``SufficientSize``, each of the shape of ``tolerance``.

    Raises:
        InputError: no terms, or a level not between 0 and 1.
    """
    check_level(level)
    if jnp.size(terms) == 0:
        raise InputError("expected at least one term, found none; give more samples")
    tolerance = jnp.asarray(tolerance)
    padded = jnp.concatenate([terms, 2 * terms.max(keepdims=True)])
    left_out = jnp.maximum(count - terms.size, 0)
    finite = jnp.isfinite(terms).all()

    def quantile(z: Float[Array, "M"], others: Array, number: Array, p: float) -> SufficientSize:
        weight = jnp.ones_like(z).at[jnp.argmin(z)].add(others)
        first = increment_size(z, tolerance[..., None])
        last = jnp.where(first.reached, first.k - 1, MOST)

        def expected(k: Array) -> Array:
            beyond = jnp.maximum(last - k + 1, 0).astype(z.dtype)
            return (weight * beyond).sum(-1) / number

        later = 0.0 if math.isinf(within) else expected(jnp.asarray(within, jnp.int32))

        def holds(k: Int[Array, "*t"]) -> Array:
            return expected(k[..., None]) - later <= -math.log(p)

        size = smallest(holds, tolerance.shape)
        return SufficientSize(jnp.where(finite, size.k, -1), size.reached & finite)

    return Interval(
        quantile(terms, jnp.zeros_like(left_out), count, (1 - level) / 2),
        quantile(terms, left_out, count, 0.5),
        quantile(padded, left_out, count + 1, (1 + level) / 2),
    )
