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
from jaxscape.arguments import check_choice, explained
from jaxscape.curvature import hessian_operator, nonfinite_samples
from jaxscape.lanczos import Eigenpairs, dot, top_eigenpairs
from jaxscape.trees import (
    check_floating,
    check_key,
    check_like,
    is_traced,
    num_parameters,
    owned,
    register,
    short,
    working,
)
from jaxscape.types import Batch, InputError, Params, PerSampleLoss


@register
@no_type_check  # JAX rebuilds pytrees with anything in place of their arrays
@dataclass(frozen=True)
class Subspace:
    """The d directions ``basis``, leaves ``[d, *leaf.shape]``, through the point ``origin``.

    Raises an ``InputError`` for directions of other shapes than the origin.

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
    """λ_j of each direction: of the Hessian, or of what else ``influence_subspace`` says."""
    residuals: Float[Array, "d"] | None = None
    """Of a Hessian subspace: ‖H v_j − λ_j v_j‖."""

    def __post_init__(self) -> None:
        """Take arrays of its own, and check their shapes."""
        for name in ("origin", "basis", "eigenvalues", "residuals"):
            object.__setattr__(self, name, owned(getattr(self, name)))
        check_floating(self.origin)
        self.check()

    @property
    def dim(self) -> int:
        """The number d of directions."""
        return jax.tree.leaves(self.basis)[0].shape[0]

    def check(self) -> None:
        """Raise an ``InputError`` unless each array of the origin has its d directions."""
        tree: Callable = jax.tree.structure
        found = [jnp.shape(leaf) for leaf in jax.tree.leaves(self.basis)]
        first = found[0][:1] if found else ()
        expected = [(*first, *jnp.shape(leaf)) for leaf in jax.tree.leaves(self.origin)]
        if tree(self.basis) == tree(self.origin) and found == expected and found[:1] != [()]:
            return
        pairs = zip(found, expected, strict=False)
        other = [f"{a} in place of {b}" for a, b in pairs if a != b] or ["another tree"]
        raise InputError(
            "expected an array of directions, (d, *shape), for each array of the parameters, "
            f"found {other[0]}; build them with jax.tree.map over the parameters"
        )

    @explained
    def at(self, coordinates: Float[ArrayLike, "d"]) -> Params:
        """w(θ) = w* + Σ_j θ_j v_j, all d directions applied.

        In float32 where w* is held in half precision, which would round a small step away.
        """
        if jnp.shape(coordinates) != (self.dim,):
            raise InputError(
                f"expected coordinates of shape ({self.dim},), one for each direction, found "
                f"{short(coordinates)}; change them"
            )

        def leaf(origin: Any, directions: Array) -> Array:
            step = jnp.tensordot(coordinates, directions, axes=1, precision="highest")
            return origin + step.astype(jnp.result_type(origin))

        return jax.tree.map(leaf, working(self.origin), self.basis)

    @explained
    def coordinates_of(self, params: Params) -> Float[Array, "d"]:
        """The θ at which w(θ) is closest to ``params``, argmin_θ ‖w(θ) − params‖.

        Least squares, by the normal equations VVᵀθ = V(params − w*), and the shortest such θ where
        the directions depend on each other.

        Raises:
            InputError: ``params`` of another tree or other shapes than the origin.
        """
        check_like(params, self.origin, "the point")

        def products(directions: Array, offset: Array) -> tuple[Array, Array]:
            rows = directions.reshape(self.dim, -1)
            return dot(rows, rows.T), dot(rows, offset.ravel())

        offset = jax.tree.map(jnp.subtract, *working((params, self.origin)))
        leaves = zip(*map(jax.tree.leaves, (working(self.basis), offset)), strict=True)
        each = [products(v, jnp.asarray(w)) for v, w in leaves]
        gram, along = (sum(parts[1:], parts[0]) for parts in zip(*each, strict=True))
        return jnp.linalg.lstsq(gram, along)[0]


@explained
def random_subspace(
    key: Key[Array, ""],
    params: Params,
    dim: int,
    *,
    normalization: str = "unit",
    filter_axes: Any = -1,
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
            direction (a neuron's incoming weights, a convolution's output channel) is rescaled to
            the norm of the same filter of ``params``; arrays with fewer than two axes stay 0 (Li et
            al. 2018, "Visualizing the Loss Landscape of Neural Nets", section 4). The whole
            direction then has about the norm of ``params``. ``"unit-filter"``: the same, divided by
            its whole norm, as in the code of Nikitin et al. 2025.
        filter_axes: Which axes tell filters apart: the last one in Flax and Haiku, 0 in Equinox and
            PyTorch, (0, -1) of dense layers stacked by a scan, (-2, -1) of attention heads. An axis
            or a tuple of axes for all arrays, or a pytree of these, with None where an array is to
            stay 0, each for an array or for all arrays below it.

    Raises:
        InputError: dim outside 1..P, an unknown normalization, or nothing to filter-normalise.
    """
    check_floating(params)
    check_dim(dim, params)
    check_choice("normalization", normalization, ("unit", "filter", "unit-filter"))
    if normalization != "unit" and all(jnp.ndim(leaf) < 2 for leaf in jax.tree.leaves(params)):
        raise InputError(
            "expected parameters with at least one array of two or more axes for filter-normalised "
            "directions, found none; use normalization='unit'"
        )
    axes = _filter_axes(filter_axes, params)
    if normalization != "unit":
        kept = [w for w, own in zip(jax.tree.leaves(params), axes, strict=True) if own]
        if not kept:
            raise InputError(
                "expected filter_axes of some array, found None for all; name the axes that tell "
                "filters apart"
            )
        if not is_traced(kept) and not any(np.any(w) for w in kept):
            raise InputError(
                "expected filters that are not 0, found 0 in all, so that no direction has their "
                "norm; use normalization='unit', or trained parameters"
            )
    keys = jax.random.split(check_key(key), dim)
    return Subspace(params, _directions(normalization, axes, owned(params), keys))


