"""An affine slice of parameter space, w(θ) = w* + Σ_j θ_j v_j.

The subspace in which a training run has moved: principal components of its trajectory.
"""

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key

from jaxscape import devices
from jaxscape.curvature import hessian_operator
from jaxscape.lanczos import top_eigenpairs
from jaxscape.trees import check_floating, num_parameters, working
from jaxscape.types import Batch, InputError, Params, PerSampleLoss


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Subspace:
    """The d directions ``basis``, leaves ``[d, *leaf.shape]``, through the point ``origin``."""

    origin: Params
    basis: Params

    @property
    def dim(self) -> int:
        """The number d of directions."""
        return jax.tree.leaves(self.basis)[0].shape[0]

    def at(self, coordinates: Float[Array, "d"]) -> Params:
        """w(θ) = w* + Σ_j θ_j v_j, all d directions applied.

        In float32 where w* is held in half precision, which would round a small step away.
        """

        def leaf(origin: Array, directions: Array) -> Array:
            step = jnp.tensordot(coordinates, directions, axes=1, precision="highest")
            return origin + step.astype(origin.dtype)

        return jax.tree.map(leaf, working(self.origin), self.basis)


def random_subspace(
    key: Key[Array, ""],
    params: Params,
    dim: int,
    *,
    normalization: Literal["unit", "filter"] = "unit",
) -> Subspace:
    """``dim`` random Gaussian directions through ``params``.

    ``unit``: each direction has norm 1. ``filter``: every filter of a direction, that is all
    entries which share the last index of their array (a neuron's incoming weights, a
    convolution's output channel), is rescaled to the norm of the same filter of ``params``;
    arrays with fewer than two axes stay 0 (Li et al. 2018, "Visualizing the Loss Landscape of
    Neural Nets", section 4).

    Raises:
        InputError: dim outside 1..P, an unknown normalization, or nothing to filter-normalise.
    """
    check_floating(params)
    check_dim(dim, params)
    if normalization not in ("unit", "filter"):
        raise InputError(
            f"expected normalization 'unit' or 'filter', found {normalization!r}; choose one"
        )
    if normalization == "filter" and all(jnp.ndim(leaf) < 2 for leaf in jax.tree.leaves(params)):
        raise InputError(
            "expected parameters with at least one array of two or more axes for "
            "filter-normalised directions, found none; use normalization='unit'"
        )
    normalize = {"unit": _unit, "filter": _filterwise}[normalization]
    return Subspace(params, _directions(normalize, params, jax.random.split(key, dim)))


def hessian_subspace(
    key: Key[Array, ""],
    loss: PerSampleLoss,
    params: Params,
    data: Batch,
    dim: int,
    *,
    tol: float = 1e-4,
    batch_size: int = 1000,
    krylov_dim: int | None = None,
    mesh: Mesh | None = None,
) -> Subspace:
    """The eigenvectors of the ``dim`` largest eigenvalues of the Hessian of the mean loss.

    The directions are orthonormal. Where eigenvalues and residuals matter, call
    ``top_eigenpairs(key, hessian_operator(loss, params, data), params, dim)`` and build the
    ``Subspace`` from its vectors. Warns, where it is not traced, if a pair's relative residual
    stays above ``tol``.
    All devices of a ``mesh`` (``sharding.mesh``) share the samples. ``krylov_dim`` is that of
    ``top_eigenpairs``: dim + 3 takes the least memory, for huge networks.

    Raises:
        InputError: dim outside 1..P, krylov_dim out of range, or a loss that is not per sample.
    """
    check_dim(dim, params)
    operator = hessian_operator(loss, params, data, batch_size=batch_size, mesh=mesh)
    pairs = top_eigenpairs(key, operator, params, dim, tol=tol, krylov_dim=krylov_dim)
    if mesh is not None:
        pairs = devices.local(devices.place(pairs, mesh))
    if not isinstance(pairs.converged, jax.core.Tracer) and not pairs.converged.all():
        warnings.warn(
            f"{int((~pairs.converged).sum())} of {dim} eigenpairs did not reach the relative "
            f"residual {tol:g}; raise tol, or lower dim",
            stacklevel=2,
        )
    return Subspace(params, pairs.vectors)


def check_dim(dim: int, params: Params) -> None:
    """Raise an ``InputError`` unless 1 ≤ dim ≤ P."""
    size = num_parameters(params)
    if not 1 <= dim <= size:
        raise InputError(
            f"expected a subspace dimension from 1 to {size} (the number of parameters), "
            f"found {dim}; change dim"
        )


def gaussian_like(key: Key[Array, ""], params: Params) -> Params:
    """A standard normal direction shaped like ``params``."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    normals = [
        jax.random.normal(k, jnp.shape(x), jnp.result_type(x))
        for k, x in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(tree, normals)


@functools.partial(jax.jit, static_argnums=0)
def _directions(
    normalize: Callable[[Params, Params], Params], params: Params, keys: Key[Array, "d"]
) -> Params:
    """One direction after the other, so that no more than one exists beside the result."""
    params = working(params)
    return jax.lax.map(lambda key: normalize(gaussian_like(key, params), params), keys)


def _unit(direction: Params, params: Params) -> Params:
    del params
    square = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(direction))
    return jax.tree.map(lambda leaf: (leaf / jnp.sqrt(square)).astype(leaf.dtype), direction)


def _filterwise(direction: Params, params: Params) -> Params:
    def leaf(x: Array, origin: Array) -> Array:
        if x.ndim < 2:
            return jnp.zeros_like(x)
        axes = tuple(range(x.ndim - 1))
        norm, target = (jnp.linalg.norm(a.reshape(-1, a.shape[-1]), axis=0) for a in (x, origin))
        return x * jnp.expand_dims(target / norm, axes)

    return jax.tree.map(leaf, direction, params)


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
