"""From a model's outputs to one loss per sample, and the check that a loss gives one."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Shaped

from jaxscape.batching import length_of
from jaxscape.trees import working
from jaxscape.types import Batch, InputError, Params, PerSampleLoss


def cross_entropy(
    logits: Float[ArrayLike, "n *t c"], targets: Int[ArrayLike, "n *t"]
) -> Float[Array, "n *t"]:
    """ℓ_i = log Σ_c exp(z_c − z_y), in nats; of each token, where there is an axis of tokens.

    Written as log1p(Σ_{c≠y} exp(z_c − z_y)), so that a loss of 1e-6 keeps its digits in float32.
    NaN for a target that is not among the classes 0..c−1.

    >>> loss = cross_entropy(jnp.array([[0.0, 0.0], [20.0, 0.0]]), jnp.array([1, 0]))
    >>> print(f"{loss[0]:.4f} {loss[1]:.3g}")
    0.6931 2.06e-09
    """
    z = working(jnp.asarray(logits))
    own = jnp.arange(z.shape[-1]) == jnp.asarray(targets)[..., None]
    margins = z - jnp.sum(jnp.where(own, z, 0), -1, keepdims=True)
    top = jax.lax.stop_gradient(margins.max(-1))  # at least 0, the margin of the own class
    rest = jnp.sum(jnp.where(own, 0, jnp.exp(margins - top[..., None])), -1)
    loss = top + jnp.where(top > 0, jnp.log(jnp.exp(-top) + rest), jnp.log1p(rest))
    return jnp.where(own.any(-1), loss, jnp.nan)


def squared_error(
    outputs: Float[ArrayLike, "n ..."], targets: Shaped[ArrayLike, "n ..."]
) -> Float[Array, "n"]:
    """ℓ_i = ½‖f(x_i) − y_i‖², summed over all axes but the first.

    >>> squared_error(jnp.array([[1.0, 2.0], [0.0, 3.0]]), jnp.zeros((2, 2))).tolist()
    [2.5, 4.5]

    Raises:
        InputError: outputs and targets of different shapes, which would broadcast.
    """
    _check_same_shape("outputs", outputs, targets)
    found, wanted = working((jnp.asarray(outputs), jnp.asarray(targets)))
    difference = (found - wanted).reshape(found.shape[0], -1)
    return 0.5 * jnp.sum(difference**2, -1)


def binary_cross_entropy(
    logits: Float[ArrayLike, "n ..."], targets: Shaped[ArrayLike, "n ..."]
) -> Float[Array, "n"]:
    """ℓ_i = Σ y log(1 + exp(−z)) + (1 − y) log(1 + exp(z)), in nats, over all axes but the first.

    The negative log likelihood of independent labels y, anything from 0 to 1 or Boolean, with
    probabilities sigmoid(z), from the logits z. NaN for a target outside.

    >>> loss = binary_cross_entropy(jnp.array([0.0, 20.0]), jnp.array([True, True]))
    >>> print(f"{loss[0]:.4f} {loss[1]:.3g}")
    0.6931 2.06e-09

    Raises:
        InputError: logits and targets of different shapes, which would broadcast.
    """
    _check_same_shape("logits", logits, targets)
    z = working(jnp.asarray(logits))
    y = jnp.asarray(targets, z.dtype)
    loss = y * jax.nn.softplus(-z) + (1 - y) * jax.nn.softplus(z)
    loss = jnp.where((y >= 0) & (y <= 1), loss, jnp.nan)
    return jnp.sum(loss.reshape(loss.shape[0], -1), -1)


def per_sequence(
    tokens: Float[ArrayLike, "n t"], mask: Bool[ArrayLike, "n t"], *, mean: bool = True
) -> Float[Array, "n"]:
    """The mean, or the sum, of the losses of each sequence's own tokens, not of its padding.

    A sequence, not a token, is then a sample.

    >>> tokens = jnp.array([[1.0, 3.0], [5.0, jnp.nan]])
    >>> per_sequence(tokens, jnp.array([[True, True], [True, False]])).tolist()
    [2.0, 5.0]

    Args:
        tokens: The loss of each token, anything (NaN too) where ``mask`` is False.
        mask: Which tokens are no padding.
        mean: Every sequence weighs the same, whatever its length, and one of padding alone is NaN.
            Otherwise every token weighs the same.

    Raises:
        InputError: token losses and a mask of different shapes, which would broadcast.
    """
    _check_same_shape("token losses", tokens, mask, "a mask")
    own = jnp.asarray(mask, bool)
    total = jnp.sum(working(jnp.asarray(tokens)), -1, where=own)
    return total / jnp.sum(own, -1) if mean else total


def supervised(
    apply: Callable[[Params, Any], Array],
    per_sample: Callable[[Array, Array], Float[Array, "n"]] = cross_entropy,
) -> PerSampleLoss:
    """The loss ``per_sample(apply(params, batch["inputs"]), batch["targets"])``."""

    def loss(params: Params, batch: Batch) -> Float[Array, "n"]:
        return per_sample(apply(params, batch["inputs"]), batch["targets"])

    return loss


def bind(function: Callable) -> jax.tree_util.Partial:
    """A function as a pytree; a ``jax.tree_util.Partial``, whose arrays are leaves, as it is.

    Of any other, what it closes over becomes a constant of each compiled program.
    """
    partial = jax.tree_util.Partial
    return function if isinstance(function, partial) else partial(function)


def check(loss: PerSampleLoss, params: Params, data: Batch) -> int:
    """The number of samples in ``data``; an ``InputError`` unless ``loss`` has a value for each."""
    n = length_of(data)
    params = jax.eval_shape(working, params)
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


def _check_same_shape(name: str, found: Any, other: Any, kind: str = "targets") -> None:
    shapes = jnp.shape(found), jnp.shape(other)
    if shapes[0] != shapes[1]:
        raise InputError(
            f"expected {kind} of the {name}' shape {shapes[0]}, found {shapes[1]}; "
            "reshape one of them"
        )
