"""Quantiles of Student's t for any real number of degrees of freedom."""

import jax
import jax.numpy as jnp
from jax.scipy.special import betainc, ndtri
from jax.typing import ArrayLike
from jaxtyping import Array, Float

LIMITS = (-3.0, 15.0)  # of log10 t
HALVINGS = 40
MANY = 30.0  # degrees of freedom from which on the expansion is exact to float32


def two_sided(level: float, freedom: Float[ArrayLike, "*s"]) -> Float[Array, "*s"]:
    """The t with P(|T| ≤ t) = ``level``, for T with ν = ``freedom`` degrees of freedom.

    Bisects log t in P(|T| > t) = I_x(ν/2, ½), x = ν/(ν + t²), the regularised incomplete beta
    function (Abramowitz and Stegun 26.7.1); for ν of at least 30, where that function loses digits
    in float32, the expansion of t in 1/ν around the normal quantile (26.7.5). Infinite where ν ≤ 0.
    """
    freedom = jnp.asarray(freedom, jnp.result_type(float))
    few = jnp.clip(freedom, jnp.finfo(freedom.dtype).tiny, MANY)

    def halve(_: int, limits: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = limits
        middle = (low + high) / 2
        outside = betainc(few / 2, 0.5, few / (few + 100**middle))
        below = outside > 1 - level
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    start = tuple(jnp.full_like(freedom, limit) for limit in LIMITS)
    low, high = jax.lax.fori_loop(0, HALVINGS, halve, start)
    t = jnp.where(freedom < MANY, 10 ** ((low + high) / 2), _expansion(level, freedom))
    return jnp.where(freedom > 0, t, jnp.inf)


def _expansion(level: float, freedom: Float[Array, "*s"]) -> Float[Array, "*s"]:
    z = ndtri((1 + level) / 2)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + (first + (second + third / freedom) / freedom) / freedom
