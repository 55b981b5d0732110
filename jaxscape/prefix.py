"""Prefix means L_k and innovations ℓ_{k+1} − L_k along the sample axis, in compensated arithmetic.

The increment is always taken as δ_k = L_{k+1} − L_k = (ℓ_{k+1} − L_k) / (k+1), never as a
difference of two nearly equal means. The running mean carries its rounding error along, as an
unevaluated sum high + low of two floats (a ``Pair``).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

Pair = tuple[Array, Array]
RUN = 16  # how many terms ``cumsum`` adds one after another


class Prefix(NamedTuple):
    """What is known of m points after k = ``num_samples`` samples."""

    num_samples: Int[Array, ""]
    mean: Float[Array, "m"]  # L_k(w), rounded
    residue: Float[Array, "m"]  # what that left out
    squares: Pair  # Σ_i (ℓ_i − L_k)² of each point

    @property
    def variance(self) -> Float[Array, "m"]:
        """S²(w): the variance of the per-sample losses so far, with k − 1 below."""
        return self.squares[0] / (self.num_samples - 1)


class Steps(NamedTuple):
    """What each of b further samples meets at m points; sample k+1 meets the prefix of length k."""

    k: Int[Array, "b"]
    losses: Float[Array, "m b"]  # ℓ_{k+1}(w)
    mean: Float[Array, "m b"]  # L_k(w); 0 where k = 0
    innovation: Float[Array, "m b"]  # ℓ_{k+1}(w) − L_k(w), that is (k+1) δ_k; ℓ_1 where k = 0
    fresh: Bool[Array, "b"]  # where False, this sample has been met before: ignore it

    @property
    def increment(self) -> Float[Array, "m b"]:
        """δ_k = L_{k+1}(w) − L_k(w)."""
        return self.innovation / (self.k + 1)


def start(num_points: int, dtype=jnp.float32) -> Prefix:
    """The empty prefix."""
    zeros = jnp.zeros(num_points, dtype)
    return Prefix(jnp.zeros((), jnp.int32), zeros, zeros, (zeros, zeros))


def extend(
    prefix: Prefix,
    losses: Float[ArrayLike, "m b"],
    fresh: Bool[ArrayLike, "b"],
    *,
    axis: str | None = None,
) -> tuple[Prefix, Steps]:
    """Append the fresh ones among b samples, of losses ℓ(w) at each of the m points.

    Under ``shard_map`` the devices along an ``axis`` of the mesh append b samples each, one
    device's after the other's, and exchange no more than their number and totals.
    """
    losses, fresh = jnp.asarray(losses), jnp.asarray(fresh)
    k = prefix.num_samples + jnp.cumsum(fresh, dtype=jnp.int32) - fresh
    met = jnp.sum(fresh, dtype=jnp.int32)
    # sums of deviations ℓ_i − L from the mean so far keep the digits of an ℓ_{k+1} close to L_k
    high, low = two_sum(losses, -prefix.mean[:, None])
    deviations = two_sum(high, low - prefix.residue[:, None])
    deviations = jax.tree.map(lambda x: jnp.where(fresh, x, 0), deviations)
    sums = cumsum(deviations)
    before = jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (1, 0)))[:, :-1], sums)
    total = jax.tree.map(lambda x: x[:, -1], sums)
    if axis is not None:
        counts, totals = jax.lax.all_gather((met, total), axis, axis=-1)
        running, here = (jnp.cumsum(counts), cumsum(totals)), jax.lax.axis_index(axis)
        # over the devices before this one, and over all
        earlier, behind = jax.tree.map(lambda x: jnp.where(here > 0, x[..., here - 1], 0), running)
        met, total = jax.tree.map(lambda x: x[..., -1], running)
        k, before = k + earlier, add(before, jax.tree.map(lambda x: x[:, None], behind))
    count = prefix.num_samples + met
    # L_k − L, 0 at k = 0; the innovation is the deviation less that
    shift = divide(before, jnp.maximum(k, 1).astype(losses.dtype))
    innovation = (deviations[0] - shift[0]) + (deviations[1] - shift[1])
    steps = Steps(k, losses, prefix.mean[:, None] + shift[0], innovation, fresh)
    mean, residue = add((prefix.mean, prefix.residue), divide(total, count.astype(losses.dtype)))
    # Welford: appending ℓ_{k+1} adds (ℓ_{k+1} − L_k)² k/(k+1) to the sum of squares.
    growth = jnp.where(fresh, innovation**2 * (k / (k + 1)).astype(losses.dtype), 0).sum(-1)
    if axis is not None:
        growth = jax.lax.psum(growth, axis)
    squares = add(prefix.squares, two_sum(growth, jnp.zeros_like(mean)))
    return Prefix(count, mean, residue, squares), steps


def means(losses: Float[ArrayLike, "*rows n"]) -> Float[Array, "*rows n"]:
    """L_1, ..., L_n of stored per-sample losses along the last axis."""
    return _of_whole(losses, lambda steps: steps.mean + steps.increment)


def increments(losses: Float[ArrayLike, "*rows n"]) -> Float[Array, "*rows n-1"]:
    """δ_1, ..., δ_{n−1} of stored per-sample losses along the last axis."""
    return _of_whole(losses, lambda steps: steps.increment[:, 1:])


def _of_whole(losses: ArrayLike, wanted: Callable[[Steps], Array]) -> Array:
    losses = jnp.asarray(losses)
    flat = losses.reshape(-1, losses.shape[-1])
    steps = extend(start(len(flat), flat.dtype), flat, jnp.ones(flat.shape[1], bool))[1]
    return wanted(steps).reshape(*losses.shape[:-1], -1)


def two_sum(a: Array, b: Array) -> Pair:
    """a + b, rounded, then its rounding error, exactly (Knuth 1969, section 4.2.2)."""
    total = a + b
    virtual = total - a
    return total, (a - (total - virtual)) + (b - virtual)


def add(x: Pair, y: Pair) -> Pair:
    """x + y."""
    high, low = two_sum(x[0], y[0])
    return two_sum(high, low + (x[1] + y[1]))


def divide(x: Pair, count: Float[Array, "*b"]) -> Pair:
    """x / count, by one step of long division with halves, whose products are exact."""
    info = jnp.finfo(count.dtype)

    def halves(x: Array) -> Pair:
        high = jax.lax.reduce_precision(x, info.nexp, info.nmant // 2)
        return high, x - high

    quotient, remainder = x[0] / count, x[0]
    for q in halves(quotient):
        for c in halves(count):
            remainder = remainder - q * c
    return quotient, (remainder + x[1]) / count


def cumsum(x: Pair) -> Pair:
    """Running sums along the last axis: within runs of ``RUN`` terms, then of the runs' totals.

    Two short loops, which compile in a fraction of the time of ``jax.lax.associative_scan``.
    """
    *rows, n = x[0].shape
    count = -(-n // RUN)

    def cut(leaf: Array) -> Float[Array, "RUN *rows count"]:
        padded = jnp.pad(leaf, [(0, 0)] * len(rows) + [(0, count * RUN - n)])
        return jnp.moveaxis(padded.reshape(*rows, count, RUN), -1, 0)

    step = lambda total, term: (add(total, term),) * 2  # noqa: E731
    zeros = jnp.zeros((*rows, count), x[0].dtype)
    totals, inside = jax.lax.scan(step, (zeros, zeros), jax.tree.map(cut, x))
    # Running sums of the totals: each gets what is 1, 2, 4, ... places before it.
    further = lambda level, sums: add(_later(sums, 1 << level), sums)  # noqa: E731
    totals = jax.lax.fori_loop(0, (count - 1).bit_length(), further, totals)
    sums = add(_later(totals, 1), inside)
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, -1).reshape(*rows, -1)[..., :n], sums)


def _later(x: Pair, places: int | Int[Array, ""]) -> Pair:
    """Moved ``places`` on along the last axis; zeros come in."""
    n = x[0].shape[-1]
    padded = jax.tree.map(lambda leaf: jnp.concatenate([jnp.zeros_like(leaf), leaf], -1), x)
    return jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, n - places, n, -1), padded)
