"""From a model's outputs to one loss per sample."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxscape.chunks import length_of
from jaxscape.types import Batch, InputError, Params, PerSampleLoss


def cross_entropy(logits: Float[Array, "n c"], targets: Int[Array, "n"]) -> Float[Array, "n"]:
    """ℓ_i = log Σ_c exp(z_c − z_y), in nats.

    Written as log1p(Σ_{c≠y} exp(z_c − z_y)), so that a loss of 1e-6 of a well-trained network
    keeps its digits in float32, where ``logsumexp(z) − z_y`` has none left. NaN for a target that
    is not among the classes 0..c−1.
    """
    own = jnp.arange(logits.shape[-1]) == targets[:, None]
    margins = logits - jnp.sum(jnp.where(own, logits, 0), -1, keepdims=True)
    top = jax.lax.stop_gradient(margins.max(-1))  # at least 0, the margin of the own class
    rest = jnp.sum(jnp.where(own, 0, jnp.exp(margins - top[:, None])), -1)
    loss = top + jnp.where(top > 0, jnp.log(jnp.exp(-top) + rest), jnp.log1p(rest))
    return jnp.where(own.any(-1), loss, jnp.nan)


def squared_error(
    outputs: Float[Array, "n ..."], targets: Float[Array, "n ..."]
) -> Float[Array, "n"]:
    """ℓ_i = ½‖f(x_i) − y_i‖², summed over all axes but the first.

    Raises:
        InputError: outputs and targets of different shapes, which would broadcast.
    """
    if outputs.shape != targets.shape:
        raise InputError(
            f"expected targets of the outputs' shape {outputs.shape}, found {targets.shape}; "
            "reshape one of them"
        )
    difference = (outputs - targets).reshape(outputs.shape[0], -1)
    return 0.5 * jnp.sum(difference**2, -1)


def supervised(
    apply: Callable[[Params, Any], Array],
    per_sample: Callable[[Array, Array], Float[Array, "n"]] = cross_entropy,
) -> PerSampleLoss:
    """The loss ``per_sample(apply(params, batch["inputs"]), batch["targets"])``."""

    def loss(params: Params, batch: Batch) -> Float[Array, "n"]:
        return per_sample(apply(params, batch["inputs"]), batch["targets"])

    return loss


def check(loss: PerSampleLoss, params: Params, data: Batch) -> int:
    """The number of samples in ``data``, once ``loss`` is seen to return one value for each."""
    n = length_of(data)
    try:
        hash(loss)
    except TypeError:
        raise InputError(
            f"expected a hashable loss function, found {type(loss).__name__} without a hash; "
            "wrap it in a function"
        ) from None
    found = jax.eval_shape(loss, params, data)
    shape = getattr(found, "shape", None)
    if shape != (n,):
        raise InputError(
            f"expected loss(params, batch) to return one loss per sample, shape ({n},), "
            f"found {found if shape is None else f'shape {shape}'}; "
            "return the losses before any mean or sum over samples"
        )
    return n
