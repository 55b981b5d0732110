"""The per-sample quadratic model of the loss in a subspace, and the law of Δ_k that it implies."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from jaxscape import batching, devices, layers, losses, prefix
from jaxscape.arguments import explained
from jaxscape.subspace import Subspace
from jaxscape.trees import automatic, is_traced, owned, working
from jaxscape.types import Batch, InputError, Params, PerSampleLoss, Scalar


class Quadratic(NamedTuple):
    """ℓ_i(w(θ)) ≈ c_i + g_iᵀθ + ½ θᵀH_iθ for each of n samples, in the order of the data.

    The value c_i = ℓ_i(w*), the gradient g_i = Vᵀ∇ℓ_i(w*), the Hessian H_i = Vᵀ∇²ℓ_i(w*)V.
    """

    value: Float[Array, "n"]
    gradient: Float[Array, "n d"]
    hessian: Float[Array, "n d d"]


class QuadraticDelta(NamedTuple):
    """Δ_k of the quadratic model for θ ~ N(0, σ²I) and k = 1..n−1, in parts.

    Δ_k = total = offset + mixed + gradient + curvature, which are a² + σ² a tr A + σ²‖b‖² +
    (σ⁴/4)(2‖A‖²_F + (tr A)²). a, b, A are the increments at k of the prefix means of c, g, H.
    σ ``[s]`` puts an axis s first.
    """

    offset: Float[Array, "*s n-1"]
    mixed: Float[Array, "*s n-1"]
    gradient: Float[Array, "*s n-1"]
    curvature: Float[Array, "*s n-1"]
    """Alone Theorem 1 of Nikitin et al. 2025."""
    total: Float[Array, "*s n-1"]
    centered: Float[Array, "*s n-1"]
    """Δ̃_k = σ²‖b‖² + (σ⁴/2)‖A‖²_F."""
    diagonal: Float[Array, "*s n-1"]
    """Curvature with A replaced by its diagonal, as the paper's code has it."""


