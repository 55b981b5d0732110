"""E_q S², the level of the order law, with its confidence interval.

Sample k+1 meets the prefix mean L_k at m points. Its recursive residual √(k/(k+1)) (ℓ_{k+1} − L_k)
has mean 0 and variance S²(w), whatever k, and is uncorrelated with the others (Brown, Durbin and
Evans 1975, "Techniques for testing the constancy of regression relationships over time", section
2.1), so the mean over points of its square,

    z_{k+1} = k(k+1) E_q[δ_k²] = k(k+1) Δ_k,

is an unbiased estimate of E_q S², and the mean of z_2, ..., z_n is exactly the mean over points of
the sample variance. For the centered part ℓ_i(w) − E_q ℓ_i takes the place of ℓ_i(w); with m points
for q, the factor m/(m−1) makes it unbiased: z̃_{k+1} = k(k+1) Δ̃_k.
"""

import operator
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import betainc, ndtri
from jax.sharding import Mesh
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Real

from jaxscape import batching, prefix, reductions
from jaxscape.arguments import check_choice, explained
from jaxscape.prefix import Pair, Prefix
from jaxscape.sweep import dtype_of, evaluate, warn_of_rounding
from jaxscape.trees import is_traced, owned
from jaxscape.types import Batch, InputError, PerSampleLoss, Probe

LARGEST = 1024  # how many of the largest terms are kept
TRUSTED = 10  # effective sample size from which on an estimate is more than an order of magnitude
HELD = 2**21  # losses that ``loss_variance`` holds at a time
TREND = 3.3  # standard errors that a random order exceeds once in a thousand times


class Interval(NamedTuple):
    """An estimate between two limits."""

    low: Any
    value: Any
    high: Any


class LossVariance(NamedTuple):
    """E_q S² with its interval, in units of the loss squared."""

    interval: Interval
    effective: Float[Array, ""]
    """The effective sample size (Σz)² / Σz², at most the number of samples less 1."""
    trend: Float[Array, ""]
    """How far the logarithm of a sample's loss changes with its position, in standard errors of
    random orders: beyond ±``TREND`` the interval says nothing of other samples."""


class Tally(NamedTuple):
    """The terms z met so far."""

    by_point: Pair  # their sum at each point, [m]
    squares: Pair  # the sum of their squares
    largest: Float[Array, "LARGEST"]  # in descending order, then zeros


class Evidence(NamedTuple):
    """All that the estimates of E_q S² and their intervals need, after some samples."""

    prefix: Prefix
    delta: Tally  # the terms of Δ
    centered: Tally  # those of centered delta; NaN where there is only one point
    nonfinite: Int[Array, ""]  # samples with a loss that is NaN or infinite at some point
    moments: Float[Array, "7"]
    """Of position x and y = log(s/s_1), s the mean |ℓ_i| over points, s_1 a first one: Σ 1, x, y,
    x², y², xy; then s_1."""


