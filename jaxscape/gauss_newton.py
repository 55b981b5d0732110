"""The exact norm of every sample's Gauss-Newton matrix."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from jaxscape import chunks, losses
from jaxscape.operators import check_floating, dot, working
from jaxscape.types import Batch, Params


def gauss_newton_norms(
    model: Callable[[Params, Batch], Any],
    output_loss: Callable[[Any, Batch], Float[Array, "n"]],
    params: Params,
    data: Batch,
    *,
    batch_size: int | None = None,
) -> Float[Array, "n"]:
    """‖G_i‖ = ‖J_iᵀ H_i J_i‖ of every sample, J_i the Jacobian [S, P] of its S outputs.

    The eigenvalues of the [P, P] matrix that are not zero are those of K^½ H_i K^½ with
    K = J_i J_iᵀ, both [S, S], whether or not H_i, the Hessian of the loss in the outputs, is
    positive. ``model`` and ``output_loss`` are as for ``ggn_vp``; the outputs may be any pytree.

    Column s of K is J_i (J_iᵀ e_s), a backward then a forward pass along its result, so no Jacobian
    is kept: S passes each way per sample, P numbers of memory for each of ``batch_size`` samples
    taken together (by default 1 on a CPU, where a gradient then stays in the cache, else 64).

    Raises:
        InputError: losses that are not one per sample, parameters that are not floating point, or
            a batch_size below 1.
    """

    def loss(weights: Params, batch: Batch) -> Float[Array, "n"]:
        return output_loss(model(weights, batch), batch)

    if batch_size is None:
        batch_size = 1 if jax.default_backend() == "cpu" else 64
    check_floating(params)
    chunks.cut(losses.check(loss, params, data), batch_size)
    params, data = jax.tree.map(jnp.asarray, (working(params), data))
    return _norms(losses.bind(model), losses.bind(output_loss), params, data, batch_size)


@functools.partial(jax.jit, static_argnums=4)
def _norms(model, output_loss, params, data, batch_size):
    cut = chunks.cut(chunks.length_of(data), batch_size)

    def one(sample: Batch) -> Float[Array, ""]:
        batch = jax.tree.map(lambda leaf: leaf[None], sample)
        shapes = jax.eval_shape(model, params, batch)
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        restore = ravel_pytree(zeros)[1]
        outputs, push = jax.linearize(lambda w: ravel_pytree(model(w, batch))[0], params)
        pull = jax.linear_transpose(push, params)
        unit = jnp.eye(outputs.size, dtype=outputs.dtype)
        kernel = jax.lax.map(lambda row: push(pull(row)[0]), unit)
        hessian = jax.hessian(lambda z: output_loss(restore(z), batch)[0])(outputs)
        values, vectors = jnp.linalg.eigh((kernel + kernel.T) / 2)
        root = vectors * jnp.sqrt(jnp.maximum(values, 0))
        return jnp.max(jnp.abs(jnp.linalg.eigvalsh(dot(root.T, dot(hessian, root)))))

    def chunk(start: Array) -> Float[Array, "b"]:
        return jax.vmap(one)(chunks.take(data, start, cut.size))

    with jax.default_matmul_precision("highest"):
        return chunks.join(cut, jax.lax.map(chunk, jnp.asarray(cut.starts)))
