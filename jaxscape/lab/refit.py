"""Training of one network on each of several prefixes of the samples, side by side."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from jaxscape import losses
from jaxscape.chunks import length_of
from jaxscape.lab.train import State, mean_loss
from jaxscape.types import Batch, InputError, Params, PerSampleLoss

TEST_BATCH = 1000


class Refitted(NamedTuple):
    """K networks after the last epoch, and what was measured of each after every epoch."""

    params: Params
    """Leaves ``[K, ...]``."""
    metrics: dict[str, Float[np.ndarray, "epochs K"]]


def epoch(
    loss: PerSampleLoss, optimizer: optax.GradientTransformation, *, steps: int, batch_size: int
) -> Callable[[State, Key[Array, ""], Int[Array, ""], Batch, Int[Array, "n"]], State]:
    """A pure function ``(state, key, k, data, order) -> state``: steps on the first k samples.

    Each of the ``steps`` optimiser steps draws ``batch_size`` positions below k, uniformly with
    replacement, and takes the mean gradient over the samples ``order[position]``. That is the
    mask by which networks of different k, which may be traced, run in one program: all take the
    same number of equal steps, and no sample from position k on is ever read.
    """

    def run(state: State, key: Key[Array, ""], k: Array, data: Batch, order: Array) -> State:
        def step(state: State, key: Key[Array, ""]) -> tuple[State, None]:
            rows = order[jax.random.randint(key, (batch_size,), 0, k)]
            batch = jax.tree.map(lambda leaf: leaf[rows], data)
            gradient = jax.grad(lambda w: jnp.mean(loss(w, batch)))(state.params)
            update, moments = optimizer.update(gradient, state.optimizer, state.params)
            return State(optax.apply_updates(state.params, update), moments), None

        return jax.lax.scan(step, state, jax.random.split(key, steps))[0]

    return run


def fit(
    loss: PerSampleLoss,
    params: Params,
    data: Batch,
    ks: Sequence[int] | Int[np.ndarray, "K"],
    *,
    order: Int[np.ndarray, "n"],
    epochs: int,
    steps: int,
    batch_size: int,
    learning_rate: float,
    key: Key[Array, ""],
    test: Batch,
    metrics: Mapping[str, PerSampleLoss],
    together: int | None = None,
    on_epoch: Callable[[int], Any] | None = None,
) -> Refitted:
    """w*_k for each k in ``ks``: Adam on the samples ``order[:k]``, all from the same ``params``.

    Every network takes ``epochs`` · ``steps`` steps (see ``epoch``) with the same keys, so what it
    becomes does not depend on which others are trained beside it. ``together`` of them run under
    one ``jax.vmap``, group after group: by default all on an accelerator and one on a CPU, where a
    single network stays in the cache. After each epoch the mean of every metric over the ``test``
    samples is taken, and ``on_epoch(number)`` is called.

    Raises:
        InputError: a k outside 1..n, a loss that is not per sample, or a network that diverged.
    """
    n = losses.check(loss, params, data)
    wanted = np.asarray(ks)
    if wanted.ndim != 1 or not wanted.size or wanted.min() < 1 or wanted.max() > n:
        raise InputError(f"expected values of k from 1 to {n}, found {wanted.tolist()}; change ks")
    length_of(test)
    if together is None:
        together = 1 if jax.default_backend() == "cpu" else len(wanted)
    settings = (loss, tuple(metrics.items()), steps, batch_size, learning_rate, together)
    state = State(params, optax.adam(learning_rate).init(params))
    states = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(wanted), *jnp.shape(x))), state)
    arrays = (jnp.asarray(wanted, jnp.int32), data, jnp.asarray(order), test)
    rows = []
    for number, epoch_key in enumerate(jax.random.split(key, epochs), start=1):
        states, found = _epoch_of_all(*settings, states, epoch_key, *arrays)
        rows.append(jax.tree.map(np.asarray, found))
        _check_finite(states.params, wanted, number, learning_rate)
        if on_epoch is not None:
            on_epoch(number)
    return Refitted(states.params, {name: np.stack([r[name] for r in rows]) for name in metrics})


@partial(jax.jit, static_argnums=range(6))
def _epoch_of_all(
    loss, metrics, steps, batch_size, learning_rate, together, states, key, ks, data, order, test
):
    run = epoch(loss, optax.adam(learning_rate), steps=steps, batch_size=batch_size)

    def one(network: tuple[State, Array]) -> tuple[State, dict[str, Array]]:
        state = run(network[0], key, network[1], data, order)
        means = {
            name: mean_loss(metric, state.params, test, batch_size=TEST_BATCH)
            for name, metric in metrics
        }
        return state, means

    return jax.lax.map(one, (states, ks), batch_size=together if together > 1 else None)


def _check_finite(params: Params, ks: np.ndarray, number: int, learning_rate: float) -> None:
    bad = np.zeros(len(ks), bool)
    for leaf in jax.tree.leaves(params):
        bad |= ~np.isfinite(leaf).reshape(len(ks), -1).all(1)
    if bad.any():
        raise InputError(
            f"expected finite parameters, found NaN or infinity in epoch {number} for k = "
            f"{', '.join(map(str, ks[bad]))} at --learning-rate {learning_rate}; lower it, or "
            "look for NaN in the inputs"
        )
