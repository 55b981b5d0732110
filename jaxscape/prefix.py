"""Prefix means L_k and their increments along the sample axis, all at once or as samples stream in.

The increment is always taken as δ_k = L_{k+1} − L_k = (ℓ_{k+1} − L_k) / (k+1), never as a
difference of two nearly equal means, and the running mean carries its rounding error along.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Prefix(NamedTuple):
    """What is known of m points after ``count`` samples."""

    count: Int[Array, ""]
    mean: Float[Array, "m"]  #: L_count(w), rounded
    residue: Float[Array, "m"]  #: what the rounding of ``mean`` left out
    squares: Float[Array, "m"]  #: Σ_i (ℓ_i − L_count)²

    @property
    def variance(self) -> Float[Array, "m"]:
        """S²(w): the variance of the per-sample losses so far, with count − 1 below."""
        return self.squares / (self.count - 1)


class Steps(NamedTuple):
    """What each of b further samples meets at m points; sample k+1 meets the prefix of length k."""

    k: Int[Array, "b"]
    losses: Float[Array, "m b"]  #: ℓ_{k+1}(w)
    mean: Float[Array, "m b"]  #: L_k(w); 0 where k = 0
    innovation: Float[Array, "m b"]  #: ℓ_{k+1}(w) − L_k(w), that is (k+1) δ_k; ℓ_1 where k = 0
    fresh: Bool[Array, "b"]  #: False: this sample has been met before, ignore it


def start(num_points: int, dtype=jnp.float32) -> Prefix:
    """The empty prefix."""
    zeros = jnp.zeros(num_points, dtype)
    return Prefix(jnp.zeros((), jnp.int32), zeros, zeros, zeros)


def extend(
    prefix: Prefix, losses: Float[Array, "m b"], fresh: Bool[Array, "b"]
) -> tuple[Prefix, Steps]:
    """Append the fresh ones among b samples, of which ``losses`` are ℓ(w) at each point.

    Losses enter as deviations from the mean so far, whose sums stay small. The first chunk, which
    has none, uses its smallest loss: deviations ≥ 0 add up without cancellation.
    """
    first = prefix.count == 0
    smallest = jnp.min(jnp.where(fresh, losses, jnp.inf), -1)
    mean = jnp.where(first, smallest, prefix.mean)
    deviations = jnp.where(fresh, (losses - mean[:, None]) - prefix.residue[:, None], 0)
    sums = jnp.cumsum(deviations, -1)
    before = jnp.concatenate([jnp.zeros_like(sums[:, :1]), sums[:, :-1]], -1)
    seen = jnp.cumsum(fresh)
    k = prefix.count + seen - fresh
    shift = before / jnp.maximum(k, 1).astype(losses.dtype)  # L_k less the mean so far
    innovation = jnp.where(k == 0, losses, deviations - shift)
    steps = Steps(k, losses, jnp.where(k == 0, 0, mean[:, None] + shift), innovation, fresh)
    count = prefix.count + seen[-1]
    mean, residue = two_sum(mean, sums[:, -1] / count + prefix.residue)
    # Welford: appending ℓ_{k+1} adds (ℓ_{k+1} − L_k)² k/(k+1) to the sum of squares.
    growth = jnp.where(fresh, innovation**2 * (k / (k + 1)).astype(losses.dtype), 0)
    squares = prefix.squares + jnp.sum(growth, -1)
    return Prefix(count, mean, residue, squares), steps


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """a + b as a rounded sum, then the rounding error, exactly (Knuth 1969)."""
    total = a + b
    virtual = total - a
    return total, (a - (total - virtual)) + (b - virtual)


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
