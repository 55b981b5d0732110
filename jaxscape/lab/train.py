"""Training of a network by mini-batch Adam (Optax)."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Shaped

from jaxscape import losses
from jaxscape.chunks import cut, length_of, take
from jaxscape.lab import stream
from jaxscape.types import Batch, InputError, Params, PerSampleLoss


class State(NamedTuple):
    """What one epoch hands to the next: parameters, optimiser's moments."""

    params: Params
    optimizer: Any
    """Optax's state of the optimiser."""


class Trained(NamedTuple):
    """Parameters after the last epoch, mean training loss seen during each epoch."""

    params: Params
    epoch_losses: Float[np.ndarray, "epochs"]


Epoch = Callable[[State, jax.Array, Batch], tuple[State, Float[Array, ""]]]


def epoch(
    loss: PerSampleLoss, optimizer: optax.GradientTransformation, *, batch_size: int
) -> Epoch:
    """A pure function ``(state, key, data) -> (state, mean loss)``: one pass over the data.

    Each call draws a fresh permutation of the n samples and takes one optimiser step per batch,
    in one ``lax.scan``. There are ⌈n / batch_size⌉ batches of equal size (at most ``batch_size``)
    but the last, which holds the samples that are left; its gradient is the mean over those, so
    each sample is used exactly once. The loss returned is the mean over all samples, each taken
    at the parameters of its step.

    Under ``jax.vmap`` over state and key it trains many networks side by side on the same data.
    """

    def run(state: State, key: jax.Array, data: Batch) -> tuple[State, Float[Array, ""]]:
        n = length_of(data)
        chunks = cut(n, batch_size)
        order = jax.random.permutation(key, n)

        def batch_loss(params: Params, batch: Batch, fresh: Array) -> tuple[Array, Array]:
            total = jnp.sum(jnp.where(fresh, loss(params, batch), 0))
            return total / jnp.sum(fresh), total

        def step(state: State, chunk: tuple[Array, Array]) -> tuple[State, Array]:
            start, fresh = chunk
            rows = take(order, start, chunks.size)
            batch = jax.tree.map(lambda leaf: leaf[rows], data)
            gradient, total = jax.grad(batch_loss, has_aux=True)(state.params, batch, fresh)
            update, moments = optimizer.update(gradient, state.optimizer, state.params)
            return State(optax.apply_updates(state.params, update), moments), total

        pieces = jnp.asarray(chunks.starts), jnp.asarray(chunks.fresh)
        state, totals = jax.lax.scan(step, state, pieces)
        return state, jnp.sum(totals) / n

    return run


def fit(
    loss: PerSampleLoss,
    params: Params,
    data: Batch,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    key: jax.Array,
    on_epoch: Callable[[int, float, Params], Any] | None = None,
) -> Trained:
    """w* from ``params`` by ``epochs`` epochs of Adam (Kingma & Ba, 2015, arXiv:1412.6980).

    ``on_epoch(number, mean_loss, params)`` is called after each epoch, ``number`` counting from
    1. The same key gives the same parameters, bit for bit, on the same machine.

    Raises ``InputError`` for settings out of range, for a loss that is not per sample, and once
    the training loss or a parameter is no longer finite.
    """
    if epochs < 0:
        raise InputError(f"expected at least 0 epochs, found {epochs}; raise --epochs")
    if not 0 < learning_rate < float("inf"):
        raise InputError(f"expected a learning rate above 0, found {learning_rate}; change it")
    losses.check(loss, params, data)
    state = State(params, optax.adam(learning_rate).init(params))
    means = []
    for number, epoch_key in enumerate(jax.random.split(key, epochs), start=1):
        state, mean = _epoch(loss, batch_size, learning_rate, state, epoch_key, data)
        stream.wait(state)
        means.append(float(mean))
        finite = all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
        if not (finite and np.isfinite(means[-1])):
            found = means[-1] if finite else f"{means[-1]} and parameters that are not finite"
            raise InputError(
                f"expected a finite training loss, found {found} in epoch {number} of {epochs} "
                f"at --learning-rate {learning_rate}; lower it, or look for NaN in the inputs"
            )
        if on_epoch is not None:
            on_epoch(number, means[-1], state.params)
    return Trained(state.params, np.asarray(means, np.float32))


@partial(jax.jit, static_argnums=(0, 1, 2))
def _epoch(
    loss: PerSampleLoss,
    batch_size: int,
    learning_rate: float,
    state: State,
    key: jax.Array,
    data: Batch,
) -> tuple[State, Float[Array, ""]]:
    return epoch(loss, optax.adam(learning_rate), batch_size=batch_size)(state, key, data)


def accuracy(
    apply: Callable[[Params, Any], Float[Array, "n *a c"]],
    params: Params,
    inputs: Shaped[Array, "n ..."],
    targets: Int[Array, "n *a"],
    *,
    batch_size: int,
) -> Float[Array, ""]:
    """The fraction of samples that are told right; see ``correct``."""

    def right(params: Params, batch: Batch) -> Float[Array, "n"]:
        return correct(apply(params, batch["inputs"]), batch["targets"])

    return mean_loss(right, params, {"inputs": inputs, "targets": targets}, batch_size=batch_size)


def correct(outputs: Float[Array, "n *a c"], targets: Int[Array, "n *a"]) -> Float[Array, "n"]:
    """1 for each sample whose largest output is that of the target class, else 0.

    A sequence is right where every token is that counts, those with a negative target left out: so
    is then what the network writes when it goes on from its own most likely tokens.
    """
    right = (outputs.argmax(-1) == targets) | (targets < 0)
    return right.reshape(len(targets), -1).all(-1).astype(jnp.float32)


def mean_loss(
    loss: PerSampleLoss, params: Params, data: Batch, *, batch_size: int
) -> Float[Array, ""]:
    """L_n(w) = (1/n) Σ_i ℓ_i(w) in one pass over chunks of at most ``batch_size`` samples."""
    losses.check(loss, params, data)
    return _mean(loss, params, data, batch_size)


@partial(jax.jit, static_argnums=(0, 3))
def _mean(loss: PerSampleLoss, params: Params, data: Batch, batch_size: int) -> Float[Array, ""]:
    n = length_of(data)
    chunks = cut(n, batch_size)

    def step(total: Array, chunk: tuple[Array, Array]) -> tuple[Array, None]:
        start, fresh = chunk
        values = loss(params, take(data, start, chunks.size))
        return total + jnp.sum(jnp.where(fresh, values, 0)), None

    pieces = jnp.asarray(chunks.starts), jnp.asarray(chunks.fresh)
    total, _ = jax.lax.scan(step, jnp.float32(0), pieces)
    return total / n
