"""When to stop collecting data: K, followed while samples stream in."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from jaxscape.arguments import explained
from jaxscape.loss_variance import (
    TRUSTED,
    Evidence,
    Interval,
    LossVariance,
    check_level,
    estimate_loss_variance,
    extend,
    start,
)
from jaxscape.sample_size import exceedance_size, increment_size
from jaxscape.types import InputError


class Decision(NamedTuple):
    """What the samples met so far say of K."""

    num_samples: Int[Array, ""]
    loss_variance: LossVariance
    law: Interval
    """K of the order law, low, value and high a ``SufficientSize`` each."""
    exceedance: Interval
    """K of Definition 4 over orders, likewise."""
    stop: Bool[Array, ""]
    nonfinite: Int[Array, ""]
    """Samples with a NaN or infinite loss: from the first on, no K is reached."""


class Monitor(NamedTuple):
    """Three pure functions; the carry is an ``Evidence``."""

    init: Callable[[], Evidence]
    update: Callable[[Evidence, Float[Array, "m b"]], Evidence]
    decide: Callable[..., Decision]


@explained
def monitor(
    *,
    num_points: int,
    tolerance: float,
    level: float = 0.9,
    at_least: int = 1000,
    dtype: Any = jnp.float32,
) -> Monitor:
    """Follow E_q S², and say when Δ_k will stay below ``tolerance`` from then on.

    ``update`` takes the losses of further samples at the same points, in batches of any size.
    ``decide`` stops at the first count of at least ``at_least`` that is not below the upper limits
    of K, that of the mean over orders and that of Definition 4, provided that the effective sample
    size is at least ``loss_variance.TRUSTED``. Each limit holds at a fixed count with its
    ``level``; whoever looks often stops too early somewhat more often. Where the losses are of some
    samples only, such as fresh ones, ``decide(state, total)`` compares K with their total number.

    Args:
        num_points: m, the rows of the losses.
        tolerance: Of Δ_k, in units of the loss squared.
        level: The probability with which each interval holds its K.
        at_least: The smallest count to stop at.
        dtype: Of the losses, which are cast to it.

    Raises:
        InputError: num_points or at_least below 1, a tolerance not above 0, a level outside 0..1.

    Example:
        >>> import jax, jaxscape as js
        >>> watch = js.monitor(num_points=4, tolerance=1e-5, at_least=100)
        >>> state = watch.init()
        >>> for key in jax.random.split(jax.random.key(0), 9):    # of losses that stream in
        ...     state = watch.update(state, jax.random.exponential(key, (4, 500)))
        ...     if watch.decide(state).stop:
        ...         break
        >>> int(state.prefix.num_samples)
        2000
    """
    check_level(level)
    for name, value in {"num_points": num_points, "at_least": at_least}.items():
        if value < 1:
            raise InputError(f"expected {name} of at least 1, found {value}; raise it")
    if not tolerance > 0:
        raise InputError(f"expected a tolerance above 0, found {tolerance}; raise it")

    def decide(state: Evidence, total: Int[ArrayLike, ""] | None = None) -> Decision:
        count = state.prefix.num_samples
        met = count if total is None else jnp.asarray(total)
        variance = estimate_loss_variance(state, level=level, fixed_points=True)
        law = jax.tree.map(lambda v: increment_size(v, tolerance), variance.interval)
        last = exceedance_size(state.delta.largest, count - 1, tolerance, level=level)
        stop = (variance.effective >= TRUSTED) & (met >= at_least)
        for size in (law.high, last.high):
            stop &= size.reached & (met >= size.k)
        return Decision(count, variance, law, last, stop, state.nonfinite)

    return Monitor(lambda: start(num_points, dtype), extend, jax.jit(decide))
