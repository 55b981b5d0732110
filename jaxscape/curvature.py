"""The Hessian and the Gauss-Newton matrix of a mean loss, as operators on pytrees.

``hessian_operator`` and ``ggn_operator`` build an operator; ``_apply`` sums its products over
chunks of samples, on one device or on each device of a mesh.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from jaxscape import devices, losses
from jaxscape.batching import cut, length_of, take
from jaxscape.trees import check_floating, check_like, working
from jaxscape.types import Batch, InputError, Matvec, Params, PerSampleLoss

static = {"static": True}


# Parameters, data and count are leaves, so ``jit`` takes them as arguments: no data set ends up as
# a constant of a compiled program, and one program serves every operator with the same functions.
# Functions are pytrees too (``losses.bind``).
@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Hessian:
    """v ↦ (1/k) Σ_{i≤k} ∇²ℓ_i(w) v; built by ``hessian_operator``."""

    params: Params
    data: Batch
    count: Int[Array, ""]
    loss: PerSampleLoss
    batch_size: int = field(metadata=static)
    mesh: Mesh | None = field(metadata=static)

    def __call__(self, vector: Params) -> Params:
        """The product with ``vector``, a pytree shaped like the parameters."""
        return _product(self, vector)

    def chunk(self, batch: Batch, fresh: Bool[Array, "n"], vector: Params) -> Params:
        """Σ_i ∇²ℓ_i(w) v over the fresh samples of one chunk: the derivative of ∇Σℓ_i along v."""

        def total(params: Params) -> Float[Array, ""]:
            return jnp.sum(self.loss(params, batch), where=fresh)

        return jax.jvp(jax.grad(total), (self.params,), (vector,))[1]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class GaussNewton:
    """v ↦ (1/k) Σ_{i≤k} J_iᵀ H_i J_i v; built by ``ggn_operator``."""

    params: Params
    data: Batch
    count: Int[Array, ""]
    model: Callable[[Params, Batch], Any]
    output_loss: Callable[[Any, Batch], Float[Array, "n"]]
    batch_size: int = field(metadata=static)
    mesh: Mesh | None = field(metadata=static)

    def __call__(self, vector: Params) -> Params:
        """The product with ``vector``, a pytree shaped like the parameters."""
        return _product(self, vector)

    def chunk(self, batch: Batch, fresh: Bool[Array, "n"], vector: Params) -> Params:
        """Σ_i J_iᵀ H_i J_i v over the fresh samples of one chunk."""

        def total(outputs: Any) -> Float[Array, ""]:
            return jnp.sum(self.output_loss(outputs, batch), where=fresh)

        outputs, push = jax.linearize(lambda params: self.model(params, batch), self.params)
        curved = jax.jvp(jax.grad(total), (outputs,), (push(vector),))[1]
        return jax.linear_transpose(push, self.params)(curved)[0]


def hessian_operator(
    loss: PerSampleLoss,
    params: Params,
    data: Batch,
    *,
    batch_size: int = 1000,
    count: int | Int[Array, ""] | None = None,
    mesh: Mesh | None = None,
) -> Matvec:
    """The Hessian of the mean loss over all of ``data``, or its first ``count`` samples.

    H_k v = (1/k) Σ_{i≤k} ∇²ℓ_i(w) v at w = ``params``, forward over reverse (Pearlmutter 1994,
    "Fast exact multiplication by the Hessian"), with matrix products at the highest precision.
    Every sample weighs 1/k, whether or not ``batch_size`` divides k. The operator is a pytree and
    works under ``jit``, ``vmap`` and in loops. It is compiled once for each ``loss`` (the same
    function object) and set of shapes.

    Args:
        loss: ``loss(params, batch) -> [n]``, one value per sample.
        params: w, a pytree of floating-point arrays.
        data: n samples, a pytree of arrays with a common leading axis.
        batch_size: samples per chunk. A product costs ⌈k/batch_size⌉ chunks.
        count: k, by default n. It may be traced: one program serves every k.
        mesh: all its devices (``devices.mesh``) share the samples. Each sums over its own that are
            among the first k, and one exchange of P numbers ends a product.

    Raises:
        InputError: ``loss`` does not return ``[n]``, parameters that are not floating point,
            samples without a common axis, ``batch_size`` below 1, a ``count`` outside 1..n, or a
            vector of another shape.

    Example:
        >>> import jax.numpy as jnp
        >>> def loss(w, batch):
        ...     return 0.5 * (batch["x"] @ w - batch["y"]) ** 2
        >>> data = {"x": jnp.array([[1.0, 0.0], [1.0, 2.0]]), "y": jnp.zeros(2)}
        >>> hessian = hessian_operator(loss, jnp.zeros(2), data)    # (1/n) Σ x xᵀ
        >>> hessian(jnp.array([1.0, 0.0]))
        Array([1., 1.], dtype=float32)
    """
    _validate(loss, params, data, batch_size, count)
    return _build(Hessian, (losses.bind(loss),), params, data, batch_size, count, mesh)


def ggn_operator(
    model: Callable[[Params, Batch], Any],
    output_loss: Callable[[Any, Batch], Float[Array, "n"]],
    params: Params,
    data: Batch,
    *,
    batch_size: int = 1000,
    count: int | Int[Array, ""] | None = None,
    mesh: Mesh | None = None,
) -> Matvec:
    """The generalised Gauss-Newton matrix of the mean loss over ``data``, as an operator.

    G_k v = (1/k) Σ_{i≤k} J_iᵀ H_i J_i v, with f = ``model(params, batch)`` of leading axis n, J_i
    the Jacobian of f_i and H_i the Hessian of ℓ_i = ``output_loss(f, batch)[i]`` in f_i
    (Schraudolph 2002, "Fast curvature matrix-vector products", section 3). It equals the Hessian
    where f is linear in the parameters, and is positive semidefinite where ℓ_i is convex in f_i.

    Args:
        model: ``model(params, batch)``, outputs f with a leading axis of n samples.
        output_loss: ``output_loss(f, batch) -> [n]``.
        params: as for ``hessian_operator``, like all further arguments.
        data: n samples.
        batch_size: samples per chunk.
        count: k, by default n.
        mesh: devices that share the samples.

    Raises:
        InputError: as ``hessian_operator`` does.
    """

    def loss(weights: Params, batch: Batch) -> Float[Array, "n"]:
        return output_loss(model(weights, batch), batch)

    _validate(loss, params, data, batch_size, count)
    functions = losses.bind(model), losses.bind(output_loss)
    return _build(GaussNewton, functions, params, data, batch_size, count, mesh)


def _validate(
    loss: PerSampleLoss,
    params: Params,
    data: Batch,
    batch_size: int,
    count: int | Int[Array, ""] | None,
) -> None:
    check_floating(params)
    n = losses.check(loss, params, data)
    cut(n, batch_size)
    if count is None or isinstance(count, jax.core.Tracer):
        return
    if not 1 <= count <= n:
        raise InputError(f"expected a count from 1 to {n} (the samples), found {count}; change it")


def _build(
    kind: Callable[..., Hessian | GaussNewton],
    functions: tuple[Callable, ...],
    params: Params,
    data: Batch,
    batch_size: int,
    count: int | Int[Array, ""] | None,
    mesh: Mesh | None,
) -> Hessian | GaussNewton:
    """The operator, with its arrays where they are needed."""
    first = jnp.asarray(length_of(data) if count is None else count, jnp.int32)
    params = jax.tree.map(jnp.asarray, working(params))
    if mesh is None:
        data = jax.tree.map(jnp.asarray, data)
    else:
        data = devices.share(data, mesh)
        params, first, functions = devices.place((params, first, functions), mesh)
    return kind(params, data, first, *functions, batch_size, mesh)


def _product(operator: Hessian | GaussNewton, vector: Params) -> Params:
    check_like(vector, operator.params)
    vector = jax.tree.map(lambda leaf, own: jnp.asarray(leaf, own.dtype), vector, operator.params)
    if operator.mesh is None:
        return _apply(operator, vector)
    return devices.local(_apply(operator, devices.place(vector, operator.mesh)))


@jax.jit
def _apply(operator: Hessian | GaussNewton, vector: Params) -> Params:
    """The sum over the first k samples, divided by k once."""
    mesh = operator.mesh
    if mesh is None:
        total = _sum(operator, vector, operator.count)
    else:
        each, axes = PartitionSpec(), mesh.axis_names
        held = replace(jax.tree.map(lambda _: each, operator), data=PartitionSpec(axes))

        def part(operator: Hessian | GaussNewton, vector: Params) -> Params:
            here = length_of(operator.data)
            ahead = here * jax.lax.axis_index(axes)
            total = _sum(operator, vector, jnp.clip(operator.count - ahead, 0, here))
            return jax.lax.psum(total, axes)

        total = jax.shard_map(
            part, mesh=mesh, in_specs=(held, each), out_specs=each, check_vma=False
        )(operator, vector)
    return jax.tree.map(lambda leaf: leaf / operator.count.astype(leaf.dtype), total)


def _sum(operator: Hessian | GaussNewton, vector: Params, count: Int[Array, ""]) -> Params:
    """The products of the chunks that hold the first ``count`` samples, summed."""
    chunks = cut(length_of(operator.data), operator.batch_size)
    starts, fresh = jnp.asarray(chunks.starts), jnp.asarray(chunks.fresh)

    def add(index: Int[Array, ""], total: Params) -> Params:
        start = starts[index]
        counted = fresh[index] & (start + jnp.arange(chunks.size) < count)
        product = operator.chunk(take(operator.data, start, chunks.size), counted, vector)
        return jax.tree.map(jnp.add, total, product)

    with jax.default_matmul_precision("highest"):
        zeros = jax.tree.map(jnp.zeros_like, operator.params)
        needed = (count + chunks.size - 1) // chunks.size
        return jax.lax.fori_loop(0, needed, add, zeros)
