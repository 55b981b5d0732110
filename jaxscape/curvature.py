"""The Hessian and the Gauss-Newton matrix of a mean loss, as operators on pytrees."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int, UInt32

from jaxscape import batching, devices, losses
from jaxscape.arguments import explained
from jaxscape.batching import are_batches, length_of, segments
from jaxscape.trees import automatic, check_floating, check_like, is_key, is_traced, owned, working
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
    "Fast exact multiplication by the Hessian"), or reverse over reverse where a loss
    (``jax.custom_vjp``) knows no forward mode; matrix products at the highest precision. The
    operator is a pytree, compiled once for each ``loss`` and set of shapes.

    Batches that can be read again serve for data larger than the device. Each product then reads
    them on the host, the next one while the device works: not under ``jit``.

    Args:
        loss: ``loss(params, batch) -> [n]``, one value per sample.
        params: w, a pytree of floating-point arrays.
        data: n samples, a pytree of arrays with a common leading axis; or batches of such arrays,
            the same in each pass: a list, a loader, a function that returns an iterator. A list
            of bare arrays of one length is one batch.
        batch_size: Samples per chunk. A product costs ⌈k/batch_size⌉ chunks. Shorter batches are
            filled up to the longest, whose length makes the chunks.
        count: k, by default n. It may be traced: one program serves every k.
        weight_decay: λ of a term (λ/2)‖w‖² beside the mean loss, which adds λ v.
        mesh: Its devices (``devices.mesh``) share the samples, and exchange P numbers a product.

    Raises:
        InputError: ``loss`` does not return ``[n]``, parameters that are not floating point,
            samples without a common axis, ``batch_size`` below 1, a ``count`` outside 1..n, or a
            vector of another shape; batches that one pass uses up, or of other samples in a later
            pass (their order may change, unless a ``count`` is given).

    Example:
        >>> import jax.numpy as jnp
        >>> loss = lambda w, batch: 0.5 * (batch["x"] @ w - batch["y"]) ** 2
        >>> data = {"x": jnp.array([[1.0, 0.0], [1.0, 2.0]]), "y": jnp.zeros(2)}
        >>> hessian = hessian_operator(loss, jnp.zeros(2), data)    # (1/n) Σ x xᵀ
        >>> hessian(jnp.array([1.0, 0.0]))
        Array([1., 1.], dtype=float32)
    """
    params, data, mesh = automatic((params, data, mesh))
    check_floating(params)
    few = batching.first_of(data)
    chunk = Partial(_hessian_chunk, losses.ready(loss, params, few)[1])
    return _build(chunk, few, params, data, batch_size, count, mesh, weight_decay)


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
        params, data, batch_size, count, mesh: As for ``hessian_operator``, with its errors.
    """

    def loss(weights: Params, batch: Batch) -> Float[Array, "n"]:
        return output_loss(model(weights, batch), batch)

    params, data, mesh = automatic((params, data, mesh))
    check_floating(params)
    few = batching.first_of(data)
    losses.ready(loss, params, few)
    own, outputs = losses.bind(model, working(params), few)
    chunk = Partial(_ggn_chunk, own, losses.bind(output_loss, outputs, few)[0])
    return _build(chunk, few, params, data, batch_size, count, mesh)


def _hessian_chunk(loss, params, batch: Batch, fresh: Array, vector, forward=True) -> Params:
    """Σ_i ∇²ℓ_i(w) v over the fresh samples: the derivative of ∇Σℓ_i along v, or of ⟨∇Σℓ_i, v⟩."""
    gradient = jax.grad(lambda params: jnp.sum(loss(params, batch), where=fresh))
    if forward:
        return jax.jvp(gradient, (params,), (vector,))[1]
    return jax.vjp(gradient, params)[1](vector)[0]


def _ggn_chunk(model, output_loss, params, batch: Batch, fresh: Array, vector, forward=True):
    """Σ_i J_iᵀ H_i J_i v over the fresh samples; without forward mode Jv transposes u → Jᵀu."""
    if forward:
        outputs, push = jax.linearize(lambda params: model(params, batch), params)
        pushed, pull = push(vector), jax.linear_transpose(push, params)
    else:
        outputs, pull = jax.vjp(lambda params: model(params, batch), params)
        zeros = jax.tree.map(jnp.zeros_like, outputs)
        pushed = jax.vjp(lambda u: pull(u)[0], zeros)[1](vector)[0]
    return pull(_hessian_chunk(output_loss, outputs, batch, fresh, pushed, forward))[0]


KEPT = 2**30  # bytes that many products of an operator may share, beside the data


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
    forward: bool = field(metadata={"static": True})
    linearise: bool = field(metadata={"static": True})  # see ``linearised``
    mesh: Mesh | None = field(metadata={"static": True})

    def __call__(self, vector: Params) -> Params:
        """The product with ``vector``, a pytree shaped like the parameters."""
        return self.product(vector, lambda vector: _total(self, vector))

    def product(self, vector: Params, total: Callable[[Params], Params]) -> Params:
        """The product, from ``total(vector)`` over the first k samples, divided by k once."""
        check_like(vector, self.params)
        given = vector
        like = lambda leaf, own: jnp.asarray(leaf, own.dtype)  # noqa: E731
        vector = jax.tree.map(like, owned(vector), self.params)
        vector = vector if self.mesh is None else devices.place(vector, self.mesh)
        k, decay = self.count, self.weight_decay
        mean = lambda x, v: x / k.astype(x.dtype) + decay.astype(v.dtype) * v  # noqa: E731
        found = jax.tree.map(mean, total(vector), vector)
        found = found if self.mesh is None else devices.local(found)
        return jax.tree.map(devices.beside, found, given)


@dataclass(frozen=True, eq=False)
class OverBatches:
    """The same over batches, which each product reads anew on the host: nothing for ``jit``."""

    mean: MeanOperator  # without data, ``count`` and ``weight_decay`` those of all batches
    batches: Any
    length: int  # samples of the longest batch
    num: int  # samples of all batches
    digest: int  # of the samples that count, see ``_digest``

    def __call__(self, vector: Params) -> Params:
        """The product with ``vector``, a pytree shaped like the parameters."""
        batching.check_eager()
        return self.mean.product(vector, self.total)

    def total(self, vector: Params) -> Params:
        """The sum over the batches, two at a time: one at work, one being read."""
        total, digests = jax.tree.map(jnp.zeros_like, vector), []
        for part in self.parts():
            jax.block_until_ready(total)
            total = jax.tree.map(jnp.add, total, _total(part, vector))
            digests.append(_digest(part.data, part.count))
        if _sum_of(digests) != self.digest:
            said = "expected the same samples in every pass over the batches, found others"
            now = "leave out drop_last, changes at random (features computed anew in another order "
            now += "are some), and shuffling where count is given"
            raise InputError(f"{said}; {now}")
        return total

    def parts(self) -> Iterator[MeanOperator]:
        """The operator of each batch, filled up to ``length``, ``count`` its own samples."""
        seen, mesh = 0, self.mean.mesh
        for batch in segments(self.batches):
            here = length_of(batch)
            if here < self.length:
                batch = _filled(batch, np.minimum(np.arange(self.length), here - 1))
            batch = batch if mesh is None else devices.share(batch, mesh)
            yield replace(self.mean, data=batch, count=jnp.clip(self.mean.count - seen, 0, here))
            seen += here
        if seen != self.num:
            said = f"expected the same {self.num} samples in every pass over the batches, found"
            now = "keep the data still, and let a function return a new iterator each time"
            raise InputError(f"{said} {seen}; {now}")


@jax.jit
def _digest(data: Batch, count: Int[Array, ""]) -> UInt32[Array, ""]:
    """A number that the first samples give in any order, and others hardly."""
    rows = jnp.zeros(length_of(data), jnp.uint32)
    for leaf in jax.tree.leaves(data):
        x = jax.random.key_data(leaf) if is_key(leaf) else leaf
        x = jnp.stack([x.real, x.imag], -1) if jnp.iscomplexobj(x) else x
        if jnp.issubdtype(x.dtype, jnp.floating):  # of 32 bits at least, without a sign of 0
            x = jnp.where(x == 0, 0, x.astype(jnp.promote_types(x.dtype, jnp.float32)))
        if x.dtype.itemsize >= 4:
            x = jax.lax.bitcast_convert_type(x, jnp.uint32)
        x = x.astype(jnp.uint32).reshape(len(rows), -1)
        odd = (2 * jnp.arange(x.shape[1], dtype=jnp.uint32) + 1) * jnp.uint32(0x9E3779B1)
        x = ((x ^ (x >> 16)) + odd) * jnp.uint32(0x85EBCA6B)
        x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
        rows = (rows ^ (rows >> 15)) * jnp.uint32(0x85EBCA6B) + jnp.sum((x ^ (x >> 16)) * odd, 1)
    rows = (rows ^ (rows >> 15)) * jnp.uint32(0xC2B2AE35)
    return jnp.sum(jnp.where(jnp.arange(len(rows)) < count, rows, 0))


def _sum_of(digests: list[Array]) -> int:
    return sum(int(x.addressable_data(0)) for x in digests) % 2**32


def _filled(batch: Batch, rows: Int[np.ndarray, "b"]) -> Batch:
    """The rows of the batch: by NumPy, as JAX compiles for every length."""
    return jax.tree.map(lambda x: x[rows] if is_key(x) else jnp.asarray(np.asarray(x)[rows]), batch)


def why_not_finite(operator: MeanOperator | OverBatches) -> str:
    """What is found where products are not finite: samples whose loss is not, or derivatives."""
    found = []
    for part in operator.parts() if isinstance(operator, OverBatches) else [operator]:
        at = Partial(part.chunk.args[0], part.params)
        found.append(batching.in_chunks(at, part.data, part.batch_size)[: part.count])
    bad = np.flatnonzero(~np.isfinite(np.concatenate(found)))
    if not bad.size:
        return "finite losses: a derivative is not, such as that of a norm or a root at 0"
    names = ", ".join(map(str, bad[:5])) + (", ..." if bad.size > 5 else "")
    return f"a loss of NaN or infinity for {bad.size} samples (at positions {names})"


def _build(chunk, few, params, data, batch_size, count, mesh, weight_decay=0.0) -> Matvec:
    """The operator, once its arguments are checked, with its arrays where they are needed."""
    lengths, digests = list[int](), list[Array]()
    for batch in segments(data) if are_batches(data) else [few]:
        if are_batches(data):
            left = length_of(batch) if count is None else count - sum(lengths)
            digests.append(_digest(batch, jnp.asarray(left)))
        lengths.append(length_of(batch))
    if not lengths:
        said = "expected batches in every pass, found none in the second"
        raise InputError(f"{said}; let a function return a new iterator each time")
    n = sum(lengths)
    batching.cut(n, batch_size)
    if count is not None and not is_traced(count) and not 1 <= count <= n:
        raise InputError(f"expected a count from 1 to {n} (the samples), found {count}; change it")
    if not is_traced(weight_decay) and not np.isfinite(weight_decay):
        raise InputError(f"expected a finite weight_decay, found {weight_decay}; change it")
    w, fresh = jax.eval_shape(working, params), jax.ShapeDtypeStruct((length_of(few),), bool)
    forward = losses.has_forward_mode(chunk, w, few, fresh, w)
    first = jnp.asarray(n if count is None else count, jnp.int32)
    decay = jnp.asarray(weight_decay, jnp.result_type(float))
    held = jax.tree.map(jnp.asarray, working(owned(params))), first, decay, chunk
    places = (
        set() if is_traced(held) else set().union(*(x.devices() for x in jax.tree.leaves(held)))
    )
    linearise = mesh is None and [place.platform for place in places] == ["cpu"]
    options = batch_size, forward, linearise, mesh
    if mesh is not None:
        held = devices.place(held, mesh)
    if are_batches(data):
        mean = MeanOperator(*held, None, *options)
        return OverBatches(mean, data, max(lengths), n, _sum_of(digests))
    data = jax.tree.map(jnp.asarray, owned(data)) if mesh is None else devices.share(data, mesh)
    return MeanOperator(*held, data, *options)


@jax.jit
def _total(operator: MeanOperator, vector: Params) -> Params:
    """The sum over the first k samples, by all devices of a mesh together."""
    if operator.mesh is None:
        return _sum(operator, vector)
    each, axes = PartitionSpec(), operator.mesh.axis_names
    held = replace(jax.tree.map(lambda _: each, operator), data=PartitionSpec(axes))

    def part(operator: MeanOperator, vector: Params) -> Params:
        here = length_of(operator.data)
        own = jnp.clip(operator.count - here * jax.lax.axis_index(axes), 0, here)
        return jax.lax.psum(_sum(replace(operator, count=own), vector), axes)

    specs: dict[str, Any] = {"in_specs": (held, each), "out_specs": each, "check_vma": False}
    return jax.shard_map(part, mesh=operator.mesh, **specs)(operator, vector)


def _sum(operator: MeanOperator, vector: Params) -> Params:
    """The products of the chunks that hold the first ``count`` samples, summed."""
    needed, given = _chunks(operator)

    def add(index: Int[Array, ""], total: Params) -> Params:
        product = operator.chunk(*given(index), vector, operator.forward)
        return jax.tree.map(jnp.add, total, product)

    with jax.default_matmul_precision("highest"):
        return jax.lax.fori_loop(0, needed, add, jax.tree.map(jnp.zeros_like, operator.params))


def _chunks(operator: MeanOperator) -> tuple[Array, Callable]:
    """How many chunks hold the first ``count`` samples, and what the product of each is given."""
    chunks = batching.cut(length_of(operator.data), operator.batch_size)
    starts, fresh = jnp.asarray(chunks.starts), chunks.computed()[1]
    take = batching.taker(operator.data)

    def given(index: Int[Array, ""]) -> tuple[Params, Batch, Array]:
        start = starts[index]
        counted = fresh[index] & (start + jnp.arange(chunks.size) < operator.count)
        return operator.params, take(start, chunks.size), counted

    return (operator.count + chunks.size - 1) // chunks.size, given


def linearised(operator: Matvec) -> Matvec:
    """The same operator for many products in one program, which share what no vector changes.

    Each product of a network's Hessian takes a third less work, and reads what is kept of each
    sample: on a CPU the faster way, not where memory is slow beside arithmetic. An operator of
    which that is more than ``KEPT`` bytes stays as it is, and so does any other function.
    """
    if not (isinstance(operator, MeanOperator) and operator.linearise):
        return operator
    needed, given = _chunks(operator)
    shapes = jax.eval_shape(lambda index: _linear(operator, given(index)), jnp.int32(0))
    num = -(-length_of(operator.data) // operator.batch_size)
    if num * sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes)) > KEPT:
        return operator

    def put(index: Int[Array, ""], kept: list[Array]) -> list[Array]:
        own = jax.tree.leaves(_linear(operator, given(index)))
        return [x.at[index].set(y) for x, y in zip(kept, own, strict=True)]

    room = [jnp.zeros((num, *x.shape), x.dtype) for x in jax.tree.leaves(shapes)]
    kept = jax.lax.fori_loop(0, needed, put, room)

    def total(vector: Params) -> Params:
        def add(index: Int[Array, ""], total: Params) -> Params:
            product = shapes.func([x[index] for x in kept], (operator.chunk, given(index)))
            return jax.tree.map(jnp.add, total, product(vector))

        return jax.lax.fori_loop(0, needed, add, jax.tree.map(jnp.zeros_like, operator.params))

    return lambda vector: operator.product(vector, total)


def _linear(operator: MeanOperator, inputs: tuple) -> Partial:
    """What the products of a chunk share, but for arrays at hand anyway; with these the product."""
    zeros = jax.tree.map(jnp.zeros_like, operator.params)
    with jax.default_matmul_precision("highest"):
        chunk = lambda vector: operator.chunk(*inputs, vector, operator.forward)  # noqa: E731
        held, tree = jax.tree.flatten(jax.linearize(chunk, zeros)[1])
    known = {id(x): place for place, x in enumerate(jax.tree.leaves((operator.chunk, inputs)))}
    places = [known.get(id(x)) for x in held]

    def product(kept: list[Array], at_hand: tuple) -> Any:
        rest, own = iter(kept), jax.tree.leaves(at_hand)
        all_held: Any = [next(rest) if place is None else own[place] for place in places]
        return jax.tree.unflatten(tree, all_held)

    return Partial(product, [x for x in held if id(x) not in known])
