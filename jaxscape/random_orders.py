"""How Δ_k scatters over random orders of the same samples."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxscape import prefix, sample_size
from jaxscape.sample_size import SufficientSize
from jaxscape.types import InputError


class RandomOrders(NamedTuple):
    """Δ_k in each of R orders."""

    delta: Float[Array, "R n-1"]

    def bands(self, quantiles: Float[Array, "q"]) -> Float[Array, "q n-1"]:
        """The quantiles of Δ_k over the orders, for every k."""
        return jnp.quantile(self.delta, jnp.asarray(quantiles), axis=0)

    def sufficient_size(self, tolerance: Float[Array, "t"]) -> SufficientSize:
        """K by Definition 4 in each order, ``[t, R]``."""
        find = partial(sample_size.sufficient_size, self.delta)
        return jax.lax.map(find, jnp.asarray(tolerance, self.delta.dtype))


def random_orders(
    key: Key[Array, ""], losses: Float[Array, "m n"], num_orders: int
) -> RandomOrders:
    """Δ_k = E_q[δ_k²] for every k in each of ``num_orders`` orders drawn with equal probability.

    ``losses`` holds ℓ_i(w) of n samples at m points, as ``evaluate`` with ``reductions.losses(m)``
    gives them. One order and one point at a time, so that memory beyond the losses is that of the
    result. For shape delta give √(m/(m−1)) (ℓ_i − mean of ℓ_i over the points).

    Raises:
        InputError: losses that are not [m, n ≥ 2], or fewer than one order.
    """
    shape = jnp.shape(losses)
    if len(shape) != 2 or shape[1] < 2:
        raise InputError(
            f"expected losses of shape (points, samples) with at least 2 samples, found {shape}; "
            "give one row per point"
        )
    if num_orders < 1:
        raise InputError(f"expected at least 1 order, found {num_orders}; raise the number")
    return RandomOrders(_random_orders(jax.random.split(key, num_orders), jnp.asarray(losses)))


@jax.jit
def _random_orders(keys: Key[Array, "R"], losses: Float[Array, "m n"]) -> Float[Array, "R n-1"]:
    m, n = losses.shape

    def one(key: Key[Array, ""]) -> Float[Array, "n-1"]:
        order = jax.random.permutation(key, n)

        def add(total: Float[Array, "n-1"], row: Float[Array, "n"]):
            return total + prefix.increments(row[order]) ** 2, None

        return jax.lax.scan(add, jnp.zeros(n - 1, losses.dtype), losses)[0] / m

    return jax.lax.map(one, keys)
