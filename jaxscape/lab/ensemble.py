"""Training of many networks on the same samples, side by side."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key

from jaxscape import losses
from jaxscape.lab.train import State, epoch
from jaxscape.types import Batch, InputError, Params, PerSampleLoss


class Ensemble(NamedTuple):
    """R networks after the last epoch, with the mean training loss seen during each epoch."""

    params: Params
    """Leaves ``[R, ...]``."""
    epoch_losses: Float[np.ndarray, "epochs R"]


def fit(
    loss: PerSampleLoss,
    params: Params,
    data: Batch,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    keys: Key[Array, "R"],
    together: int | None = None,
    on_epoch: Callable[[int], Any] | None = None,
) -> Ensemble:
    """R networks from ``params`` (leaves ``[R, ...]``), each as ``train.fit`` would with its key.

    ``together`` of them run under one ``jax.vmap``, group after group, in one compiled program:
    by default all on an accelerator, and on a CPU as many as keep their optimiser's state in the
    cache. After each epoch ``on_epoch(number)`` is called.

    Raises:
        InputError: parameters that do not hold one network per key, a loss that is not per sample,
            or a network that diverged.
    """
    count = _count(params, keys)
    losses.check(loss, jax.tree.map(lambda leaf: leaf[0], params), data)
    together = together_on(jax.default_backend(), params) if together is None else together
    optimizer = optax.adam(learning_rate)
    run = partial(_epoch_of_all, loss, batch_size, learning_rate, min(together, count))
    states = State(params, jax.vmap(optimizer.init)(params))
    means = []
    epoch_keys = jax.vmap(lambda key: jax.random.split(key, epochs))(keys)
    for number in range(1, epochs + 1):
        states, mean = run(states, epoch_keys[:, number - 1], data)
        means.append(np.asarray(mean))
        _check_finite(states.params, means[-1], number, learning_rate)
        if on_epoch is not None:
            on_epoch(number)
    return Ensemble(states.params, np.asarray(means, np.float32).reshape(epochs, count))


def _count(params: Params, keys: Key[Array, "R"]) -> int:
    """R; an ``InputError`` where the parameters are not those of so many networks."""
    count = len(keys)
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(params)]
    if count < 1 or any(shape[:1] != (count,) for shape in shapes):
        raise InputError(
            f"expected parameters of {count} networks, one per key, found shapes {shapes}; stack "
            "the networks along a new first axis"
        )
    return count


def together_on(backend: str, params: Params) -> int:
    """How many of the networks in ``params`` to train under one ``vmap``: a divisor of all.

    A remainder would be a second, smaller program.
    """
    leaves = jax.tree.leaves(params)
    count = leaves[0].shape[0]
    if backend != "cpu":
        return count
    state = 4 * sum(leaf.nbytes for leaf in leaves) / count  # parameters, gradient, two moments
    return max(
        size
        for size in range(1, count + 1)
        if (count % size == 0 and size * state <= CACHE) or size == 1
    )


CACHE = 32 * 2**20
"""Bytes of optimiser's state that a CPU keeps close at hand."""


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _epoch_of_all(
    loss: PerSampleLoss, batch_size: int, learning_rate: float, together: int,
    states: State, keys: Key[Array, "R"], data: Batch,
) -> tuple[State, Float[Array, "R"]]:  # fmt: skip
    run = epoch(loss, optax.adam(learning_rate), batch_size=batch_size)

    def one(network: tuple[State, Key[Array, ""]]) -> tuple[State, Float[Array, ""]]:
        return run(*network, data)

    return jax.lax.map(one, (states, keys), batch_size=together if together > 1 else None)


def _check_finite(
    params: Params, means: Float[np.ndarray, "R"], number: int, learning_rate: float
) -> None:
    bad = ~np.isfinite(means)
    for leaf in jax.tree.leaves(params):
        bad |= ~np.isfinite(leaf).reshape(len(bad), -1).all(1)
    if bad.any():
        raise InputError(
            f"expected finite losses and parameters, found NaN or infinity in epoch {number} for "
            f"{bad.sum()} of {len(bad)} networks at --learning-rate {learning_rate}; lower it, or "
            "look for NaN in the inputs"
        )
