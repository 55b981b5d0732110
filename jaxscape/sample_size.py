"""Sample sizes K that suffice, with their intervals, and the laws of random orders behind them.

``monitor`` follows K while samples stream in, and says when to stop collecting them.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Real

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
from jaxscape.trees import short
from jaxscape.types import InputError, Scalar

MOST = 2**31 - 1  # no K beyond this is looked for


@explained
def order_law(
    loss_variance: Float[ArrayLike, "*#s"], k: Real[ArrayLike, "*#s"]
) -> Float[Array, "..."]:
    """S²(w) / (k (k+1)): the mean of δ_k(w)² over all orders of the n samples, exactly.

    ``loss_variance`` is S²(w), the variance of ℓ_i(w) over the n samples with denominator n − 1, or
    its mean over points; it broadcasts with ``k`` (Cochran 1977, Sampling Techniques, section 2.5).
    """
    _common_shape(loss_variance, k)
    k = jnp.asarray(k).astype(jnp.result_type(float))
    return jnp.asarray(loss_variance) / k / (k + 1)


@explained
def distance_law(
    loss_variance: Float[ArrayLike, "*#s"],
    k: Real[ArrayLike, "*#s"],
    to: Real[ArrayLike, "*#s"] = jnp.inf,
) -> Float[Array, "..."]:
    """S²(w) |1/k − 1/to|: the mean of (L_to(w) − L_k(w))² over all orders, exactly.

    Args:
        loss_variance: S², as for ``order_law``; the three broadcast.
        k: Samples of the prefix.
        to: k + b for b further samples (``order_law`` where b = 1); n for the full data; infinite
            for the population from which the samples are drawn, S²(w)/k.
    """
    _common_shape(loss_variance, k, to)
    k, to = (jnp.asarray(size).astype(jnp.result_type(float)) for size in (k, to))
    share = jnp.where(jnp.isinf(to), 1, jnp.abs(to - k) / jnp.where(jnp.isinf(to), 1, to))
    return jnp.asarray(loss_variance) * share / k


def _common_shape(*arrays: ArrayLike) -> tuple[int, ...]:
    shapes = [jnp.shape(array) for array in arrays]
    try:
        return jnp.broadcast_shapes(*shapes)
    except ValueError:
        found = f"shapes {short(shapes)}; reshape one"
        raise InputError(f"expected arguments that broadcast, found {found}") from None


class SufficientSize(NamedTuple):
    """K for each tolerance; where it is not ``reached`` within the samples, ``k`` is −1."""

    k: Int[Array, "*t"]
    reached: Bool[Array, "*t"]


@explained
@jax.jit
def sufficient_size(delta: Float[Array, "*r K"], tolerance: Float[Array, "*t"]) -> SufficientSize:
    """K = inf{k : Δ_k' < tolerance for all k' ≥ k}, one past the last exceedance.

    Definition 4 of Nikitin et al. 2025. ``delta`` holds Δ_1, ..., Δ_K of K + 1 samples, in the
    units of ``tolerance``; a NaN among them counts as an exceedance.

    >>> import jax.numpy as jnp
    >>> sufficient_size(jnp.array([9.0, 1.0, 9.0, 1.0]), jnp.array([2.0, 0.5]))
    SufficientSize(k=Array([ 4, -1], dtype=int32), reached=Array([ True, False], dtype=bool))
    """
    if isinstance(delta, tuple):
        found = f"found {type(delta).__name__}; give its .mean or .centered"
        raise InputError(f"expected the values of Δ_k, {found}")
    exceeds = ~(delta < jnp.asarray(tolerance)[..., None])
    k = jnp.arange(1, delta.shape[-1] + 1)
    last = jnp.max(jnp.where(exceeds, k, 0), -1)
    reached = last < delta.shape[-1]
    return SufficientSize(jnp.where(reached, last + 1, -1), reached)


@explained
@jax.jit
def increment_size(
    loss_variance: Float[Array, "*#t"], tolerance: Float[Array, "*#t"]
) -> SufficientSize:
    """K of the order law: the smallest k with E_qS² / (k (k+1)) < tolerance.

    ``loss_variance`` is E_q S², of Δ or of centered delta, in the units of ``tolerance``. K grows
    with it, so the K of an interval's limits is an interval of K. In a given order the last Δ_k to
    reach the tolerance comes later: see ``exceedance_size``.

    >>> import jax.numpy as jnp
    >>> increment_size(jnp.array([300.0, 400.0, 500.0]), 1e-4).k.tolist()
    [1732, 2000, 2236]
    """
    shape = _common_shape(loss_variance, tolerance)
    return smallest(lambda k: order_law(loss_variance, k) < tolerance, shape)


@explained
@jax.jit
def distance_size(
    loss_variance: Float[Array, "*#t"], epsilon: Float[Array, "*#t"], to: Scalar = jnp.inf
) -> SufficientSize:
    """K_ε: the smallest k with E_qS² |1/k − 1/to| < ε², a root mean square distance below ε.

    Args:
        loss_variance: E_q S², in units of the loss squared.
        epsilon: ε, in units of the loss. No distance is below an ε of 0 or less.
        to: N for the distance to the landscape of all N samples; infinite for the population's.

    Example:
        >>> [int(distance_size(400.0, 0.5, to).k) for to in (float("inf"), 2000)]
        [1601, 889]
    """
    square = jnp.square(epsilon)
    shape = _common_shape(loss_variance, epsilon)
    # from ``to`` on the distance is 0, so that the condition holds wherever it held before
    near = lambda k: distance_law(loss_variance, jnp.minimum(k, to), to) < square  # noqa: E731
    return smallest(lambda k: near(k) & (jnp.asarray(epsilon) > 0), shape)


def smallest(
    holds: Callable[[Int[Array, "*t"]], Bool[Array, "*t"]], shape: tuple[int, ...]
) -> SufficientSize:
    """The smallest k ≥ 1 at which a condition holds that holds from there on, by bisection."""

    def halve(_: Int[Array, ""], limits: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = limits  # it fails at ``low``, or that is 0; it holds at ``high`` if anywhere
        middle = low + (high - low) // 2
        below = holds(jnp.maximum(middle, 1)) & (middle > 0)
        return jnp.where(below, low, middle), jnp.where(below, middle, high)

    limits = jnp.zeros(shape, jnp.int32), jnp.full(shape, MOST, jnp.int32)
    k = jax.lax.fori_loop(0, 31, halve, limits)[1]
    reached = k < MOST  # not asked of ``holds`` again, which may round otherwise outside the loop
    return SufficientSize(jnp.where(reached, k, -1), reached)


@explained
@partial(jax.jit, static_argnames=("level", "within"))
def exceedance_size(
    terms: Float[Array, "M"],
    count: Int[Array, ""],
    tolerance: Float[Array, "*t"],
    *,
    level: float = 0.9,
    within: int | float = math.inf,
) -> Interval:
    """The median of Definition 4's K over orders, and limits that hold it with chance ``level``.

    In a random order Δ_k = z/(k(k+1)), with z one of the terms, reaches the tolerance with chance
    P(z ≥ tolerance·k(k+1)), nearly independently for each k. None from k on does with chance
    exp(−λ(k)),

        λ(k) = Σ_{k' ≥ k} P(z ≥ tolerance·k'(k'+1)) = E[(r(z) − k + 1)₊],

    where r(z) is the largest k' at which z still reaches it. K's quantile of order p is the
    smallest k with λ(k) ≤ −log p and a chance of at most 1 − p to reach it at k itself. For the
    upper limit the terms get one more, twice as large as the largest, as in
    ``loss_variance.mean_interval``, unless they are all of a run of ``within`` samples. Where
    losses are heavy-tailed, a K far beyond ``count`` comes out too small: it depends on losses
    rarer than any seen. Low, value and high are a ``SufficientSize`` each, shaped like
    ``tolerance`` and not reached where a term is not finite.

    Args:
        terms: The largest of ``count`` terms z, as ``Evidence.delta.largest`` holds them; an
            ``InputError`` where there are none. Others count as 0 for the lower limit, else as the
            smallest of these: too wide a limit where they reach the tolerance at K.
        count: How many terms there are, one less than the samples.
        tolerance: Of Δ_k, in units of the loss squared.
        level: The chance with which the limits hold K, in 0..1, else an ``InputError``.
        within: n of a run of n samples, which sees no later exceedance: its sum ends at n − 1.
    """
    check_level(level)
    if jnp.size(terms) == 0:
        raise InputError("expected at least one term, found none; give more samples")
    tolerance = jnp.asarray(tolerance)
    whole = count + 1 >= within  # then the terms are all that an order can bring
    padded = jnp.concatenate([terms, jnp.where(whole, 0, 2 * terms.max(keepdims=True))])
    left_out = jnp.maximum(count - terms.size, 0)

    def quantile(z: Float[Array, "M"], others: Array, number: Array, p: float) -> SufficientSize:
        weight = jnp.ones_like(z).at[jnp.argmin(terms)].add(others)
        first = increment_size(z, tolerance[..., None])
        last = jnp.where(first.reached, first.k - 1, MOST)
        last = jnp.minimum(last, min(within, MOST) - 1)
        # of a term that reaches it beyond all k that are looked for, r(z) to float32
        far = jnp.where(first.reached | (within < MOST), 0, jnp.sqrt(z / tolerance[..., None]))

        def expected(k: Array) -> Array:
            near = jnp.maximum(last - k + 1, 0).astype(z.dtype)
            beyond = jnp.where(far > 0, jnp.maximum(far - k, 0), near)
            return (weight * beyond).sum(-1) / number

        def holds(k: Int[Array, "*t"]) -> Bool[Array, "*t"]:
            here = expected(k[..., None])
            chance = here - expected(k[..., None] + 1)  # to reach it at k, which rules out K ≤ k
            return (here <= -math.log(p)) & (chance <= 1 - p)

        size = smallest(holds, tolerance.shape)
        known = jnp.isfinite(terms).all() & size.reached & (tolerance > 0)
        return SufficientSize(jnp.where(known, size.k, -1), known)

    return Interval(
        quantile(terms, jnp.zeros_like(left_out), count, (1 - level) / 2),
        quantile(terms, left_out, count, 0.5),
        quantile(padded, left_out, count + ~whole, (1 + level) / 2),
    )


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
        num_points: m ≥ 1, the rows of the losses.
        tolerance, level: As for ``exceedance_size``; an ``InputError`` for a tolerance not above 0.
        at_least: The smallest count to stop at, 1 or more.
        dtype: Of the losses, which are cast to it.

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
