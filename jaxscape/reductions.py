"""What to keep of each prefix at each point: Δ_k with its errors, surfaces, the losses themselves.

``sweep.evaluate`` walks blocks of t points and b samples. A reduction keeps one state per point, as
long as the sweep lasts, and one per sample, as long as the loop is at its chunk:

    init(t, b)                                 -> (by_point [t, ...], by_sample [b, ...])
    update((by_point, by_sample), steps, index, weight) -> (by_point, by_sample)
    finalize(by_point [m, ...], by_sample [n, ...], prefix [m]) -> the result
    merge(by_sample [b, ...], by_sample [b, ...]) -> by_sample [b, ...], of the points of both

``index`` [t] says which points the block holds, ``weight`` [t] is 0 for those met before, else 1.
``merge`` is for a mesh that spreads the points over devices.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxscape.prefix import Prefix, Steps
from jaxscape.trees import length
from jaxscape.types import Probe

State = tuple[Any, Any]  # by point, by sample


class Reduction(NamedTuple):
    """Pure functions that say what a sweep keeps; see the module."""

    init: Callable[[int, int], State]
    update: Callable[[State, Steps, Array, Array], State]
    finalize: Callable[[Any, Any, Prefix], Any]
    merge: Callable[[Any, Any], Any] | None = None


class Delta(NamedTuple):
    """Δ_k and its kin for every k = 1..n−1, from m points; with one, spreads are NaN."""

    k: Int[Array, "n-1"]
    mean: Float[Array, "n-1"]
    """Δ_k = E_q[δ_k²]."""
    sem: Float[Array, "n-1"]
    """Standard error of ``mean`` over the points, or over the groups of a probe that has some."""
    centered: Float[Array, "n-1"]
    """Δ̃_k = E_q[(δ_k − E_q δ_k)²], unbiased."""
    first_order: Float[Array, "n-1"]
    """Δ_k^(1) = E_q|δ_k|."""
    loss_variance: Float[Array, "m"]
    """S²(w) at each point."""
    nonfinite: Int[Array, "n"]
    """At how many points each sample's loss is NaN or infinite."""
    mean_loss: Float[Array, "m"]
    """L_n(w) at each point."""


class Surface(NamedTuple):
    """The prefix mean L_k and the increment δ_k at every point, for the chosen k; NaN beyond n."""

    k: Int[Array, "K"]
    loss: Float[Array, "K m"]
    increment: Float[Array, "K m"]
    nonfinite: Int[Array, "K"]
    """At how many points L_k is not finite."""


class _Moments(NamedTuple):
    """Weighted mean over points, and the root of the weighted sum of squared deviations from it."""

    mean: Float[Array, "b"]
    spread: Float[Array, "b"]  # whose square, a fourth power of δ_k, may leave float32


class _Spread(NamedTuple):
    """What is kept of each sample for Δ_k: moments of (k+1) δ_k over the points met so far."""

    weight: Float[Array, "b"]
    innovation: _Moments
    square: _Moments
    absolute: Float[Array, "b"]
    nonfinite: Int[Array, "b"]


def _delta_init(t: int, b: int) -> tuple[Any, _Spread]:
    zeros = jnp.zeros(b, jnp.float32)
    moments = _Moments(zeros, zeros)
    return (), _Spread(zeros, moments, moments, zeros, zeros.astype(jnp.int32))


def _delta_update(state: tuple[Any, _Spread], steps: Steps, index: Array, weight: Array) -> State:
    own, total = weight[:, None], jnp.broadcast_to(weight.sum(), state[1].weight.shape)
    bad = ~jnp.isfinite(steps.losses) & (own > 0)
    mean = lambda values: jnp.sum(own * values, 0) / weight.sum()  # noqa: E731

    def moments(values: Float[Array, "t b"]) -> _Moments:
        return _Moments(mean(values), length(jnp.sqrt(own) * (values - mean(values)), 0))

    both = moments(steps.innovation), moments(steps.innovation**2)
    new = _Spread(total, *both, mean(abs(steps.innovation)), bad.sum(0, dtype=jnp.int32))
    return (), _merge_spreads(state[1], new)


def _merge_spreads(old: _Spread, new: _Spread) -> _Spread:
    """Moments of the union from those of its parts, without cancellation (Chan et al. 1983)."""
    total = old.weight + new.weight
    share = new.weight / total

    def moments(a: _Moments, b: _Moments) -> _Moments:
        gap = b.mean - a.mean
        between = abs(gap) * jnp.sqrt(old.weight * new.weight / total)
        return _Moments(a.mean + gap * share, length(jnp.stack([a.spread, b.spread, between]), 0))

    both = moments(old.innovation, new.innovation), moments(old.square, new.square)
    absolute = old.absolute + (new.absolute - old.absolute) * share
    return _Spread(total, *both, absolute, old.nonfinite + new.nonfinite)