def _filter_axes(filter_axes: Any, params: Params) -> tuple[tuple[int, ...] | None, ...]:
    """Of each leaf the axes, counted from 0, that tell its filters apart; None: it stays 0."""

    def is_rule(x: Any) -> bool:
        several = isinstance(x, tuple) and bool(x) and all(isinstance(axis, int) for axis in x)
        return x is None or isinstance(x, int) or several

    try:
        boxed = jax.tree.map(lambda rule: lambda: rule, filter_axes, is_leaf=is_rule)
        found = [box() for box in jax.tree.leaves(jax.tree.broadcast(boxed, params))]
    except (ValueError, TypeError):
        raise InputError(
            "expected filter_axes as an axis, or a tuple of axes, for each array or for all below "
            f"a node of the parameters, found {short(filter_axes)}; shape it like the parameters"
        ) from None
    chosen: list[tuple[int, ...] | None] = []
    for rule, leaf in zip(found, jax.tree.leaves(params), strict=True):
        ndim = jnp.ndim(leaf)
        axes = rule if isinstance(rule, tuple) else (rule,)
        if rule is None or ndim < 2:
            chosen.append(None)
            continue
        if not all(isinstance(axis, int) and -ndim <= axis < ndim for axis in axes):
            raise InputError(
                f"expected filter_axes from {-ndim} to {ndim - 1} for an array of shape "
                f"{jnp.shape(leaf)}, found {short(rule)}; change it"
            )
        chosen.append(tuple(sorted({axis % ndim for axis in axes})))
    return tuple(chosen)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _directions(normalization: str, axes: tuple, params: Params, keys: Key[Array, "d"]) -> Params:
    """One direction after the other, so that no more than one exists beside the result."""
    params = working(params)

    def direction(key: Key[Array, ""]) -> Params:
        normals = gaussian_like(key, params)
        if normalization != "unit":
            leaves = zip(jax.tree.leaves(normals), jax.tree.leaves(params), axes, strict=True)
            scaled = [_filterwise(*each) for each in leaves]
            normals = jax.tree.unflatten(jax.tree.structure(params), scaled)
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


