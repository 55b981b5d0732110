"""The Hessian and the Gauss-Newton matrix of a mean loss, as operators on pytrees."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Int

from jaxscape import devices, losses
from jaxscape.arguments import explained
from jaxscape.batching import (
    are_batches,
    check_eager,
    cut,
    first_of,
    in_chunks,
    length_of,
    segments,
    taker,
)
from jaxscape.trees import check_floating, check_like, is_traced, owned, working
from jaxscape.types import Batch, InputError, Matvec, Params, PerSampleLoss, Scalar


@explained
def hessian_operator(
    loss: PerSampleLoss,
    params: Params,
    data: Batch,
    *,
    batch_size: int = 1000,
    count: int | Int[Array, ""] | None = None,
    weight_decay: Scalar = 0.0,
    mesh: Mesh | None = None,
) -> Matvec:
    """The Hessian of the mean loss over all of ``data``, or its first ``count`` samples.

    H_k v = (1/k) Σ_{i≤k} ∇²ℓ_i(w) v at w = ``params``, forward over reverse (Pearlmutter 1994,
    "Fast exact multiplication by the Hessian"), with matrix products at the highest precision;
    reverse over reverse where a loss (``jax.custom_vjp``) knows no forward mode. The operator is a
    pytree, compiled once for each ``loss`` and set of shapes.

    Data larger than the device are given as batches that can be read again. Each product then
    reads them on the host, the next one while the device works, and so do ``top_eigenpairs``,
    ``spectral_density`` and ``trace``. No such operator can be used under ``jit``.

    Args:
        loss: ``loss(params, batch) -> [n]``, one value per sample.
        params: w, a pytree of floating-point arrays.
        data: n samples, a pytree of arrays with a common leading axis; or batches of such arrays,
            the same in each pass: a list, a loader, a function that returns an iterator.
        batch_size: Samples per chunk. A product costs ⌈k/batch_size⌉ chunks. Shorter batches are
            filled up to the longest, whose length makes the chunks.
        count: k, by default n. It may be traced: one program serves every k.
        weight_decay: λ of a term (λ/2)‖w‖² beside the mean loss, which adds λ v.
        mesh: All its devices (``devices.mesh``) share the samples; one exchange of P numbers ends
            a product.

    Raises:
        InputError: ``loss`` does not return ``[n]``, parameters that are not floating point,
            samples without a common axis, ``batch_size`` below 1, a ``count`` outside 1..n, or a
            vector of another shape; batches that one pass uses up, or of another n in a later pass.

    Example:
        >>> import jax.numpy as jnp
        >>> loss = lambda w, batch: 0.5 * (batch["x"] @ w - batch["y"]) ** 2
        >>> data = {"x": jnp.array([[1.0, 0.0], [1.0, 2.0]]), "y": jnp.zeros(2)}
        >>> hessian = hessian_operator(loss, jnp.zeros(2), data)    # (1/n) Σ x xᵀ
        >>> hessian(jnp.array([1.0, 0.0]))
        Array([1., 1.], dtype=float32)

        Layer by layer, with the others held still:

        >>> import jax, jaxscape as js
        >>> params = {"first": jnp.ones((2, 3)), "last": jnp.ones(3)}
        >>> def of_part(rest, part, batch):
        ...     w = js.combine(part, rest)
        ...     return 0.5 * (batch["x"] @ w["first"] @ w["last"] - batch["y"]) ** 2
        >>> for name in params:
        ...     part, rest = js.partition(params, {other: other == name for other in params})
        ...     operator = hessian_operator(Partial(of_part, rest), part, data)
        ...     print(name, js.top_eigenpairs(jax.random.key(0), operator, part, 1).values.round(2))
        first [7.85]
        last [15.]
    """
    check_floating(params)
    few = first_of(data)
    n, bound = losses.ready(loss, params, few)
    w, fresh = jax.eval_shape(working, params), jax.ShapeDtypeStruct((n,), bool)
    forward = losses.has_forward_mode(_hessian_chunk, bound, w, few, fresh, w)
    chunk = Partial(_hessian_chunk if forward else _reverse_chunk, bound)
    return _build(n, chunk, params, data, batch_size, count, mesh, weight_decay)


@explained
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
    """The generalised Gauss-Newton matrix of the mean loss, as an operator.

    G_k v = (1/k) Σ_{i≤k} J_iᵀ H_i J_i v, with f = ``model(params, batch)`` of leading axis n, J_i
    the Jacobian of f_i and H_i the Hessian of ℓ_i = ``output_loss(f, batch)[i]`` in f_i
    (Schraudolph 2002, "Fast curvature matrix-vector products", section 3). It equals the Hessian
    where f is linear in the parameters, and is positive semidefinite where ℓ_i is convex in f_i.

    Args:
        model: ``model(params, batch)``, outputs f with a leading axis of n samples.
        output_loss: ``output_loss(f, batch) -> [n]``.
        params, data, batch_size, count, mesh: As for ``hessian_operator``.

    Raises:
        InputError: as ``hessian_operator`` does.
    """

    def loss(weights: Params, batch: Batch) -> Float[Array, "n"]:
        return output_loss(model(weights, batch), batch)

    check_floating(params)
    few = first_of(data)
    n, _ = losses.ready(loss, params, few)
    own, outputs = losses.bind(model, working(params), few)
    held = own, losses.bind(output_loss, outputs, few)[0]
    w, fresh = jax.eval_shape(working, params), jax.ShapeDtypeStruct((n,), bool)
    forward = losses.has_forward_mode(_ggn_chunk, *held, w, few, fresh, w)
    chunk = Partial(_ggn_chunk if forward else _reverse_ggn_chunk, *held)
    return _build(n, chunk, params, data, batch_size, count, mesh)


def _gradient(loss: PerSampleLoss, batch: Batch, fresh: Bool[Array, "b"]) -> Callable:
    """Σ_i ∇ℓ_i over the fresh samples of one chunk, as a function of the parameters."""
    return jax.grad(lambda params: jnp.sum(loss(params, batch), where=fresh))


def _hessian_chunk(loss, params: Params, batch: Batch, fresh: Array, vector: Params) -> Params:
    """Σ_i ∇²ℓ_i(w) v over the fresh samples of one chunk: the derivative of ∇Σℓ_i along v."""
    return jax.jvp(_gradient(loss, batch, fresh), (params,), (vector,))[1]


def _reverse_chunk(loss, params: Params, batch: Batch, fresh: Array, vector: Params) -> Params:
    """The same as ``_hessian_chunk``, as the gradient of ⟨∇Σℓ_i, v⟩."""
    return jax.vjp(_gradient(loss, batch, fresh), params)[1](vector)[0]


def nonfinite_samples(operator: "MeanOperator | OverBatches") -> Int[np.ndarray, "bad"]:
    """Positions of the samples whose loss at the operator's parameters is NaN or infinite."""

    def bad(part: MeanOperator) -> np.ndarray:
        at = functools.partial(part.chunk.args[0], part.params)
        return ~np.isfinite(in_chunks(at, part.data, part.batch_size)[: part.count])

    parts = operator.parts() if isinstance(operator, OverBatches) else [operator]
    return np.flatnonzero(np.concatenate([bad(part) for part in parts]))


