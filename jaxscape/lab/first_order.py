"""|δ_k| at single points of parameter space, on average over the orders of the samples."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key

from jaxscape import prefix
from jaxscape.types import InputError


class Orders(NamedTuple):
    """Means over R random orders, at m points for k = 1..n−1."""

    mean: Float[Array, "m n-1"]
    """Of |δ_k|."""
    square: Float[Array, "m n-1"]
    """Of δ_k²."""


def over_orders(key: Key[Array, ""], losses: Float[ArrayLike, "m n"], num_orders: int) -> Orders:
    """The mean of |δ_k| and of δ_k² over ``num_orders`` orders drawn with equal probability.

    ``losses`` holds ℓ_i of n samples at m points; all points see the same orders, those that
    ``random_orders`` draws from this key. Memory is that of a few copies of the losses.

    Raises:
        InputError: losses that are not [m, n ≥ 2], or fewer than one order.
    """
    shape = jnp.shape(losses)
    if len(shape) != 2 or shape[1] < 2 or num_orders < 1:
        raise InputError(
            "expected losses of shape (points, samples) with at least 2 samples, over at least 1 "
            f"order, found {shape} over {num_orders}; give one row per point"
        )
    return _over_orders(jax.random.split(key, num_orders), jnp.asarray(losses))


@jax.jit
def _over_orders(keys: Key[Array, "R"], losses: Float[Array, "m n"]) -> Orders:
    m, n = losses.shape
    losses -= jnp.median(losses, -1, keepdims=True)  # δ stays; exactly 0 where all losses are equal

    def add(total: Orders, key: Key[Array, ""]) -> tuple[Orders, None]:
        size = jnp.abs(prefix.increments(losses[:, jax.random.permutation(key, n)]))
        return Orders(total.mean + size, total.square + size**2), None

    zeros = jnp.zeros((m, n - 1), losses.dtype)
    total, _ = jax.lax.scan(add, Orders(zeros, zeros), keys)
    return jax.tree.map(lambda x: x / len(keys), total)


def deviation(losses: Float[ArrayLike, "m n"]) -> Float[np.ndarray, "m"]:
    """M = (1/n) Σ_i |ℓ_i − L_n|, the mean absolute deviation at each point."""
    losses = np.asarray(losses, np.float64)
    losses = losses - np.median(losses, -1, keepdims=True)  # exactly 0 where all are equal
    return np.abs(losses - losses.mean(-1, keepdims=True)).mean(-1)


def law(
    deviation: Float[ArrayLike, "*m"], n: int, k: Int[np.ndarray, "*k"]
) -> Float[np.ndarray, "..."]:
    """M n / ((n−1) (k+1)): what |δ_k| comes to on average over all orders of n samples as k grows.

    Given that sample i comes next, L_k is on average (n L_n − ℓ_i) / (n−1), so that ℓ_i − L_k is
    n/(n−1) (ℓ_i − L_n) plus a remainder of mean 0. By Jensen's inequality the average of |δ_k| is
    therefore nowhere below this law; at k = n−1 the remainder is 0, and they are equal. Since a
    mean is at most a root mean square, it is nowhere above √(S²/(k(k+1))), the root of the order
    law of δ_k² (``jaxscape.order_law``). The arguments broadcast.
    """
    return np.asarray(deviation) * n / (n - 1) / (np.asarray(k, np.float64) + 1)