def _filterwise(x: Array, origin: Array, axes: tuple[int, ...] | None) -> Array:
    if axes is None or not x.size:
        return jnp.zeros_like(x)
    others = tuple(axis for axis in range(x.ndim) if axis not in axes)
    largest = jnp.max(jnp.abs(origin), others, keepdims=True)  # its squares may leave float32
    scaled = origin / jnp.where(largest > 0, largest, 1)
    norm, target = (jnp.sqrt(jnp.sum(a**2, others, keepdims=True)) for a in (x, scaled))
    return x * (target / norm) * largest


@explained
def hessian_subspace(
    key: Key[Array, ""],
    loss: PerSampleLoss,
    params: Params,
    data: Batch,
    dim: int,
    *,
    which: str = "largest",
    tol: float = 1e-4,
    batch_size: int = 1000,
    krylov_dim: int | None = None,
    mesh: Mesh | None = None,
) -> Subspace:
    """The eigenvectors of the ``dim`` leading eigenvalues of the Hessian of the mean loss.

    They are orthonormal. Warns, where not traced, if a relative residual stays above ``tol``.

    >>> import jax, jax.numpy as jnp, jaxscape as js
    >>> loss = lambda w, x: (x @ w) ** 2 / 2
    >>> data = jnp.diag(jnp.array([3.0, 2.0, 1.0]))
    >>> space = js.hessian_subspace(jax.random.key(0), loss, jnp.zeros(3), data, dim=2)
    >>> [f"{x:.2f}" for x in space.eigenvalues]  # of diag(9, 4, 1) / 3
    ['3.00', '1.33']

    Args:
        key, which, tol: As for ``top_eigenpairs``.
        loss, params, data, batch_size, mesh: As for ``hessian_operator``; w* is ``params``.
        dim: The number d of directions.
        krylov_dim: As for ``top_eigenpairs``; dim + 3 takes the least memory, for huge networks.

    Raises:
        InputError: dim outside 1..P, krylov_dim out of range, or a loss that is not per sample.
    """
    check_dim(dim, params)
    operator = hessian_operator(loss, params, data, batch_size=batch_size, mesh=mesh)
    options: dict[str, Any] = {"which": which, "tol": tol, "krylov_dim": krylov_dim}
    pairs = top_eigenpairs(key, operator, params, dim, **options)
    if mesh is not None:
        pairs = devices.local(devices.place(pairs, mesh))
    if not is_traced(pairs.values):
        _check_pairs(pairs, operator, tol)
    return Subspace(params, pairs.vectors, pairs.values, pairs.residuals)


def _check_pairs(pairs: Eigenpairs, operator: Any, tol: float) -> None:
    """Refuse eigenvalues of NaN or of 0 alone; warn of eigenpairs that did not converge."""
    values, lost = np.asarray(pairs.values), ~np.asarray(pairs.converged)
    if not np.isfinite(values).all():
        bad = nonfinite_samples(operator)
        names = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
        where = f"a loss of NaN or infinity for {len(bad)} samples (at positions {names})"
        if not len(bad):
            where = "finite losses: a derivative is not, such as that of a norm or a root at 0"
        raise InputError(f"expected a finite Hessian, found {where}; check them, or leave them out")
    if not values.any():
        raise InputError(
            "expected curvature, found eigenvalues that are all 0, whose eigenvectors are "
            "arbitrary; use random_subspace, or the parameters of a trained network"
        )
    if lost.any():
        warnings.warn(
            f"{lost.sum()} of {len(lost)} eigenpairs did not reach the relative residual {tol:g} "
            f"(λ_1 = {values[0]:.3g}, the first of them {values[lost][0]:.3g}); raise tol, or "
            "lower dim",
            stacklevel=4,
        )