def _ggn_chunk(model, output_loss, params: Params, batch: Batch, fresh: Array, vector: Params):
    """Σ_i J_iᵀ H_i J_i v over the fresh samples of one chunk."""
    outputs, push = jax.linearize(lambda params: model(params, batch), params)
    curved = _hessian_chunk(output_loss, outputs, batch, fresh, push(vector))
    return jax.linear_transpose(push, params)(curved)[0]


def _reverse_ggn_chunk(model, output_loss, params, batch: Batch, fresh: Array, vector: Params):
    """The same of a model without forward mode: Jv is the transpose of u → Jᵀu."""
    outputs, pull = jax.vjp(lambda params: model(params, batch), params)
    pushed = jax.vjp(lambda u: pull(u)[0], jax.tree.map(jnp.zeros_like, outputs))[1](vector)[0]
    return pull(_reverse_chunk(output_loss, outputs, batch, fresh, pushed))[0]


# All arrays are leaves, so ``jit`` takes them as arguments: no data set ends up as a constant of a
# compiled program, and one program serves every operator with the same functions.
@jax.tree_util.register_dataclass
@no_type_check  # JAX rebuilds pytrees with anything in place of their arrays
@dataclass(frozen=True, eq=False)
class MeanOperator:
    """The mean over the first ``count`` samples of what ``chunk`` sums over a few of them."""

    params: Params
    count: Int[Array, ""]
    weight_decay: Float[Array, ""]
    chunk: Partial
    data: Batch
    batch_size: int = field(metadata={"static": True})
    mesh: Mesh | None = field(metadata={"static": True})

    def __call__(self, vector: Params) -> Params:
        """The product with ``vector``, a pytree shaped like the parameters."""
        product = _apply(self, self.taken(vector))
        return product if self.mesh is None else devices.local(product)

    def taken(self, vector: Params) -> Params:
        """The vector, checked, in the types and on the devices of the parameters."""
        check_like(vector, self.params)
        vector = jax.tree.map(lambda leaf, own: jnp.asarray(leaf, own.dtype), vector, self.params)
        return vector if self.mesh is None else devices.place(vector, self.mesh)


@dataclass(frozen=True, eq=False)
class OverBatches:
    """The same over batches, which each product reads anew on the host: nothing for ``jit``."""

    mean: MeanOperator
    """Without data, ``count`` and ``weight_decay`` those of all batches."""
    batches: Any
    length: int
    """Samples of the longest batch."""
    num: int
    """Samples of all batches."""

    def __call__(self, vector: Params) -> Params:
        """The product with ``vector``, a pytree shaped like the parameters."""
        check_eager()
        vector = self.mean.taken(vector)
        total = jax.tree.map(jnp.zeros_like, vector)
        for part in self.parts():  # two batches at a time: one at work, one being read
            total = _add(jax.block_until_ready(total), part, vector)
        product = _mean(self.mean, total, vector)
        return product if self.mean.mesh is None else devices.local(product)

    def parts(self) -> Iterator[MeanOperator]:
        """The operator of each batch, filled up to ``length``, its ``count`` that of own samples.

        Raises:
            InputError: another number of samples than in the first pass.
        """
        seen, mesh = 0, self.mean.mesh
        for batch in segments(self.batches):
            here = length_of(batch)
            if here < self.length:
                batch = _filled(batch, here, self.length)
            batch = batch if mesh is None else devices.share(batch, mesh)
            own = jnp.clip(self.mean.count - seen, 0, here)
            yield replace(self.mean, data=batch, count=own)
            seen += here
        if seen != self.num:
            raise InputError(
                f"expected the same {self.num} samples in every pass over the batches, found "
                f"{seen}; keep the data still, and let a function return a new iterator each time"
            )


