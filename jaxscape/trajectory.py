"""The subspace in which a training run has moved: principal components of its trajectory."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxscape.operators import check_floating, working
from jaxscape.subspace import Subspace
from jaxscape.types import InputError, Params


class Trajectory(NamedTuple):
    """A subspace through the last of T points, and where in it each of them lies."""

    space: Subspace
    coordinates: Float[Array, "T d"]
    """Of each point's projection; 0 for the last."""
    explained: Float[Array, "d"]
    """Share of Σ_t ‖w_t − w_T‖² along each direction."""


def trajectory_subspace(points: Params, dim: int = 2) -> Trajectory:
    """The ``dim`` leading principal components of w_1, ..., w_T, leaves ``[T, ...]``, about w_T.

    The directions are the right singular vectors of the matrix with rows w_t − w_T, orthonormal,
    in the order of their singular values (Li et al. 2018, "Visualizing the Loss Landscape of
    Neural Nets", section 7).

    Raises:
        InputError: dim outside 1..min(T−1, P), or points of no common number T.
    """
    check_floating(points)
    points = working(points)
    lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(points)}
    if len(lengths) != 1 or () in lengths:
        raise InputError(
            "expected parameters of several points, stacked along a new first axis, found "
            f"{[jnp.shape(leaf) for leaf in jax.tree.leaves(points)]}; stack them"
        )
    ((total,),) = lengths
    most = min(total - 1, sum(leaf[0].size for leaf in jax.tree.leaves(points)))
    if not 1 <= dim <= most:
        raise InputError(
            f"expected a dimension from 1 to {most}, at most the parameters, and one less than the "
            f"points of the trajectory, found {dim}; change dim, or keep more points"
        )
    return _principal(points, dim)


def _principal(points: Params, dim: int) -> Trajectory:
    leaves, tree = jax.tree.flatten(points)
    steps = [(leaf - leaf[-1]).astype(jnp.float32).reshape(leaf.shape[0], -1) for leaf in leaves]
    left, singular, right = jnp.linalg.svd(jnp.concatenate(steps, 1), full_matrices=False)
    rows = right[:dim]
    basis, start = [], 0
    for leaf in leaves:
        size = leaf[0].size
        basis.append(rows[:, start : start + size].reshape(dim, *leaf.shape[1:]).astype(leaf.dtype))
        start += size
    space = Subspace(jax.tree.map(lambda leaf: leaf[-1], points), jax.tree.unflatten(tree, basis))
    square = singular**2
    whole = jnp.where(square.sum() > 0, square.sum(), 1)
    return Trajectory(space, (left * singular)[:, :dim], square[:dim] / whole)