def check_dim(dim: int, params: Params) -> None:
    """Raise an ``InputError`` unless 1 ≤ dim ≤ P."""
    size = num_parameters(params)
    if not isinstance(dim, int | np.integer) or not 1 <= dim <= size:
        raise InputError(
            f"expected a subspace dimension from 1 to {size} (the number of parameters), "
            f"found {short(dim)}; change dim"
        )


class Trajectory(NamedTuple):
    """A subspace through the last of T points, and where in it each of them lies."""

    space: Subspace
    coordinates: Float[Array, "T d"]
    """Of each point's projection; 0 for the last."""
    explained: Float[Array, "d"]
    """Share of Σ_t ‖w_t − w_T‖² along each direction."""


@explained
def trajectory_subspace(points: Params, dim: int = 2) -> Trajectory:
    """The ``dim`` leading principal components of w_1, ..., w_T about w_T.

    The right singular vectors of the matrix with rows w_t − w_T, orthonormal, in the order of their
    singular values (Li et al. 2018, section 7, as for ``random_subspace``).

    >>> import jax.numpy as jnp, jaxscape as js
    >>> found = js.trajectory_subspace([jnp.zeros(3), jnp.ones(3), jnp.array([2.0, 2.0, 5.0])])
    >>> [f"{share:.3f}" for share in found.explained]
    ['0.993', '0.007']

    Args:
        points: A list of T parameters, or one tree of leaves ``[T, ...]``.
        dim: The number d of directions.

    Raises:
        InputError: dim outside 1..min(T−1, P), points of no common number T, or a list that could
            be either.
    """
    points = _stacked(owned(points))
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
    steps = [(leaf - leaf[-1]).reshape(leaf.shape[0], -1) for leaf in leaves]
    left, singular, right = jnp.linalg.svd(jnp.concatenate(steps, 1), full_matrices=False)
    ends = np.cumsum([step.shape[1] for step in steps])[:-1]
    rows = jnp.split(right[:dim], ends, axis=1)
    shaped = lambda leaf, row: row.reshape(dim, *leaf.shape[1:]).astype(leaf.dtype)  # noqa: E731
    basis = jax.tree.map(shaped, points, jax.tree.unflatten(tree, rows))
    space = Subspace(jax.tree.map(lambda leaf: leaf[-1], points), basis)
    square = singular**2
    whole = jnp.where(square.sum() > 0, square.sum(), 1)
    return Trajectory(space, (left * singular)[:, :dim], square[:dim] / whole)


def _stacked(points: Params) -> Params:
    """A list of parameters stacked along a new first axis; a tree that is so already as it is."""
    if isinstance(points, dict) and all(isinstance(key, int) for key in points):
        raise InputError("expected a list of parameters, found a dict of numbers; give its values")
    if not isinstance(points, list | tuple):
        return points
    if len(points) < 2:
        raise InputError(
            f"expected a list of at least 2 parameters, found {len(points)}; keep more points"
        )
    shapes = [[jnp.shape(leaf) for leaf in jax.tree.leaves(point)] for point in points]
    trees: list[Any] = [jax.tree.structure(point) for point in points]
    alike = all(
        tree == trees[0] and shape == shapes[0] for tree, shape in zip(trees, shapes, strict=True)
    )
    if not alike and all(isinstance(point, dict) for point in points):
        raise InputError(
            f"expected parameters of one form, found {short(trees[0])} and others; keep the same "
            "arrays of every checkpoint"
        )
    every = [shape for each in shapes for shape in each]
    stacked = len({shape[:1] for shape in every}) == 1 and all(len(shape) > 1 for shape in every)
    if alike and stacked:
        raise InputError(
            "expected a list of parameters or one stacked tree, found a list of "
            f"{len(points)} that could be either; stack it with jax.tree.map and jnp.stack"
        )
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *points) if alike else points