def _filled(batch: Batch, here: int, length: int) -> Batch:
    """The batch with its last sample repeated: by NumPy, as JAX compiles for every length."""
    rows = np.minimum(np.arange(length), here - 1)
    plain = lambda x: not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    return jax.tree.map(lambda x: jnp.asarray(np.asarray(x)[rows]) if plain(x) else x[rows], batch)


def _build(n, chunk, params, data, batch_size, count, mesh, weight_decay=0.0) -> Matvec:
    """The operator, once its arguments are checked, with its arrays where they are needed."""
    lengths = list(map(length_of, segments(data))) if are_batches(data) else [n]
    if not lengths:
        raise InputError(
            "expected batches in every pass, found none in the second; let a function return a new "
            "iterator each time"
        )
    n = sum(lengths)
    cut(n, batch_size)
    if count is not None and not isinstance(count, jax.core.Tracer) and not 1 <= count <= n:
        raise InputError(f"expected a count from 1 to {n} (the samples), found {count}; change it")
    if not is_traced(weight_decay) and not np.isfinite(weight_decay):
        raise InputError(f"expected a finite weight_decay, found {weight_decay}; change it")
    first = jnp.asarray(n if count is None else count, jnp.int32)
    decay = jnp.asarray(weight_decay, jnp.result_type(float))
    params = jax.tree.map(jnp.asarray, working(owned(params)))
    held = params, first, decay, chunk
    if mesh is not None:
        held = devices.place(held, mesh)
    if are_batches(data):
        return OverBatches(MeanOperator(*held, None, batch_size, mesh), data, max(lengths), n)
    data = jax.tree.map(jnp.asarray, owned(data)) if mesh is None else devices.share(data, mesh)
    return MeanOperator(*held, data, batch_size, mesh)


@jax.jit
def _apply(operator: MeanOperator, vector: Params) -> Params:
    """The sum over the first k samples, divided by k once."""
    return _mean(operator, _total(operator, vector), vector)


@jax.jit
def _add(total: Params, operator: MeanOperator, vector: Params) -> Params:
    return jax.tree.map(jnp.add, total, _total(operator, vector))


def _total(operator: MeanOperator, vector: Params) -> Params:
    k, mesh = operator.count, operator.mesh
    return _sum(operator, vector, k) if mesh is None else _sum_of_all(operator, vector, mesh)


def _mean(operator: MeanOperator, total: Params, vector: Params) -> Params:
    k, decay = operator.count, operator.weight_decay
    mean = lambda x, v: x / k.astype(x.dtype) + decay.astype(v.dtype) * v  # noqa: E731
    return jax.tree.map(mean, total, vector)


def _sum_of_all(operator: MeanOperator, vector: Params, mesh: Mesh) -> Params:
    """The sum over the first k of the samples that all devices share."""
    each, axes = PartitionSpec(), mesh.axis_names
    held = replace(jax.tree.map(lambda _: each, operator), data=PartitionSpec(axes))

    def part(operator: MeanOperator, vector: Params) -> Params:
        here = length_of(operator.data)
        ahead = here * jax.lax.axis_index(axes)
        own = jnp.clip(operator.count - ahead, 0, here)
        return jax.lax.psum(_sum(operator, vector, own), axes)

    specs: dict[str, Any] = {"in_specs": (held, each), "out_specs": each, "check_vma": False}
    return jax.shard_map(part, mesh=mesh, **specs)(operator, vector)


def _sum(operator: MeanOperator, vector: Params, count: Int[Array, ""]) -> Params:
    """The products of the chunks that hold the first ``count`` samples, summed."""
    chunks = cut(length_of(operator.data), operator.batch_size)
    starts, fresh, take = jnp.asarray(chunks.starts), chunks.computed()[1], taker(operator.data)

    def add(index: Int[Array, ""], total: Params) -> Params:
        start = starts[index]
        counted = fresh[index] & (start + jnp.arange(chunks.size) < count)
        batch = take(start, chunks.size)
        product = operator.chunk(operator.params, batch, counted, vector)
        return jax.tree.map(jnp.add, total, product)

    with jax.default_matmul_precision("highest"):
        zeros = jax.tree.map(jnp.zeros_like, operator.params)
        needed = (count + chunks.size - 1) // chunks.size
        return jax.lax.fori_loop(0, needed, add, zeros)
