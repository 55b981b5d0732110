"""Affine slices w(θ) = w* + Σ_j θ_j v_j: random, of the Hessian, or of a training run."""

import functools
import warnings
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key
from numpy.lib.array_utils import normalize_axis_tuple

from jaxscape import devices, trees
from jaxscape.arguments import check_choice, explained
from jaxscape.curvature import hessian_operator, why_not_finite
from jaxscape.lanczos import Eigenpairs, dot, top_eigenpairs
from jaxscape.trees import is_traced, owned, short, working
from jaxscape.types import Batch, InputError, Params, PerSampleLoss


@jax.tree_util.register_pytree_with_keys_class
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
        vars(self).update({name: owned(value) for name, value in vars(self).items()})
        trees.check_floating(self.origin)
        self.check()

    def tree_flatten_with_keys(self) -> tuple[list, None]:
        """The fields, for JAX."""
        return [(jax.tree_util.GetAttrKey(name), own) for name, own in vars(self).items()], None

    @classmethod
    def tree_unflatten(cls, _: None, parts: Any) -> "Subspace":
        """With any fields, without the checks."""
        own = object.__new__(cls)
        vars(own).update(zip((each.name for each in fields(cls)), parts, strict=True))
        return own

    @property
    def dim(self) -> int:
        """The number d of directions."""
        return jax.tree.leaves(self.basis)[0].shape[0]

    def check(self) -> None:
        """Raise an ``InputError`` unless each array of the origin has its d directions."""
        found = [jnp.shape(leaf) for leaf in jax.tree.leaves(self.basis)]
        wanted = [(*found[0][:1], *jnp.shape(x)) for x in jax.tree.leaves(self.origin) if found]
        forms: list[Any] = [jax.tree.structure(x) for x in (self.basis, self.origin)]
        place = "" if forms[0] == forms[1] else " in another tree"
        if place or found != wanted or () in found:
            said = f"expected an array of directions for each of the parameters, {short(wanted)}"
            raise InputError(f"{said}, found {short(found)}{place}; build them with jax.tree.map")

    @explained
    def at(self, coordinates: Float[ArrayLike, "d"]) -> Params:
        """w(θ) = w* + Σ_j θ_j v_j, in float32 where half precision would round the step away."""
        if (shape := jnp.shape(coordinates)) != (self.dim,):
            wanted = f"coordinates of shape ({self.dim},), one for each direction"
            raise InputError(f"expected {wanted}, found {shape}; change them")

        def leaf(origin: Any, directions: Array) -> Array:
            step = jnp.tensordot(coordinates, directions, axes=1, precision="highest")
            return origin + step.astype(jnp.result_type(origin))

        return jax.tree.map(leaf, working(self.origin), self.basis)

    @explained
    def coordinates_of(self, params: Params) -> Float[Array, "d"]:
        """The θ at which w(θ) is closest to ``params``, argmin_θ ‖w(θ) − params‖.

        Least squares, by the normal equations VVᵀθ = V(params − w*), and the shortest such θ where
        the directions depend on each other. Raises an ``InputError`` for params of another form.
        """
        trees.check_like(params, self.origin, "the point")
        offset = jax.tree.map(jnp.subtract, *working((params, self.origin)))
        gram = along = jnp.zeros((), jax.tree.leaves(offset)[0].dtype)
        pairs = zip(*map(jax.tree.leaves, (working(self.basis), offset)), strict=True)
        for directions, step in pairs:
            rows = directions.reshape(self.dim, -1)
            gram, along = gram + dot(rows, rows.T), along + dot(rows, jnp.ravel(step))
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

    Raises an ``InputError`` for dim outside 1..P, or nothing to filter-normalise.

    >>> import jax, jax.numpy as jnp, jaxscape as js
    >>> params = {"kernel": jnp.full((4, 3), 0.5), "bias": jnp.zeros(3)}
    >>> space = js.random_subspace(jax.random.key(0), params, dim=2, normalization="filter")
    >>> jnp.linalg.norm(space.basis["kernel"], axis=1).round(3).tolist()  # as the columns of 0.5
    [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]

    Args:
        key, params, dim: Draws the directions; the origin w*; the number d of directions.
        normalization: ``"unit"``: each direction has norm 1. ``"filter"``: every filter of a
            direction (a neuron's incoming weights, a convolution's output channel) is rescaled to
            the norm of the same filter of ``params``; arrays with fewer than two axes stay 0 (Li et
            al. 2018, "Visualizing the Loss Landscape of Neural Nets", section 4).
            ``"unit-filter"``: the same over its whole norm, as in the code of Nikitin et al. 2025.
        filter_axes: The axis, or tuple of axes, that tells filters apart: -1 in Flax and Haiku, 0
            in Equinox and PyTorch, (0, -1) of dense layers stacked by a scan, (-2, -1) of attention
            heads. Or a pytree of these, each for all arrays below it; None keeps them at 0.
    """
    trees.check_floating(params)
    check_dim(dim, params)
    check_choice("normalization", normalization, ("unit", "filter", "unit-filter"))
    axes = _filter_axes(filter_axes, params)
    filters = [w for w, own in zip(jax.tree.leaves(params), axes, strict=True) if own]
    if normalization != "unit" and not (is_traced(filters) or any(map(np.any, filters))):
        said = "expected filters that are not 0, of arrays of two or more axes in filter_axes"
        raise InputError(f"{said}, found none; name axes, use trained parameters or 'unit'")
    keys, params = jax.random.split(key, dim), owned(params)
    places = tuple(devices.sharding_of(leaf) for leaf in jax.tree.leaves(params))
    return Subspace(params, _directions(normalization, axes, places, params, keys))


def _filter_axes(filter_axes: Any, params: Params) -> tuple[tuple[int, ...] | None, ...]:
    """Of each leaf the axes, counted from 0, that tell its filters apart; None: it stays 0."""

    def is_rule(x: Any) -> bool:
        several = isinstance(x, tuple) and bool(x) and all(isinstance(axis, int) for axis in x)
        return x is None or isinstance(x, int) or several

    def chosen(box: Any, leaf: Any) -> tuple[int, ...] | None:
        if (rule := box()) is None or (ndim := jnp.ndim(leaf)) < 2:
            return None
        return normalize_axis_tuple(rule, ndim, allow_duplicate=True)

    try:  # boxed, as JAX would look into a rule that is a tuple or None
        boxes = jax.tree.map(lambda rule: lambda: rule, filter_axes, is_leaf=is_rule)
        every = jax.tree.leaves(jax.tree.broadcast(boxes, params))
        return tuple(map(chosen, every, jax.tree.leaves(params)))
    except (ValueError, TypeError, OverflowError):
        said = "expected filter_axes as an axis or axes that the arrays have, or a tree of these"
        found = f"found {short(filter_axes)}; change it, or shape it like the parameters"
        raise InputError(f"{said}, {found}") from None


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _directions(
    normalization: str, axes: tuple, places: tuple, params: Params, keys: Key[Array, "d"]
) -> Params:
    """One direction after the other, so that no more than one exists beside the result."""
    params = working(params)

    def direction(key: Key[Array, ""]) -> Params:
        leaves, tree = jax.tree.flatten(gaussian_like(key, params))
        put = lambda x, to: jax.lax.with_sharding_constraint(x, to) if to else x  # noqa: E731
        normals = jax.tree.unflatten(tree, map(put, leaves, places))
        if normalization != "unit":
            leaves, tree = jax.tree.flatten(normals)
            scaled = map(_filterwise, leaves, jax.tree.leaves(params), axes)
            normals = jax.tree.unflatten(tree, scaled)
        if normalization == "filter":
            return normals
        square = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(normals))
        return jax.tree.map(lambda leaf: (leaf / jnp.sqrt(square)).astype(leaf.dtype), normals)

    return jax.lax.map(direction, keys)


def gaussian_like(key: Key[Array, ""], params: Params) -> Params:
    """A standard normal direction shaped like ``params``."""
    leaves, tree = jax.tree.flatten(params)
    each = zip(jax.random.split(key, len(leaves)), leaves, strict=True)
    drawn = [jax.random.normal(own, jnp.shape(x), jnp.result_type(x)) for own, x in each]
    return jax.tree.unflatten(tree, drawn)


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
    """The orthonormal eigenvectors of ``dim`` leading eigenvalues of the mean loss's Hessian.

    Warns, where not traced, if a relative residual stays above ``tol``. Raises an ``InputError``
    for dim outside 1..P, krylov_dim out of range, or a loss that is not per sample.

    >>> import jax, jax.numpy as jnp, jaxscape as js
    >>> loss = lambda w, x: (x @ w) ** 2 / 2
    >>> data = jnp.diag(jnp.array([3.0, 2.0, 1.0]))
    >>> space = js.hessian_subspace(jax.random.key(0), loss, jnp.zeros(3), data, dim=2)
    >>> [f"{x:.2f}" for x in space.eigenvalues]  # of diag(9, 4, 1) / 3
    ['3.00', '1.33']

    Args:
        key, which, tol, krylov_dim: As for ``top_eigenpairs``; krylov_dim = dim + 3 saves memory.
        loss, params, data, batch_size, mesh: As for ``hessian_operator``; w* is ``params``.
        dim: The number d of directions.
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
        where = f"{why_not_finite(operator)}; check them, or leave them out"
        raise InputError(f"expected a finite Hessian, found {where}")
    if not values.any():
        raise InputError("expected curvature, found eigenvalues all 0; use random_subspace")
    if lost.any():
        said = f"{lost.sum()} of {len(lost)} eigenpairs did not reach the relative residual {tol:g}"
        warnings.warn(f"{said}; raise tol, or lower dim", stacklevel=4)


