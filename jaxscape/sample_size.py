"""The sample size from which on the landscape stays put."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class SufficientSize(NamedTuple):
    """K for each tolerance; where it is not ``reached`` within the samples, ``k`` is −1."""

    k: Int[Array, "*t"]
    reached: Bool[Array, "*t"]


def sufficient_size(delta: Float[Array, "n-1"], tolerance: Float[Array, "*t"]) -> SufficientSize:
    """K = inf{k : Δ_k' < tolerance for all k' ≥ k}, one past the last exceedance.

    Definition 4 of Nikitin et al. 2025. ``delta`` holds Δ_1, ..., Δ_{n−1}; a NaN among them
    counts as an exceedance. ``tolerance`` has the units of ``delta``.
    """
    exceeds = ~(delta < jnp.asarray(tolerance)[..., None])
    k = jnp.arange(1, delta.shape[-1] + 1)
    last = jnp.max(jnp.where(exceeds, k, 0), -1)
    reached = last < delta.shape[-1]
    return SufficientSize(jnp.where(reached, last + 1, -1), reached)
