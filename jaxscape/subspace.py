"""Affine slices of parameter space, w(θ) = w* + Σ_j θ_j v_j, and where their directions come from.

At random, from the Hessian, or from a training run.
"""

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key

from jaxscape import devices
from jaxscape.curvature import hessian_operator
from jaxscape.lanczos import dot, top_eigenpairs
from jaxscape.trees import check_floating, check_like, num_parameters, working
from jaxscape.types import Batch, InputError, Params, PerSampleLoss


@jax.tree_util.register_dataclass
@no_type_check  # JAX rebuilds pytrees with anything in place of their arrays
@dataclass(frozen=True)
class Subspace:
    """The d directions ``basis``, leaves ``[d, *leaf.shape]``, through the point ``origin``.

    >>> import jax.numpy as jnp, jaxscape as js
    >>> space = js.Subspace(jnp.ones(3), jnp.eye(3)[:2])
    >>> space.at(jnp.array([0.5, -1.0])).tolist()
    [1.5, 0.0, 1.0]
    >>> print(space.coordinates_of(jnp.array([1.5, 0.0, 7.0])))  # the closest point
    [ 0.5 -1. ]
    """

    origin: Params
    basis: Params
    eigenvalues: Float[Array, "d"] | None = None
    """Of a Hessian subspace: λ_j of each direction."""
    residuals: Float[Array, "d"] | None = None
    """Of a Hessian subspace: ‖H v_j − λ_j v_j‖."""

    @property
    def dim(self) -> int:
        """The number d of directions."""
        return jax.tree.leaves(self.basis)[0].shape[0]

    def check(self) -> None:
        """Raise an ``InputError`` unless each array of the origin has its d directions."""
        tree: Callable = jax.tree.structure
        found = [jnp.shape(leaf) for leaf in jax.tree.leaves(self.basis)]
        expected = [(*found[0][:1], *jnp.shape(leaf)) for leaf in jax.tree.leaves(self.origin)]
        if tree(self.basis) == tree(self.origin) and found == expected and found[0]:
            return
        pairs = zip(found, expected, strict=False)
        other = [f"{a} in place of {b}" for a, b in pairs if a != b] or ["another tree"]
        raise InputError(
            "expected an array of directions, (d, *shape), for each array of the parameters, "
            f"found {other[0]}; build them with jax.tree.map over the parameters"
        )

    def at(self, coordinates: Float[ArrayLike, "d"]) -> Params:
        """w(θ) = w* + Σ_j θ_j v_j, all d directions applied.

        In float32 where w* is held in half precision, which would round a small step away.
        """
        self.check()

        def leaf(origin: Any, directions: Array) -> Array:
            step = jnp.tensordot(coordinates, directions, axes=1, precision="highest")
            return origin + step.astype(jnp.result_type(origin))

        return jax.tree.map(leaf, working(self.origin), self.basis)

    def coordinates_of(self, params: Params) -> Float[Array, "d"]:
        """The θ at which w(θ) is closest to ``params``, argmin_θ ‖w(θ) − params‖.

        Least squares, by the normal equations VVᵀθ = V(params − w*), and the shortest such θ where
        the directions depend on each other.

        Raises:
            InputError: ``params`` of another tree or other shapes than the origin.
        """
        self.check()
        check_like(params, self.origin, "the point")

        def products(directions: Array, offset: Array) -> tuple[Array, Array]:
            rows = directions.reshape(self.dim, -1)
            return dot(rows, rows.T), dot(rows, offset.ravel())

        offset = jax.tree.map(jnp.subtract, *working((params, self.origin)))
        leaves = zip(*map(jax.tree.leaves, (working(self.basis), offset)), strict=True)
        each = [products(v, jnp.asarray(w)) for v, w in leaves]
        gram, along = (sum(parts[1:], parts[0]) for parts in zip(*each, strict=True))
        return jnp.linalg.lstsq(gram, along)[0]


def random_subspace(
    key: Key[Array, ""], params: Params, dim: int, *, normalization: str = "unit"
) -> Subspace:
    """``dim`` random Gaussian directions through ``params``.

    >>> import jax, jax.numpy as jnp, jaxscape as js
    >>> params = {"kernel": jnp.full((4, 3), 0.5), "bias": jnp.zeros(3)}
    >>> space = js.random_subspace(jax.random.key(0), params, dim=2, normalization="filter")
    >>> jnp.linalg.norm(space.basis["kernel"], axis=1).round(3).tolist()  # as the columns of 0.5
    [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]

    Args:
        key: Draws the directions.
        params: The origin w*.
        dim: The number d of directions.
        normalization: ``"unit"``: each direction has norm 1. ``"filter"``: every filter of a
            direction, all entries which share the last index of their array (a neuron's incoming
            weights, a convolution's output channel), is rescaled to the norm of the same filter of
            ``params``; arrays with fewer than two axes stay 0 (Li et al. 2018, "Visualizing the
            Loss Landscape of Neural Nets", section 4). The whole direction then has about the norm
            of ``params``. ``"unit-filter"``: the same, divided by its whole norm, as in the code of
            Nikitin et al. 2025.

    Raises:
        InputError: dim outside 1..P, an unknown normalization, or nothing to filter-normalise.
    """
    check_floating(params)
    check_dim(dim, params)
    if normalization not in ("unit", "filter", "unit-filter"):
        raise InputError(
            f"expected normalization 'unit', 'filter' or 'unit-filter', found {normalization!r}; "
            "choose one"
        )
    if normalization != "unit" and all(jnp.ndim(leaf) < 2 for leaf in jax.tree.leaves(params)):
        raise InputError(
            "expected parameters with at least one array of two or more axes for filter-normalised "
            "directions, found none; use normalization='unit'"
        )
    return Subspace(params, _directions(normalization, params, jax.random.split(key, dim)))


