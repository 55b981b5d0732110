"""Exponential average of |δ_k| along k.

Exactly, |δ_k| = |ℓ_{k+1} − L_k| / (k+1). The numerator, what sample k+1 brings that is new, keeps
its level along k where samples are exchangeable; the factor 1/(k+1) is algebra. So it is the
numerator that is averaged, each average then divided by k+1. Averaging |δ_k| itself over about
1/(1−β) past values, each larger than the present one, is too high at every k: for an exact 1/(k+1)
and β = 0.99 more than twice at k = 100, even without the bias of the start.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxscape.types import InputError

BETA = 0.99


def exponential(
    values: Float[Array, "... K"], *, beta: float = BETA, as_published: bool = False
) -> Float[Array, "... K"]:
    """s_k of |δ_k|, ``values`` at k = 1..K: a / (k+1), with a the average of (j+1) |δ_j|, j ≤ k.

    Weights are in proportion to β^(k−j) and sum to one at every k, as Adam's do (Kingma & Ba 2015,
    section 3). A multiple of 1/(k+1) is its own average. Where (k+1) |δ_k| has a trend, its average
    lags 1/(1−β) values behind, as that of any past does.

    As published: s_1 = |δ_1|, then s_k = β s_{k−1} + (1−β) |δ_k|, in which the first value keeps
    the weight β^(k−1) and the past is not scaled to the present.

    Raises:
        InputError: a beta outside [0, 1).
    """
    if not 0 <= beta < 1:
        raise InputError(f"expected a beta of at least 0, below 1, found {beta}; change it")
    values = jnp.asarray(values)
    k = np.arange(1, values.shape[-1] + 1, dtype=np.float64)
    if as_published:
        return _average(values, np.where(k == 1, 1, 1 - beta))
    return _average(values * (k + 1), (1 - beta) / (1 - beta**k)) / (k + 1)


@jax.jit
def _average(values: Float[Array, "... K"], gains: Float[Array, "K"]) -> Float[Array, "... K"]:
    """s_k = s_{k−1} + gain_k (y_k − s_{k−1}), s_0 = 0."""

    def step(average: Array, entry: tuple[Array, Array]) -> tuple[Array, Array]:
        value, gain = entry
        average = average + gain * (value - average)
        return average, average

    along = jnp.moveaxis(values, -1, 0)
    gains = gains.astype(values.dtype)
    return jnp.moveaxis(jax.lax.scan(step, jnp.zeros_like(along[0]), (along, gains))[1], 0, -1)