@explained
def project(
    loss: PerSampleLoss,
    space: Subspace,
    data: Batch,
    *,
    batch_size: int | None = None,
    mesh: Mesh | None = None,
) -> Quadratic:
    """Value, gradient and Hessian in the subspace of every sample's loss at its origin.

    One compiled pass, layer by layer (``layers``). Forward over forward is slower. It serves a loss
    that takes its samples only together or knows no reverse mode, and one of more than an eighth as
    many parameters outside of products as in them, for which those of a loop (``scan``) or of
    ``jax.checkpoint`` count. A loss that knows no forward mode either goes twice through reverse
    mode. Matrix products run at the highest precision.

    Args:
        loss, data, mesh: As for ``hessian_operator``, with its errors; no batches.
        batch_size: Samples at a time; by default d derivatives of their activations stay within a
            CPU's cache.
        space: w(θ) = w* + Σ_j θ_j v_j, of d directions.

    Example:
        >>> import jax.numpy as jnp, jaxscape as js
        >>> loss = lambda w, batch: 0.5 * (batch["x"] @ w - batch["y"]) ** 2  # its own model
        >>> data = {"x": jnp.array([[1.0, 0.0], [3.0, 4.0]]), "y": jnp.array([2.0, 0.0])}
        >>> model = js.project(loss, js.Subspace(jnp.zeros(2), jnp.eye(2)), data)
        >>> model.value.tolist(), model.hessian[1].tolist()
        ([2.0, 0.0], [[9.0, 12.0], [12.0, 16.0]])
        >>> law = js.quadratic_delta(model, sigma=0.5)      # of Δ_1, the only one here
        >>> float(law.offset[0]), float(law.gradient[0]), float(law.total[0])
        (1.0, 0.25, 5.25)
    """
    data, mesh = automatic((data, mesh))
    n, loss = losses.ready(loss, space.origin, data)
    if batch_size is None:  # samples that see each other are those that do in a sweep
        batch_size = batching.batch_size(loss, space.origin, data)
        batch_size = max(1, batch_size // (1 if losses.are_coupled(loss) else space.dim))
    batching.cut(n, batch_size)
    run = _fastest(batch_size, loss, space, data)
    if mesh is None:
        return run(loss, space, owned(data))
    loss, space = devices.place((loss, space), mesh)
    found = devices.local(run(loss, space, devices.share(data, mesh), mesh=mesh))
    return jax.tree.map(lambda rows: rows[:n], found)


def _fastest(batch_size: int, *given: Any) -> Callable[..., Quadratic]:
    """The projection by the first of ``WAYS`` that serves the loss."""
    layerwise, *others = [functools.partial(_project, batch_size=batch_size, way=x) for x in WAYS]
    with contextlib.suppress(Exception):  # the loss's own errors come with the other ways
        jax.eval_shape(layerwise, *given)
        return layerwise
    return others[0] if losses.has_forward_mode(others[0], *given) else others[1]


@functools.partial(jax.jit, static_argnames=("batch_size", "way", "mesh"))
def _project(loss, space, data, *, batch_size, way, mesh: Mesh | None = None) -> Quadratic:
    if mesh is not None:  # each device's own samples, then all of them on every device
        each, parts = PartitionSpec(), PartitionSpec(mesh.axis_names)
        own = functools.partial(_project, batch_size=batch_size, way=way)
        specs: dict[str, Any] = {"in_specs": (each, each, parts), "out_specs": parts}
        rows = jax.shard_map(own, mesh=mesh, check_vma=False, **specs)(loss, space, data)
        return jax.lax.with_sharding_constraint(rows, NamedSharding(mesh, each))
    origin = working(space.origin)
    basis = jax.tree.map(lambda v, w: v.astype(w.dtype), space.basis, origin)
    # beside the last axis, where a product with all directions is one with a matrix as it lies
    aside = jax.tree.map(lambda v: jnp.moveaxis(v, 0, max(-2, -v.ndim)), basis)

    def chunk(batch: Batch) -> Quadratic:
        basis = jax.tree.map(lambda v: jnp.moveaxis(v, max(-2, -v.ndim), 0), aside)
        return way(loss, Subspace(origin, basis), batch)

    with jax.default_matmul_precision("highest"):
        return batching.in_chunks(chunk, data, batch_size)


def _forward(loss, space: Subspace, batch: Batch, forward: bool = True) -> Quadratic:
    """Forward over forward: all pairs of directions share activations and first derivatives."""

    def along(function: Callable, w: Params, v: Params) -> Float[Array, "b"]:
        if forward:
            return jax.jvp(function, (w,), (v,))[1]
        value, pull = jax.vjp(function, w)
        return jax.vjp(lambda u: pull(u)[0], jnp.zeros_like(value))[1](v)[0]

    def slope(w: Params, v: Params) -> Float[Array, "b"]:
        return along(lambda w: loss(w, batch), w, v)

    def hessian_times(v: Params) -> Float[Array, "d b"]:
        return jax.vmap(lambda u: along(lambda w: slope(w, v), space.origin, u))(space.basis)

    rows = jax.vmap(hessian_times)(space.basis)
    gradient = jax.vmap(lambda v: slope(space.origin, v), out_axes=1)(space.basis)
    hessian = jnp.moveaxis((rows + rows.swapaxes(0, 1)) / 2, -1, 0)
    return Quadratic(loss(space.origin, batch), gradient, hessian)


def _by_layers(loss, space: Subspace, batch: Batch) -> Quadratic:
    """The same layer by layer, of each sample alone; ``ValueError`` where that cannot be."""

    def of(sample: Batch) -> Quadratic:
        one = jax.tree.map(lambda x: x[None], sample)
        if losses.are_coupled(loss) or jax.eval_shape(loss, space.origin, one).shape != (1,):
            raise ValueError("a loss of samples that are taken together")
        return Quadratic(*layers.derivatives(loss, space, one))

    return jax.vmap(of)(batch)


# The last, without forward mode, transposes gradients to have the derivative along v.
WAYS = _by_layers, _forward, functools.partial(_forward, forward=False)


@explained
def quadratic_delta(model: Quadratic, sigma: Real[ArrayLike, "*s"]) -> QuadraticDelta:
    """Δ_k under the quadratic model, exactly, for every k and each ``sigma``.

    ``QuadraticDelta`` has the formula. It holds close to w*: compare it with ``delta`` before
    believing it. A sigma below 0 or not finite is an ``InputError``, unless under ``jit``.
    """
    if not is_traced(sigma) and not np.all(np.isfinite(given := np.asarray(sigma)) & (given >= 0)):
        found = given.tolist()
        raise InputError(f"expected a finite sigma of at least 0, found {found}; change it")
    dtype = model.value.dtype
    whole = advance(begin(model.gradient.shape[1], dtype), model, jnp.asarray(sigma, dtype))[1]
    return jax.tree.map(lambda part: part[..., 1:], whole)


def begin(dim: int, dtype=jnp.float32) -> prefix.Prefix:
    """The prefix means of value, gradient and Hessian before the first sample."""
    return prefix.start(1 + dim + dim * (dim + 1) // 2, dtype)


@jax.jit
def advance(
    before: prefix.Prefix, model: Quadratic, sigma: Float[Array, "*s"], skip: Scalar = 0
) -> tuple[prefix.Prefix, QuadraticDelta]:
    """Carry the law on over n further samples, of which the first ``skip`` have been met already.

    Entry i of the law's parts ``[*s, n]`` is of the k samples before sample i.
    """
    n, d = model.gradient.shape
    row, column = np.triu_indices(d)
    columns = [model.value[:, None], model.gradient, model.hessian[:, row, column]]
    values, own, s = jnp.concatenate(columns, 1).T, row == column, sigma[..., None]
    after, steps = prefix.extend(before, values, jnp.arange(n) >= skip)
    a, b, entries = jnp.split(steps.increment, [1, d + 1])  # of A its upper triangle
    diagonal = entries[own]
    trace = diagonal.sum(0)
    frobenius = jnp.sum(np.where(own[:, None], 1, 2) * entries**2, 0)
    offset = jnp.broadcast_to(a[0] ** 2, jnp.broadcast_shapes(s.shape, (n,)))
    mixed, gradient = s**2 * a[0] * trace, s**2 * (b**2).sum(0)
    curvature = s**4 / 4 * (2 * frobenius + trace**2)
    total = offset + mixed + gradient + curvature
    centered = gradient + s**4 / 2 * frobenius
    diagonal = s**4 / 4 * (2 * (diagonal**2).sum(0) + trace**2)
    return after, QuadraticDelta(offset, mixed, gradient, curvature, total, centered, diagonal)
