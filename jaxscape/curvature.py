"""The curvature of a mean of per-sample losses as operators on pytrees."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxscape import losses
from jaxscape.chunks import cut, length_of, take
from jaxscape.operators import check_floating, check_like
from jaxscape.types import Batch, Matvec, Params, PerSampleLoss

static = {"static": True}


# Parameters and data are leaves, so ``jit`` takes them as arguments: no data set ends up as a
# constant of a compiled program, and one program serves every operator with the same functions.
@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Hessian:
    """v ↦ (1/n) Σ_i ∇²ℓ_i(w) v; built by ``hvp``."""

    params: Params
    data: Batch
    loss: PerSampleLoss = field(metadata=static)
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
    """v ↦ (1/n) Σ_i J_iᵀ H_i J_i v; built by ``ggn_vp``."""

    params: Params
    data: Batch
    model: Callable[[Params, Batch], Any] = field(metadata=static)
    output_loss: Callable[[Any, Batch], Float[Array, "n"]] = field(metadata=static)
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


def hvp(loss: PerSampleLoss, params: Params, data: Batch, *, batch_size: int = 1000) -> Matvec:
    """The Hessian of the mean loss over all of ``data``, as an operator.

    H v = (1/n) Σ_i ∇²ℓ_i(w) v at w = ``params``, forward over reverse (Pearlmutter 1994,
    "Fast exact multiplication by the Hessian"), ``batch_size`` samples at a time with products at
    the highest precision. Every sample weighs 1/n, whether or not ``batch_size`` divides n. The
    operator is a pytree, works under ``jit``, ``vmap`` and in loops, and is compiled once for each
    ``loss`` (the same function object) and set of shapes.

    Raises:
        InputError: ``loss`` does not return ``[n]``, parameters that are not floating point,
            samples without a common axis, ``batch_size`` below 1, or a vector of another shape.
    """
    params, data = _validate(loss, params, data, batch_size)
    return Hessian(params, data, loss, batch_size)


def ggn_vp(
    model: Callable[[Params, Batch], Any],
    output_loss: Callable[[Any, Batch], Float[Array, "n"]],
    params: Params,
    data: Batch,
    *,
    batch_size: int = 1000,
) -> Matvec:
    """The generalised Gauss-Newton matrix of the mean loss over all of ``data``, as an operator.

    G v = (1/n) Σ_i J_iᵀ H_i J_i v, with f = ``model(params, batch)`` of leading axis n, J_i the
    Jacobian of f_i and H_i the Hessian of ℓ_i = ``output_loss(f, batch)[i]`` in f_i (Schraudolph
    2002, "Fast curvature matrix-vector products", section 3). It equals the Hessian where f is
    linear in the parameters, and is positive semidefinite where ℓ_i is convex in f_i. Otherwise
    as ``hvp``.
    """

    def loss(weights: Params, batch: Batch) -> Float[Array, "n"]:
        return output_loss(model(weights, batch), batch)

    params, data = _validate(loss, params, data, batch_size)
    return GaussNewton(params, data, model, output_loss, batch_size)


def _validate(
    loss: PerSampleLoss, params: Params, data: Batch, batch_size: int
) -> tuple[Params, Batch]:
    check_floating(params)
    losses.check(loss, params, data)
    cut(length_of(data), batch_size)
    return jax.tree.map(jnp.asarray, (params, data))


def _like(vector: Params, params: Params) -> Params:
    check_like(vector, params)
    return jax.tree.map(lambda leaf, own: jnp.asarray(leaf, own.dtype), vector, params)


@jax.jit
def _apply(operator: Hessian | GaussNewton, vector: Params) -> Params:
    """The chunks' products, summed in one scan and divided by n once."""
    n = length_of(operator.data)
    chunks = cut(n, operator.batch_size)

    def add(total: Params, chunk: tuple[Array, Array]) -> tuple[Params, None]:
        start, fresh = chunk
        product = operator.chunk(take(operator.data, start, chunks.size), fresh, vector)
        return jax.tree.map(jnp.add, total, product), None

    with jax.default_matmul_precision("highest"):
        zeros = jax.tree.map(jnp.zeros_like, operator.params)
        total, _ = jax.lax.scan(add, zeros, (chunks.starts, chunks.fresh))
    return jax.tree.map(lambda leaf: leaf / n, total)