@explained
def loss_variance(
    loss: PerSampleLoss,
    probe: Probe,
    data: Batch | Iterator[Batch],
    *,
    part: str = "delta",
    level: float = 0.9,
    fixed_points: bool = False,
    batch_size: int | None = None,
    point_batch: int | None = None,
    precision: str = "highest",
    mesh: Mesh | None = None,
) -> LossVariance:
    """E_q S², the mean over a probe of the variance of the per-sample loss, with its interval.

    The samples may be a pilot. For statements about samples that w* has not seen, give such. An
    ``InputError`` tells of fewer than 2 samples, or of a loss that is not finite (not under
    ``jit``).

    Args:
        loss, probe, data, batch_size, point_batch, precision, mesh: As for ``delta``.
        part, level, fixed_points: As for ``estimate_loss_variance``.

    Example:
        >>> import jax, jax.numpy as jnp, jaxscape as js
        >>> loss = lambda w, batch: 0.5 * (batch @ w) ** 2
        >>> data = jax.random.normal(jax.random.key(0), (2000, 3))
        >>> space = js.random_subspace(jax.random.key(1), jnp.ones(3), dim=2)
        >>> probe = js.gaussian(jax.random.key(2), space, num_points=32, sigma=0.1)
        >>> low, value, high = js.loss_variance(loss, probe, data).interval
        >>> bool(low < value < high)
        True
    """
    m = probe.num_points
    _check(part, level, m, fixed_points)
    options: dict[str, Any] = {"batch_size": batch_size, "point_batch": point_batch, "mesh": mesh}
    evidence, keep, size = start(m, dtype_of(probe)), reductions.losses(m), max(1, HELD // m)
    if batching.are_batches(data):
        batches = batching.segments(data)
    else:
        parts = (slice(at, at + size) for at in range(0, batching.length_of(data), size))
        batches = (jax.tree.map(operator.itemgetter(part), data) for part in parts)
    for batch in batches:
        losses = evaluate(loss, probe, batch, keep, precision=precision, **options)
        evidence = jax.block_until_ready(extend(evidence, losses))
    if not is_traced(evidence):
        n, bad = int(evidence.prefix.num_samples), int(evidence.nonfinite)
        if n < 2:
            raise InputError(f"expected at least 2 samples for a variance, found {n}; give more")
        if bad:
            found = f"NaN or infinity for {bad} of {n} samples"
            said = f"expected finite losses, found {found}; lower sigma, or check the samples"
            raise InputError(f"{said} and the parameters")
        warn_of_rounding(np.asarray(evidence.prefix.mean), np.sqrt(evidence.prefix.variance))
    return estimate_loss_variance(evidence, part, level=level, fixed_points=fixed_points)


@explained
def evidence_of(losses: Float[ArrayLike, "m n"]) -> Evidence:
    """The evidence of stored losses ℓ_i(w) of n samples at m points, for further estimates.

    >>> import jax.numpy as jnp, jaxscape as js
    >>> losses = jnp.array([[1.0, 3.0, 2.0], [0.0, 0.0, 3.0]])    # variances 1 and 3
    >>> float(js.estimate_loss_variance(js.evidence_of(losses)).interval.value)
    2.0
    """
    dtype = jnp.result_type(jnp.float32, losses)
    return extend(start(jnp.shape(losses)[0], dtype), losses)


def start(num_points: int, dtype: Any = jnp.float32) -> Evidence:
    """The evidence of no sample."""
    zeros, zero = jnp.zeros(num_points, dtype), jnp.zeros((), dtype)
    tally = Tally((zeros, zeros), (zero, zero), jnp.zeros(LARGEST, dtype))
    none = jnp.zeros((), jnp.int32)
    return Evidence(prefix.start(num_points, dtype), tally, tally, none, jnp.zeros(7, dtype))


def extend(evidence: Evidence, losses: Float[ArrayLike, "m b"]) -> Evidence:
    """Add b samples, whose losses are ℓ(w) at each point."""
    losses, m = owned(losses), evidence.prefix.mean.size  # the caller may write into a buffer
    losses = jnp.asarray(losses, evidence.prefix.mean.dtype)
    if losses.ndim != 2 or losses.shape[0] != m:
        said = f"expected losses of shape ({m}, samples), one row per point, found {losses.shape}"
        raise InputError(f"{said}; evaluate every batch at the same points")
    return _extend(evidence, losses)


@jax.jit
def _extend(evidence: Evidence, losses: Float[Array, "m b"]) -> Evidence:
    m, b = losses.shape
    after, steps = prefix.extend(evidence.prefix, losses, jnp.ones(b, bool))
    k = steps.k.astype(losses.dtype)
    centred, weight = steps.innovation - steps.innovation.mean(0), k / (k + 1)
    scale = m / (m - 1) if m > 1 else jnp.nan
    return Evidence(
        after,
        _add(evidence.delta, weight * steps.innovation**2),
        _add(evidence.centered, scale * weight * centred**2),
        evidence.nonfinite + jnp.sum(~jnp.isfinite(losses).all(0), dtype=jnp.int32),
        _moments(evidence.moments, steps.k, jnp.abs(losses).mean(0)),
    )


def _moments(before: Float[Array, "7"], position: Array, sizes: Array) -> Float[Array, "7"]:
    """``Evidence.moments`` with the sizes above 0."""
    own, x = sizes > 0, (position / 2.0**16).astype(sizes.dtype)  # no square leaves float32
    some = jnp.sum(sizes) / jnp.maximum(own.sum(), 1)
    first = jnp.where(before[6] > 0, before[6], some)
    unit = jnp.where(first > 0, first, 1)
    near = jnp.log1p(jnp.where(own, sizes - first, 0) / unit)  # exact beside the level of all
    far = jnp.log(jnp.where(own, sizes, 1)) - jnp.log(unit)  # where that is log1p of -1
    y = jnp.where(sizes > unit / 2, near, far)
    rows = jnp.stack([jnp.ones_like(y), x, y, x**2, y**2, x * y])
    return jnp.append(before[:6] + jnp.sum(jnp.where(own, rows, 0), 1), first)


@jax.jit
def trend_of(losses: Float[Array, "n"]) -> Float[Array, ""]:
    """``LossVariance.trend`` of the losses at one point."""
    return _trend(_moments(jnp.zeros(7, losses.dtype), jnp.arange(losses.size), jnp.abs(losses)))


def _trend(moments: Float[Array, "7"]) -> Float[Array, ""]:
    """The correlation of position and y, over the standard error that it has in random orders."""
    count = jnp.maximum(moments[0], 1)  # 0 where all losses are
    x, y, xx, yy, xy = moments[1:6] / count
    scale = jnp.sqrt(jnp.maximum((xx - x**2) * (yy - y**2), 0))
    return jnp.where(scale == 0, 0, (xy - x * y) / scale * jnp.sqrt(count - 1))


def _add(tally: Tally, squares: Float[Array, "m b"]) -> Tally:
    terms = squares.mean(0)
    add = lambda total, more: prefix.add(total, (more, jnp.zeros_like(more)))  # noqa: E731
    largest = jax.lax.top_k(jnp.concatenate([tally.largest, terms]), LARGEST)[0]
    return Tally(add(tally.by_point, squares.sum(1)), add(tally.squares, (terms**2).sum()), largest)


@explained
@partial(jax.jit, static_argnames=("part", "level", "fixed_points"))
def estimate_loss_variance(
    evidence: Evidence, part: str = "delta", *, level: float = 0.9, fixed_points: bool = False
) -> LossVariance:
    """E_q S² with its interval, from the evidence of some samples.

    All is NaN from the first loss on that is not finite.

    Args:
        evidence: Of ``evidence_of``, or of ``extend`` for samples that stream in.
        part: "delta" for Δ, "centered" for centered delta, else an ``InputError``.
        level: The probability (in 0..1, else an ``InputError``) with which the interval holds E_q
            S² of all samples from which those met are a random selection; it is wide where
            ``effective`` is below ``TRUSTED``.
        fixed_points: Whether E_q is the mean over these very points. Otherwise the interval allows
            for the spread of the m points as well; an ``InputError`` where m is 1.
    """
    _check(part, level, evidence.delta.by_point[0].size, fixed_points)
    tally: Tally = getattr(evidence, part)
    samples = Terms(evidence.prefix.num_samples - 1, tally.by_point[0].mean(), tally.squares[0])
    points = None if fixed_points else terms_of(tally.by_point[0])
    interval = mean_interval(samples, tally.largest[0], points, level=level)
    return LossVariance(interval, samples.effective, _trend(evidence.moments))


def _check(part: str, level: float, num_points: int, fixed_points: bool) -> None:
    if num_points < 2 and not fixed_points:
        raise InputError("expected at least 2 points, found 1; give more, or set fixed_points")
    check_choice("part", part, ("delta", "centered"))
    check_level(level)


def check_level(level: float) -> None:
    """Raise an ``InputError`` unless 0 < level < 1."""
    if not 0 < level < 1:
        raise InputError(f"expected a level between 0 and 1, found {level}; change it")


class Terms(NamedTuple):
    """Independent terms of at least 0 whose mean is wanted, as far as its interval needs them."""

    num: Int[Array, ""]
    total: Float[Array, ""]
    squares: Float[Array, ""]  # the sum of their squares

    @property
    def effective(self) -> Float[Array, ""]:
        """(Σz)² / Σz²: as many equal terms would scatter as much (Kish 1965, section 11.7)."""
        return self.total**2 / self.squares

    @property
    def variance(self) -> Float[Array, ""]:
        """The squared relative standard error of the mean."""
        spread = jnp.maximum(1 / self.effective - 1 / self.num, 0)
        return spread * self.num / (self.num - 1)


def terms_of(values: Float[ArrayLike, "n"]) -> Terms:
    """The given terms."""
    values = jnp.asarray(values)
    return Terms(jnp.asarray(values.size), jnp.sum(values), jnp.sum(values**2))


@partial(jax.jit, static_argnames="level")
def mean_interval(
    samples: Terms, largest: Float[Array, ""], points: Terms | None, *, level: float
) -> Interval:
    """An interval of the mean of a quantity over samples, and over points where they are given.

    mean · exp(±t s), symmetric in the logarithm: s² adds the squared relative standard errors over
    samples and over points. t is a quantile of Student's t, whose degrees of freedom are the
    effective number of terms less one (of samples and points combined after Satterthwaite 1946).
    A small pilot misses the rare large terms, so for the upper limit the samples get one more,
    twice as large as the ``largest``, a factor chosen by trial. No interval of a pilot covers
    samples that matter and of which it has none.

    It is from 0 to infinity where all terms are 0, or one term or one point leaves the spread
    unknown; NaN where a term is.
    """

    def error(terms: Terms) -> Float[Array, ""]:  # t s
        errors = [(terms.variance, samples.effective - 1)]
        errors += [] if points is None else [(points.variance, points.effective - 1)]
        square = sum(variance for variance, _ in errors)
        freedom = square**2 / sum(variance**2 / own for variance, own in errors)
        width = two_sided(level, freedom) * jnp.sqrt(square)
        return jnp.where(square == 0, 0, jnp.where(jnp.isnan(width), jnp.inf, width))

    known, rarer = ~(samples.squares == 0), 2 * largest
    padded = Terms(samples.num + 1, samples.total + rarer, samples.squares + rarer**2)
    value, rare = samples.total / samples.num, padded.total / padded.num
    low = jnp.where(known, value * jnp.exp(-error(samples)), 0)
    return Interval(low, value, jnp.where(known, rare * jnp.exp(error(padded)), jnp.inf))


@partial(jax.jit, static_argnames="level")
def two_sided(level: float, freedom: Real[ArrayLike, "*s"]) -> Float[Array, "*s"]:
    """The t with P(|T| ≤ t) = ``level``, for T with any real ν = ``freedom`` degrees of freedom.

    Bisects log t in P(|T| > t) = I_x(ν/2, ½), x = ν/(ν + t²), the regularised incomplete beta
    function (Abramowitz and Stegun 26.7.1), which loses digits in float32 for ν of at least 30;
    there the expansion of t in 1/ν around the normal quantile (26.7.5). Infinite where ν ≤ 0.
    """
    freedom = jnp.asarray(freedom, jnp.result_type(float))
    few = jnp.clip(freedom, jnp.finfo(freedom.dtype).tiny, 30)

    def halve(_: Int[Array, ""], limits: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = limits  # of log10 t
        middle = (low + high) / 2
        below = betainc(few / 2, 0.5, few / (few + 100**middle)) > 1 - level
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    start = jnp.full_like(freedom, -3.0), jnp.full_like(freedom, 15.0)
    low, high = jax.lax.fori_loop(0, 40, halve, start)
    z = ndtri((1 + level) / 2)
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    many = z + (first + (second + third / freedom) / freedom) / freedom
    t = jnp.where(freedom < 30, 10 ** ((low + high) / 2), many)
    return jnp.where(freedom > 0, t, jnp.inf)
