"""The curvature of a mean of per-sample losses as operators on pytrees."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxscape import losses
from jaxscape.chunks import cut, length_of, take
from jaxscape.operators import check_floating, check_like, working
from jaxscape.types import Batch, InputError, Matvec, Params, PerSampleLoss

static = {"static": True}


# Parameters, data and count are leaves, so ``jit`` takes them as arguments: no data set ends up as
# a constant of a compiled program, and one program serves every operator with the same functions.
# Functions are pytrees too (``losses.bind``).
@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Hessian:
    """v ↦ (1/k) Σ_{i≤k} ∇²ℓ_i(w) v; built by ``hvp``."""

    params: Params
    data: Batch
    count: Int[Array, ""]
    loss: PerSampleLoss
    batch_size: int = field(metadata=static)

    def __call__(self, vector: Params) -> Params:
        """The product with ``vector``, a pytree shaped like the parameters."""
        return _apply(self, _like(vector, self.params))

    def chunk(self, batch: Batch, fresh: Bool[Array, "n"], vector: Params) -> Params:
        """Σ_i ∇²ℓ_i(w) v over the fresh samples of one chunk: the derivative of ∇Σℓ_i along v."""

        def total(params: Params) -> Float[Array, ""]:
            return jnp.sum(self.loss(params, batch), where=fresh)

        return jax.jvp(jax.grad(total), (self.params,), (vector,))[1]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class GaussNewton:
    """v ↦ (1/k) Σ_{i≤k} J_iᵀ H_i J_i v; built by ``ggn_vp``."""

    params: Params
    data: Batch
    count: Int[Array, ""]
    model: Callable[[Params, Batch], Any]
    output_loss: Callable[[Any, Batch], Float[Array, "n"]]
    batch_size: int = field(metadata=static)

    def __call__(self, vector: Params) -> Params:
        """The product with ``vector``, a pytree shaped like the parameters."""
        return _apply(self, _like(vector, self.params))

    def chunk(self, batch: Batch, fresh: Bool[Array, "n"], vector: Params) -> Params:
        """Σ_i J_iᵀ H_i J_i v over the fresh samples of one chunk."""

        def total(outputs: Any) -> Float[Array, ""]:
            return jnp.sum(self.output_loss(outputs, batch), where=fresh)

        outputs, push = jax.linearize(lambda params: self.model(params, batch), self.params)
        curved = jax.jvp(jax.grad(total), (outputs,), (push(vector),))[1]
        return jax.linear_transpose(push, self.params)(curved)[0]


def hvp(
    loss: PerSampleLoss,
    params: Params,
    data: Batch,
    *,
    batch_size: int = 1000,
    count: int | Int[Array, ""] | None = None,
) -> Matvec:
    """The Hessian of the mean loss over all of ``data``, or its first ``count`` samples.

    H_k v = (1/k) Σ_{i≤k} ∇²ℓ_i(w) v at w = ``params``, forward over reverse (Pearlmutter 1994,
    "Fast exact multiplication by the Hessian"), ``batch_size`` samples at a time with products at
    the highest precision. Every sample weighs 1/k, whether or not ``batch_size`` divides k. The
    operator is a pytree, works under ``jit``, ``vmap`` and in loops, and is compiled once for each
    ``loss`` (the same function object) and set of shapes: k may be traced, one program serves
    every k, and a product costs ⌈k/batch_size⌉ chunks.

    Raises:
        InputError: ``loss`` does not return ``[n]``, parameters that are not floating point,
            samples without a common axis, ``batch_size`` below 1, a ``count`` outside 1..n, or a
            vector of another shape.
    """
    params, data, count = _validate(loss, params, data, batch_size, count)
    return Hessian(params, data, count, losses.bind(loss), batch_size)


def ggn_vp(
    model: Callable[[Params, Batch], Any],
    output_loss: Callable[[Any, Batch], Float[Array, "n"]],
    params: Params,
    data: Batch,
    *,
    batch_size: int = 1000,
    count: int | Int[Array, ""] | None = None,
) -> Matvec:
    """The generalised Gauss-Newton matrix of the mean loss over ``data``, as an operator.

    G_k v = (1/k) Σ_{i≤k} J_iᵀ H_i J_i v, with f = ``model(params, batch)`` of leading axis n, J_i
    the Jacobian of f_i and H_i the Hessian of ℓ_i = ``output_loss(f, batch)[i]`` in f_i
    (Schraudolph 2002, "Fast curvature matrix-vector products", section 3). It equals the Hessian
    where f is linear in the parameters, and is positive semidefinite where ℓ_i is convex in f_i.
    Otherwise as ``hvp``.
    """

    def loss(weights: Params, batch: Batch) -> Float[Array, "n"]:
        return output_loss(model(weights, batch), batch)

    params, data, count = _validate(loss, params, data, batch_size, count)
    functions = losses.bind(model), losses.bind(output_loss)
    return GaussNewton(params, data, count, *functions, batch_size)


def _validate(
    loss: PerSampleLoss,
    params: Params,
    data: Batch,
    batch_size: int,
    count: int | Int[Array, ""] | None,
) -> tuple[Params, Batch, Int[Array, ""]]:
    check_floating(params)
    n = losses.check(loss, params, data)
    cut(n, batch_size)
    count = n if count is None else count
    if not isinstance(count, jax.core.Tracer) and not 1 <= count <= n:
        raise InputError(f"expected a count from 1 to {n} (the samples), found {count}; change it")
    params, data = jax.tree.map(jnp.asarray, (working(params), data))
    return params, data, jnp.asarray(count, jnp.int32)


def _like(vector: Params, params: Params) -> Params:
    check_like(vector, params)
    return jax.tree.map(lambda leaf, own: jnp.asarray(leaf, own.dtype), vector, params)


@jax.jit
def _apply(operator: Hessian | GaussNewton, vector: Params) -> Params:
    """The products of the chunks that hold the first k samples, summed, divided by k once."""
    chunks = cut(length_of(operator.data), operator.batch_size)
    starts, fresh = jnp.asarray(chunks.starts), jnp.asarray(chunks.fresh)

    def add(index: Int[Array, ""], total: Params) -> Params:
        start = starts[index]
        counted = fresh[index] & (start + jnp.arange(chunks.size) < operator.count)
        product = operator.chunk(take(operator.data, start, chunks.size), counted, vector)
        return jax.tree.map(jnp.add, total, product)

    with jax.default_matmul_precision("highest"):
        zeros = jax.tree.map(jnp.zeros_like, operator.params)
        needed = (operator.count + chunks.size - 1) // chunks.size
        total = jax.lax.fori_loop(0, needed, add, zeros)
    return jax.tree.map(lambda leaf: leaf / operator.count.astype(leaf.dtype), total)
