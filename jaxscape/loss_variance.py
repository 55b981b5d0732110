"""Quantiles of Student's t for any real number of degrees of freedom.

A confidence interval of a mean that a few of its terms may carry.

What the samples met so far tell of E_q S², the level of the order law.

Sample k+1 meets the prefix mean L_k at m fixed points. Its recursive residual
√(k/(k+1)) (ℓ_{k+1} − L_k) has mean 0 and variance S²(w), whatever k, and is uncorrelated with the
others (Brown, Durbin and Evans 1975, "Techniques for testing the constancy of regression
relationships over time", section 2.1), so the mean over points of its square,

    z_{k+1} = k(k+1) E_q[δ_k²] = k(k+1) Δ_k,

is an unbiased estimate of E_q S², and the mean of z_2, ..., z_n is exactly the mean over points of
the sample variance. For the centered part, ℓ_i(w) − E_q ℓ_i takes the place of ℓ_i(w); with m
points for q, the factor m/(m−1) makes it unbiased: z̃_{k+1} = k(k+1) Δ̃_k.
"""

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import betainc, ndtri
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from jaxscape import prefix
from jaxscape.prefix import Pair, Prefix
from jaxscape.types import InputError

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


class Interval(NamedTuple):
    """An estimate between two limits."""

    low: Any
    value: Any
    high: Any


class Terms(NamedTuple):
    """Independent terms of at least 0 whose mean is wanted, as far as its interval needs them."""

    num: Int[Array, ""]
    total: Float[Array, ""]
    squares: Float[Array, ""]
    """The sum of their squares."""

    @property
    def effective(self) -> Float[Array, ""]:
        """(Σz)² / Σz²: as many equal terms would scatter as much (Kish 1965, section 11.7)."""
        return self.total**2 / self.squares

    @property
    def variance(self) -> Float[Array, ""]:
        """The squared relative standard error of the mean."""
        spread = jnp.maximum(1 / self.effective - 1 / self.num, 0)
        return spread * self.num / (self.num - 1)

    def plus(self, term: Float[Array, ""]) -> "Terms":
        """These terms with another one."""
        return Terms(self.num + 1, self.total + term, self.squares + term**2)


def terms_of(values: Float[ArrayLike, "n"]) -> Terms:
    """The given terms."""
    values = jnp.asarray(values)
    return Terms(jnp.asarray(values.size), jnp.sum(values), jnp.sum(values**2))


@partial(jax.jit, static_argnames="level")
def mean_interval(
    samples: Terms, largest: Float[Array, ""], points: Terms | None, *, level: float
) -> Interval:
    """An interval of the mean of a quantity over samples, and over points where they are given.

    Symmetric in the logarithm, mean · exp(±t s): s² adds the squared relative standard errors over
    samples and over points, t is Student's with as many degrees of freedom as terms carry the
    mean, less one (the two combined after Satterthwaite 1946). For the upper limit the samples get
    one more, twice as large as the ``largest``, since what a small pilot misses are the rare large
    ones. The factor was chosen by trial (its coverage is tested). Where samples that carry the mean
    are so rare that the pilot holds none, no interval computed from it can know. From 0 to infinity
    where the terms are all 0, or where one term or one point leaves the spread unknown; NaN where
    a term is.
    """
    known = ~(samples.squares == 0)
    padded = samples.plus(2 * largest)
    low, high = (_error(terms, points, samples, level) for terms in (samples, padded))
    value = samples.total / samples.num
    low = jnp.where(known, value * jnp.exp(-low), 0)
    high = jnp.where(known, padded.total / padded.num * jnp.exp(high), jnp.inf)
    return Interval(low, value, high)


def _error(terms: Terms, points: Terms | None, samples: Terms, level: float) -> Float[Array, ""]:
    """t s, the half-width in the logarithm."""
    errors = [(terms.variance, samples.effective - 1)]
    if points is not None:
        errors.append((points.variance, points.effective - 1))
    square = sum(variance for variance, _ in errors)
    freedom = square**2 / sum(variance**2 / own for variance, own in errors)
    width = two_sided(level, freedom) * jnp.sqrt(square)
    return jnp.where(square == 0, 0, jnp.where(jnp.isnan(width), jnp.inf, width))


def check_level(level: float) -> None:
    """Raise an ``InputError`` unless 0 < level < 1."""
    if not 0 < level < 1:
        raise InputError(f"expected a level between 0 and 1, found {level}; change it")


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
    centered: Tally
    """Those of centered delta; NaN where there is only one point."""
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
        _add(evidence.centered, scale * weight * centred**2),
        evidence.nonfinite + jnp.sum(fresh & ~jnp.isfinite(losses).all(0), dtype=jnp.int32),
    )


def evidence_of(losses: Float[Array, "m n"]) -> Evidence:
    """The evidence of stored per-sample losses at m points."""
    return extend(start(losses.shape[0]), losses)


@partial(jax.jit, static_argnames=("part", "level", "fixed_points"))
def estimate(
    evidence: Evidence,
    part: Literal["delta", "centered"] = "delta",
    *,
    level: float = 0.9,
    fixed_points: bool = False,
) -> LossVariance:
    """E_q S² of Δ, or of centered delta where ``part`` is "centered", in units of the loss squared.

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
    if part not in ("delta", "centered"):
        raise InputError(f"expected part 'delta' or 'centered', found {part!r}; choose one")
    check_level(level)
    tally: Tally = getattr(evidence, part)
    samples = Terms(evidence.prefix.num_samples - 1, tally.by_point[0].mean(), tally.squares[0])
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
    return prefix.add(total, (more, jnp.zeros_like(more)))