def check_dim(dim: int, params: Params) -> None:
    """Raise an ``InputError`` unless 1 ≤ dim ≤ P."""
    size = trees.num_parameters(params)
    if not isinstance(dim, int | np.integer) or not 1 <= dim <= size:
        raise InputError(f"expected a dimension from 1 to {size}, found {short(dim)}; change dim")


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
    singular values (Li et al. 2018, section 7, as for ``random_subspace``). The points are a list
    of T parameters, or one tree of leaves ``[T, ...]``. Raises an ``InputError`` for dim outside
    1..min(T−1, P), no common number T, or a list that could be either.

    >>> import jax.numpy as jnp, jaxscape as js
    >>> found = js.trajectory_subspace([jnp.zeros(3), jnp.ones(3), jnp.array([2.0, 2.0, 5.0])])
    >>> [f"{share:.3f}" for share in found.explained]
    ['0.993', '0.007']
    """
    points = working(_stacked(owned(points)))
    trees.check_floating(points)
    lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(points)}
    if len(lengths) != 1 or () in lengths:
        found = f"found first axes {sorted(lengths)}; stack them with jax.tree.map"
        raise InputError(f"expected parameters of several points along a first axis, {found}")
    ((total,),) = lengths
    most = min(total - 1, trees.num_parameters(points) // total)
    if not 1 <= dim <= most:
        said = f"expected a dimension from 1 to {most}, below the points, at most the parameters"
        raise InputError(f"{said}, found {dim}; change dim, or keep more points")
    last = jax.tree.map(lambda leaf: leaf[-1], points)
    rows = jax.vmap(lambda point: ravel_pytree(point)[0])(points)
    left, singular, right = jnp.linalg.svd(rows - rows[-1], full_matrices=False)
    space = Subspace(last, jax.vmap(ravel_pytree(last)[1])(right[:dim]))
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
        raise InputError(f"expected at least 2 parameters, found {len(points)}; give more")
    shapes = [[jnp.shape(leaf) for leaf in jax.tree.leaves(point)] for point in points]
    forms = list(zip(map(jax.tree.structure, points), shapes, strict=True))
    if any(form != forms[0] for form in forms):
        if all(isinstance(point, dict) for point in points):
            found = f"found {short(forms[0][0])} and others; keep the same arrays of each"
            raise InputError(f"expected parameters of one form, {found}")
        return points
    if len({shape[:1] for shape in shapes[0]}) == 1 and all(len(shape) > 1 for shape in shapes[0]):
        found = f"a list of {len(points)} that could be either; stack it with jnp.stack"
        raise InputError(f"expected a list of parameters or one stacked tree, found {found}")
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *points)