@jax.jit
def _delta_finalize(by_point: Any, by_sample: _Spread, prefix: Prefix) -> Delta:
    m, rest = len(prefix.mean), jax.tree.map(lambda leaf: leaf[1:], by_sample)
    k = jnp.arange(1, len(by_sample.weight), dtype=jnp.int32)
    scale = 1 / (k + 1).astype(rest.weight.dtype)  # (k+1) δ_k is the innovation
    freedom = m - 1 if m > 1 else jnp.nan
    mean = rest.square.mean * scale * scale
    sem = rest.square.spread / jnp.sqrt(freedom * m) * scale * scale
    centered = (rest.innovation.spread * scale) ** 2 / freedom
    bad, first_order = by_sample.nonfinite, rest.absolute * scale
    return Delta(k, mean, sem, centered, first_order, prefix.variance, bad, prefix.mean)


delta = Reduction(_delta_init, _delta_update, _delta_finalize, _merge_spreads)
"""Δ_k: mean and spread over independent points of every squared increment."""


def delta_of(probe: Probe) -> Reduction:
    """The reduction to Δ_k: ``delta``, unless only groups of the probe's points are independent."""
    groups = getattr(probe, "groups", None)
    return delta if groups is None else _grouped_delta(probe.num_points, groups)


@functools.lru_cache  # the same reduction is the same compiled program
def _grouped_delta(num_points: int, groups: int) -> Reduction:
    """``delta`` with errors from means of the innovation and its square over groups in a row."""
    size = num_points // groups

    def init(t: int, b: int) -> State:
        zeros = jnp.zeros((b, groups), jnp.float32)
        return (), (delta.init(t, b)[1], zeros, zeros)

    def update(state: State, steps: Steps, index: Array, weight: Array) -> State:
        (spread, innovation, square), own = state[1], index[:, None] // size == jnp.arange(groups)
        spread = delta.update(((), spread), steps, index, weight)[1]
        share = jnp.where(own, weight[:, None], 0) / size
        add = functools.partial(jnp.einsum, "tb,tg->bg", precision="highest")
        innovation += add(steps.innovation, share)
        return (), (spread, innovation, square + add(steps.innovation**2, share))

    @jax.jit
    def finalize(by_point: Any, by_sample: Any, prefix: Prefix) -> Delta:
        spread, innovation, square = by_sample
        found = delta.finalize(by_point, spread, prefix)
        scale = 1 / (found.k + 1).astype(found.mean.dtype)

        def error(means: Float[Array | np.ndarray, "n groups"]) -> Float[Array, "n-1"]:
            deviations = means[1:] - means[1:].mean(1, keepdims=True)
            return length(deviations.T, 0) / jnp.sqrt(groups * (groups - 1.0))

        # E_q[δ²] − (E_q δ)²: the square of a mean is too large by its squared standard error
        excess = (error(innovation) * scale) ** 2
        centered = found.centered * ((num_points - 1) / num_points) + excess
        return found._replace(sem=error(square) * scale * scale, centered=centered)

    def merge(one: Any, other: Any) -> Any:
        return _merge_spreads(one[0], other[0]), one[1] + other[1], one[2] + other[2]

    return Reduction(init, update, finalize, merge)


@functools.lru_cache
def surface(ks: tuple[int, ...]) -> Reduction:
    """L_k and δ_k at each point for k in ``ks``."""
    wanted = np.asarray(ks, np.int32)

    def init(t: int, b: int) -> State:
        unseen = jnp.full((t, len(ks)), jnp.nan, jnp.float32)
        return (unseen, unseen), ()

    def update(state: State, steps: Steps, index: Array, weight: Array) -> State:
        loss, increment = state[0]
        loss = pick(loss, steps.mean + steps.increment, steps.k + 1, steps.fresh)
        return (loss, pick(increment, steps.increment, steps.k, steps.fresh)), ()

    def pick(old: Array, values: Float[Array, "t b"], k: Int[Array, "b"], fresh: Array) -> Array:
        here = (k == wanted[:, None]) & fresh
        return jnp.where(here.any(-1), values[:, jnp.argmax(here, -1)], old)

    def finalize(by_point: Any, by_sample: Any, prefix: Prefix) -> Surface:
        loss, increment = (jnp.where(jnp.isfinite(x), x, jnp.nan).T for x in by_point)
        bad = jnp.sum(~jnp.isfinite(loss), 1, dtype=jnp.int32)
        return Surface(jnp.asarray(wanted), loss, increment, bad)

    return Reduction(init, update, finalize)


@functools.lru_cache
def losses(num_points: int) -> Reduction:
    """The per-sample losses ℓ_i(w) themselves, ``[m, n]``: memory grows with both."""
    init = lambda t, b: ((), jnp.zeros((b, num_points), jnp.float32))  # noqa: E731

    def update(state: State, steps: Steps, index: Array, weight: Array) -> State:
        own = jnp.where(weight[:, None] > 0, steps.losses, 0)
        return (), state[1].at[:, index].add(own.T)

    return Reduction(init, update, lambda by_point, by_sample, prefix: by_sample.T, jnp.add)
