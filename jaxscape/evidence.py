"""What the samples met so far tell of E_q S², the level of the order law.

Sample k+1 meets the prefix mean L_k at m fixed points. Its recursive residual
√(k/(k+1)) (ℓ_{k+1} − L_k) has mean 0 and variance S²(w), whatever k, and is uncorrelated with the
others (Brown, Durbin and Evans 1975, "Techniques for testing the constancy of regression
relationships over time", section 2.1), so the mean over points of its square,

    z_{k+1} = k(k+1) E_q[δ_k²] = k(k+1) Δ_k,

is an unbiased estimate of E_q S², and the mean of z_2, ..., z_n is exactly the mean over points of
the sample variance. For the shape part, ℓ_i(w) − E_q ℓ_i takes the place of ℓ_i(w); with m points
for q, the factor m/(m−1) makes it unbiased: z̃_{k+1} = k(k+1) Δ̃_k.
"""

from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxscape import pairs, prefix
from jaxscape.intervals import Interval, Terms, check_level, mean_interval, terms_of
from jaxscape.pairs import Pair
from jaxscape.prefix import Prefix
from jaxscape.types import InputError

LARGEST = 1024
"""How many of the largest terms are kept."""
TRUSTED = 10
"""Samples that must carry E_q S² for an estimate to be more than an order of magnitude."""


class Tally(NamedTuple):
    """The terms z met so far."""

    by_point: Pair
    """The sum of the terms, before the mean over points, ``[m]``."""
    squares: Pair
    """The sum of the squares of the terms."""
    largest: Float[Array, "LARGEST"]
    """The largest terms, in descending order, then zeros."""


class Evidence(NamedTuple):
    """All that the estimates of E_q S² and their intervals need, after some samples."""

    prefix: Prefix
    delta: Tally
    """The terms of Δ."""
    shape: Tally
    """Those of shape delta; NaN where there is only one point."""
    nonfinite: Int[Array, ""]
    """Samples with a loss that is NaN or infinite at some point."""


class LossVariance(NamedTuple):
    """E_q S² with its interval, and by how many samples it is carried."""

    interval: Interval
    effective: Float[Array, ""]
    """(Σz)² / Σz², at most the number of samples less 1."""


def start(num_points: int) -> Evidence:
    """No sample met."""
    zeros = jnp.zeros(num_points)
    tally = Tally((zeros, zeros), (jnp.zeros(()), jnp.zeros(())), jnp.zeros(LARGEST))
    return Evidence(prefix.start(num_points), tally, tally, jnp.zeros((), jnp.int32))


@jax.jit
def extend(
    evidence: Evidence, losses: Float[Array, "m b"], fresh: Bool[Array, "b"] | None = None
) -> Evidence:
    """Add the fresh ones (default: all) among b samples, whose losses are ℓ(w) at each point.

    Raises:
        InputError: losses that do not have one row per point.
    """
    losses = jnp.asarray(losses, jnp.float32)
    m = evidence.prefix.mean.shape[0]
    if losses.ndim != 2 or losses.shape[0] != m:
        raise InputError(
            f"expected losses of shape ({m}, samples), one row per point, found {losses.shape}; "
            "evaluate every batch at the same points"
        )
    b = losses.shape[1]
    fresh = jnp.ones(b, bool) if fresh is None else fresh
    after, steps = prefix.extend(evidence.prefix, losses, fresh)
    weight = jnp.where(fresh, steps.k / (steps.k + 1), 0)
    centred = steps.innovation - steps.innovation.mean(0)
    scale = m / (m - 1) if m > 1 else jnp.nan
    return Evidence(
        after,
        _add(evidence.delta, weight * steps.innovation**2),
        _add(evidence.shape, scale * weight * centred**2),
        evidence.nonfinite + jnp.sum(fresh & ~jnp.isfinite(losses).all(0), dtype=jnp.int32),
    )


def of(losses: Float[Array, "m n"]) -> Evidence:
    """The evidence of stored per-sample losses at m points."""
    return extend(start(losses.shape[0]), losses)


@partial(jax.jit, static_argnames=("part", "level", "fixed_points"))
def loss_variance(
    evidence: Evidence,
    part: Literal["delta", "shape"] = "delta",
    *,
    level: float = 0.9,
    fixed_points: bool = False,
) -> LossVariance:
    """E_q S² of Δ, or of shape delta where ``part`` is "shape", in units of the loss squared.

    The interval holds E_q S² of all samples from which those met are a random selection, with
    probability ``level``. It allows for the spread of the m points, unless ``fixed_points``: then
    E_q is the mean over these very points. Where ``effective`` is below ``TRUSTED`` the interval
    is wide, and owes its upper limit to the margin that ``mean_interval`` adds for samples rarer
    than any seen. All is NaN from the first loss on that is not finite.

    Raises:
        InputError: an unknown part, one point whose spread is asked for, or a level not between 0
            and 1.
    """
    if evidence.delta.by_point[0].size < 2 and not fixed_points:
        raise InputError("expected at least 2 points, found 1; give more, or set fixed_points")
    if part not in ("delta", "shape"):
        raise InputError(f"expected part 'delta' or 'shape', found {part!r}; choose one")
    check_level(level)
    tally: Tally = getattr(evidence, part)
    samples = Terms(evidence.prefix.count - 1, tally.by_point[0].mean(), tally.squares[0])
    points = None if fixed_points else terms_of(tally.by_point[0])
    interval = mean_interval(samples, tally.largest[0], points, level=level)
    return LossVariance(interval, samples.effective)


def _add(tally: Tally, squares: Float[Array, "m b"]) -> Tally:
    terms = squares.mean(0)
    largest = jax.lax.top_k(jnp.concatenate([tally.largest, terms]), LARGEST)[0]
    return Tally(
        _sum(tally.by_point, squares.sum(1)), _sum(tally.squares, jnp.sum(terms**2)), largest
    )


def _sum(total: Pair, more: Array) -> Pair:
    return pairs.add(total, (more, jnp.zeros_like(more)))
