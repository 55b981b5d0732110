"""Prefix means L_k and their increments along the sample axis, all at once or as samples stream in.

The increment is always taken as δ_k = L_{k+1} − L_k = (ℓ_{k+1} − L_k) / (k+1), never as a
difference of two nearly equal means, and the running mean carries its rounding error along.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxscape import pairs


class Prefix(NamedTuple):
    """What is known of m points after ``count`` samples."""

    count: Int[Array, ""]  # type: ignore[assignment]  # a field, not tuple.count
    mean: Float[Array, "m"]
    """L_count(w), rounded."""
    residue: Float[Array, "m"]
    """What the rounding of ``mean`` left out."""
    squares: tuple[Float[Array, "m"], Float[Array, "m"]]
    """Σ_i (ℓ_i − L_count)², as a pair."""

    @property
    def variance(self) -> Float[Array, "m"]:
        """S²(w): the variance of the per-sample losses so far, with count − 1 below."""
        return self.squares[0] / (self.count - 1)


class Steps(NamedTuple):
    """What each of b further samples meets at m points; sample k+1 meets the prefix of length k."""

    k: Int[Array, "b"]
    losses: Float[Array, "m b"]
    """ℓ_{k+1}(w)."""
    mean: Float[Array, "m b"]
    """L_k(w); 0 where k = 0."""
    innovation: Float[Array, "m b"]
    """ℓ_{k+1}(w) − L_k(w), that is (k+1) δ_k; ℓ_1 where k = 0."""
    fresh: Bool[Array, "b"]
    """False: this sample has been met before, ignore it."""


def start(num_points: int, dtype=jnp.float32) -> Prefix:
    """The empty prefix."""
    zeros = jnp.zeros(num_points, dtype)
    return Prefix(jnp.zeros((), jnp.int32), zeros, zeros, (zeros, zeros))


def extend(
    prefix: Prefix,
    losses: Float[Array, "m b"],
    fresh: Bool[Array, "b"],
    *,
    axis: str | None = None,
) -> tuple[Prefix, Steps]:
    """Append the fresh ones among b samples, of which ``losses`` are ℓ(w) at each point.

    Losses enter as deviations from the mean so far, whose sums stay small, and are summed in
    pairs, so that an innovation keeps its digits where ℓ_{k+1} is close to L_k.

    Under ``shard_map`` with an ``axis`` of the mesh, the devices along it append b samples each,
    one device's after the other's, and learn of each other's no more than count and totals.
    """
    k = prefix.count + jnp.cumsum(fresh, dtype=jnp.int32) - fresh
    met = jnp.sum(fresh, dtype=jnp.int32)
    high, low = pairs.two_sum(losses, -prefix.mean[:, None])
    deviations = pairs.two_sum(high, low - prefix.residue[:, None])
    deviations = jax.tree.map(lambda x: jnp.where(fresh, x, 0), deviations)
    sums = pairs.cumsum(deviations)
    before = jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (1, 0)))[:, :-1], sums)
    total = jax.tree.map(lambda x: x[:, -1], sums)
    if axis is not None:
        (earlier, behind), (met, total) = _exchange(met, total, axis)
        k, before = k + earlier, pairs.add(before, jax.tree.map(lambda x: x[:, None], behind))
    count = prefix.count + met
    # L_k less the mean so far; nothing where k = 0
    shift = pairs.divide(before, jnp.maximum(k, 1).astype(losses.dtype))
    innovation = (deviations[0] - shift[0]) + (deviations[1] - shift[1])
    steps = Steps(k, losses, prefix.mean[:, None] + shift[0], innovation, fresh)
    mean, residue = pairs.add(
        (prefix.mean, prefix.residue), pairs.divide(total, count.astype(losses.dtype))
    )
    # Welford: appending ℓ_{k+1} adds (ℓ_{k+1} − L_k)² k/(k+1) to the sum of squares.
    growth = jnp.where(fresh, innovation**2 * (k / (k + 1)).astype(losses.dtype), 0).sum(-1)
    if axis is not None:
        growth = jax.lax.psum(growth, axis)
    squares = pairs.add(prefix.squares, pairs.two_sum(growth, jnp.zeros_like(mean)))
    return Prefix(count, mean, residue, squares), steps


def _exchange(
    count: Int[Array, ""], total: pairs.Pair, axis: str
) -> tuple[tuple[Array, pairs.Pair], tuple[Array, pairs.Pair]]:
    """Counts and totals, summed over the devices before this one along ``axis``, and over all."""
    parts = jax.lax.all_gather((count[None], total), axis, axis=1)
    running = jnp.cumsum(parts[0], -1), pairs.cumsum(parts[1])
    here = jax.lax.axis_index(axis)
    before = jax.tree.map(lambda x: jnp.where(here > 0, x[:, here - 1], 0), running)
    whole = jax.tree.map(lambda x: x[:, -1], running)
    return (before[0][0], before[1]), (whole[0][0], whole[1])


def means(losses: Float[Array, "... n"]) -> Float[Array, "... n"]:
    """L_1, ..., L_n of stored per-sample losses along the last axis."""
    steps = _whole(losses)
    return (steps.mean + steps.innovation / (steps.k + 1)).reshape(losses.shape)


def increments(losses: Float[Array, "... n"]) -> Float[Array, "... n-1"]:
    """δ_1, ..., δ_{n−1} of stored per-sample losses along the last axis."""
    steps = _whole(losses)
    delta = steps.innovation / (steps.k + 1)
    return delta[:, 1:].reshape(*losses.shape[:-1], losses.shape[-1] - 1)


def _whole(losses: Float[Array, "... n"]) -> Steps:
    rows = losses.reshape(-1, losses.shape[-1])
    return extend(start(rows.shape[0], rows.dtype), rows, jnp.ones(rows.shape[-1], bool))[1]
