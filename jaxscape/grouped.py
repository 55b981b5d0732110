"""Δ_k with standard errors from groups of points, of which only the groups are independent."""

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxscape import reductions
from jaxscape.prefix import Prefix, Steps
from jaxscape.probes import Probe
from jaxscape.reductions import Delta, Reduction, norm


class _Grouped(NamedTuple):
    together: Any
    """What ``reductions.delta`` keeps."""
    innovation: Float[Array, "b groups"]
    """The mean over each group."""
    square: Float[Array, "b groups"]


def delta_of(probe: Probe) -> Reduction:
    """The reduction to Δ_k: ``reductions.delta``, unless the probe has ``groups``."""
    groups = getattr(probe, "groups", None)
    return reductions.delta if groups is None else _delta(probe.num_points, groups)


@functools.lru_cache  # the same reduction is the same compiled program
def _delta(num_points: int, groups: int) -> Reduction:
    """Mean over all points, errors from the spread of the means over equal groups in a row."""
    size = num_points // groups

    def init(t: int, b: int) -> tuple[Any, _Grouped]:
        by_point, together = reductions.delta.init(t, b)
        zeros = jnp.zeros((b, groups), jnp.float32)
        return by_point, _Grouped(together, zeros, zeros)

    def update(state: tuple[Any, _Grouped], steps: Steps, index: Array, weight: Array):
        by_point, old = state
        by_point, together = reductions.delta.update((by_point, old.together), steps, index, weight)
        own = index[:, None] // size == jnp.arange(groups)
        share = jnp.where(own, weight[:, None], 0) / size
        add = functools.partial(jnp.einsum, "tb,tg->bg", precision="highest")
        return by_point, _Grouped(
            together,
            old.innovation + add(steps.innovation, share),
            old.square + add(steps.innovation**2, share),
        )

    def finalize(by_point: Any, by_sample: _Grouped, prefix: Prefix) -> Delta:
        found = reductions.delta.finalize(by_point, by_sample.together, prefix)
        scale = 1 / (found.k + 1).astype(jnp.float32)
        error = lambda means: _spread(means[1:]) / jnp.sqrt(groups * (groups - 1.0))  # noqa: E731
        # E_q[δ²] − (E_q δ)²: the square of a mean is too large by its squared standard error
        within = found.shape * ((num_points - 1) / num_points)
        return found._replace(
            sem=error(by_sample.square) * scale * scale,
            shape=within + (error(by_sample.innovation) * scale) ** 2,
        )

    def merge(one: _Grouped, other: _Grouped) -> _Grouped:
        together = reductions.merge_spreads(one.together, other.together)
        return _Grouped(together, one.innovation + other.innovation, one.square + other.square)

    return Reduction(init, update, finalize, merge)


def _spread(means: Float[Array, "K groups"]) -> Float[Array, "K"]:
    return norm((means - means.mean(1, keepdims=True)).T)