@functools.partial(jax.jit, static_argnums=0)
def _directions(normalization: str, params: Params, keys: Key[Array, "d"]) -> Params:
    """One direction after the other, so that no more than one exists beside the result."""
    params = working(params)

    def direction(key: Key[Array, ""]) -> Params:
        normals = gaussian_like(key, params)
        if normalization != "unit":
            normals = jax.tree.map(_filterwise, normals, params)
        if normalization == "filter":
            return normals
        square = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(normals))
        return jax.tree.map(lambda leaf: (leaf / jnp.sqrt(square)).astype(leaf.dtype), normals)

    return jax.lax.map(direction, keys)


def gaussian_like(key: Key[Array, ""], params: Params) -> Params:
    """A standard normal direction shaped like ``params``."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.tree.unflatten(tree, list(jax.random.split(key, len(leaves))))
    draw = lambda x, key: jax.random.normal(key, jnp.shape(x), jnp.result_type(x))  # noqa: E731
    return jax.tree.map(draw, params, keys)


def _filterwise(x: Array, origin: Array) -> Array:
    if x.ndim < 2:
        return jnp.zeros_like(x)
    norm, target = (jnp.linalg.norm(a.reshape(-1, a.shape[-1]), axis=0) for a in (x, origin))
    return x * (target / norm)


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

    They are orthonormal. Warns, where not traced, if a relative residual stays above ``tol``.

    >>> import jax, jax.numpy as jnp, jaxscape as js
    >>> loss = lambda w, x: (x @ w) ** 2 / 2
    >>> data = jnp.diag(jnp.array([3.0, 2.0, 1.0]))
    >>> space = js.hessian_subspace(jax.random.key(0), loss, jnp.zeros(3), data, dim=2)
    >>> [f"{x:.2f}" for x in space.eigenvalues]  # of diag(9, 4, 1) / 3
    ['3.00', '1.33']

    Args:
        key, tol: As for ``top_eigenpairs``.
        loss, params, data, batch_size, mesh: As for ``hessian_operator``; w* is ``params``.
        dim: The number d of directions.
        krylov_dim: As for ``top_eigenpairs``; dim + 3 takes the least memory, for huge networks.

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
    return Subspace(params, pairs.vectors, pairs.values, pairs.residuals)


def check_dim(dim: int, params: Params) -> None:
    """Raise an ``InputError`` unless 1 ≤ dim ≤ P."""
    size = num_parameters(params)
    if not 1 <= dim <= size:
        raise InputError(
            f"expected a subspace dimension from 1 to {size} (the number of parameters), "
            f"found {dim}; change dim"
        )


class Trajectory(NamedTuple):
    """A subspace through the last of T points, and where in it each of them lies."""

    space: Subspace
    coordinates: Float[Array, "T d"]
    """Of each point's projection; 0 for the last."""
    explained: Float[Array, "d"]
    """Share of Σ_t ‖w_t − w_T‖² along each direction."""


def trajectory_subspace(points: Params, dim: int = 2) -> Trajectory:
    """The ``dim`` leading principal components of w_1, ..., w_T, leaves ``[T, ...]``, about w_T.

    The right singular vectors of the matrix with rows w_t − w_T, orthonormal, in the order of their
    singular values (Li et al. 2018, section 7, as for ``random_subspace``).

    Raises:
        InputError: dim outside 1..min(T−1, P), or points of no common number T.
    """
    check_floating(points)
    points = working(points)
    lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(points)}
    if len(lengths) != 1 or () in lengths:
        raise InputError(
            "expected parameters of several points, stacked along a new first axis, found first "
            f"axes {sorted(lengths)}; stack them with jax.tree.map"
        )
    ((total,),) = lengths
    most = min(total - 1, num_parameters(points) // total)
    if not 1 <= dim <= most:
        raise InputError(
            f"expected a dimension from 1 to {most}, at most the parameters, and one less than the "
            f"points of the trajectory, found {dim}; change dim, or keep more points"
        )
    leaves, tree = jax.tree.flatten(points)
    steps = [(leaf - leaf[-1]).astype(jnp.float32).reshape(leaf.shape[0], -1) for leaf in leaves]
    left, singular, right = jnp.linalg.svd(jnp.concatenate(steps, 1), full_matrices=False)
    ends = np.cumsum([step.shape[1] for step in steps])[:-1]
    rows = jnp.split(right[:dim], ends, axis=1)
    shaped = lambda leaf, row: row.reshape(dim, *leaf.shape[1:]).astype(leaf.dtype)  # noqa: E731
    basis = jax.tree.map(shaped, points, jax.tree.unflatten(tree, rows))
    space = Subspace(jax.tree.map(lambda leaf: leaf[-1], points), basis)
    square = singular**2
    whole = jnp.where(square.sum() > 0, square.sum(), 1)
    return Trajectory(space, (left * singular)[:, :dim], square[:dim] / whole)
