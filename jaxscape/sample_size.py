"""The sample size from which on the landscape stays put."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxscape.orders import distance_law, order_law
from jaxscape.types import InputError

MOST = 2**31 - 1
"""No K beyond this is looked for."""


class SufficientSize(NamedTuple):
    """K for each tolerance; where it is not ``reached`` within the samples, ``k`` is −1."""

    k: Int[Array, "*t"]
    reached: Bool[Array, "*t"]


@jax.jit
def sufficient_size(delta: Float[Array, "*r n-1"], tolerance: Float[Array, "*t"]) -> SufficientSize:
    """K = inf{k : Δ_k' < tolerance for all k' ≥ k}, one past the last exceedance.

    Definition 4 of Nikitin et al. 2025. ``delta`` holds Δ_1, ..., Δ_{n−1}; a NaN among them
    counts as an exceedance. ``tolerance`` has the units of ``delta``.

    Raises:
        InputError: a whole ``js.delta`` result in place of one of its curves.
    """
    if isinstance(delta, tuple):
        raise InputError(
            f"expected an array of Δ_k, found {type(delta).__name__}; give its .mean or .shape"
        )
    exceeds = ~(delta < jnp.asarray(tolerance)[..., None])
    k = jnp.arange(1, delta.shape[-1] + 1)
    last = jnp.max(jnp.where(exceeds, k, 0), -1)
    reached = last < delta.shape[-1]
    return SufficientSize(jnp.where(reached, last + 1, -1), reached)


@jax.jit
def increment_size(
    loss_variance: Float[Array, "*v"], tolerance: Float[Array, "*t"]
) -> SufficientSize:
    """K of the order law: the smallest k with E_qS² / (k (k+1)) < tolerance.

    ``loss_variance`` is E_q S², of Δ or of shape delta, in the units of ``tolerance``; the two
    broadcast. K grows with E_q S², so the K of an interval's limits is an interval of K:
    ``jax.tree.map(lambda v: increment_size(v, tolerance), interval)``. The law is a mean over
    orders. In a given order the last Δ_k to reach the tolerance follows the largest losses, and
    comes later: see ``exceedance_size``.
    """
    shape = jnp.broadcast_shapes(jnp.shape(loss_variance), jnp.shape(tolerance))
    return smallest(lambda k: order_law(loss_variance, k) < tolerance, shape)


@jax.jit
def distance_size(
    loss_variance: Float[Array, "*v"], epsilon: Float[Array, "*t"], to: float = jnp.inf
) -> SufficientSize:
    """K_ε: the smallest k with E_qS² |1/k − 1/to| < ε², a root mean square distance below ε.

    From the prefix mean to the landscape of the population by default, or to that of all
    ``to`` = N samples. ``epsilon`` is in units of the loss, E_q S² in its square; none is
    below an ε of 0 or less.
    """
    square = jnp.square(epsilon)
    shape = jnp.broadcast_shapes(jnp.shape(loss_variance), jnp.shape(epsilon))
    # from ``to`` on the distance is 0, so that the condition holds wherever it held before
    near = lambda k: distance_law(loss_variance, jnp.minimum(k, to), to) < square  # noqa: E731
    return smallest(lambda k: near(k) & (jnp.asarray(epsilon) > 0), shape)


def smallest(
    holds: Callable[[Int[Array, "*t"]], Bool[Array, "*t"]], shape: tuple[int, ...]
) -> SufficientSize:
    """The smallest k ≥ 1 at which a condition holds that holds from there on, by bisection."""

    def halve(_: int, limits: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = limits  # it fails at ``low``, or that is 0; it holds at ``high`` if anywhere
        middle = low + (high - low) // 2
        below = holds(jnp.maximum(middle, 1)) & (middle > 0)
        return jnp.where(below, low, middle), jnp.where(below, middle, high)

    limits = jnp.zeros(shape, jnp.int32), jnp.full(shape, MOST, jnp.int32)
    _, k = jax.lax.fori_loop(0, 31, halve, limits)
    reached = k < MOST  # not asked of ``holds`` again, which may round otherwise outside the loop
    return SufficientSize(jnp.where(reached, k, -1), reached)
