"""Training of a network by mini-batch Adam (Optax).

Training of many networks on the same samples, side by side.

Training of one network on each of several prefixes of the samples, side by side.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key, Shaped

from jaxscape import losses
from jaxscape.batching import cut, length_of, take
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


class Ensemble(NamedTuple):
    """R networks after the last epoch, with the mean training loss seen during each epoch."""

    params: Params
    """Leaves ``[R, ...]``."""
    epoch_losses: Float[np.ndarray, "epochs R"]


def fit_many(
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
    run = partial(_epoch_of_many, loss, batch_size, learning_rate, min(together, count))
    states = State(params, jax.vmap(optimizer.init)(params))
    means = []
    epoch_keys = jax.vmap(lambda key: jax.random.split(key, epochs))(keys)
    for number in range(1, epochs + 1):
        states, mean = run(states, epoch_keys[:, number - 1], data)
        means.append(np.asarray(mean))
        _check_finite_many(states.params, means[-1], number, learning_rate)
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
def _epoch_of_many(
    loss: PerSampleLoss, batch_size: int, learning_rate: float, together: int,
    states: State, keys: Key[Array, "R"], data: Batch,
) -> tuple[State, Float[Array, "R"]]:  # fmt: skip
    run = epoch(loss, optax.adam(learning_rate), batch_size=batch_size)

    def one(network: tuple[State, Key[Array, ""]]) -> tuple[State, Float[Array, ""]]:
        return run(*network, data)

    return jax.lax.map(one, (states, keys), batch_size=together if together > 1 else None)


def _check_finite_many(
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


TEST_BATCH = 1000


class Refitted(NamedTuple):
    """K networks after the last epoch, and what was measured of each after every epoch."""

    params: Params
    """Leaves ``[K, ...]``."""
    metrics: dict[str, Float[np.ndarray, "epochs K"]]


def prefix_epoch(
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


def fit_prefixes(
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
        states, found = _epoch_of_prefixes(*settings, states, epoch_key, *arrays)
        rows.append(jax.tree.map(np.asarray, found))
        _check_finite_prefixes(states.params, wanted, number, learning_rate)
        if on_epoch is not None:
            on_epoch(number)
    return Refitted(states.params, {name: np.stack([r[name] for r in rows]) for name in metrics})


@partial(jax.jit, static_argnums=range(6))
def _epoch_of_prefixes(
    loss, metrics, steps, batch_size, learning_rate, together, states, key, ks, data, order, test
):
    run = prefix_epoch(loss, optax.adam(learning_rate), steps=steps, batch_size=batch_size)

    def one(network: tuple[State, Array]) -> tuple[State, dict[str, Array]]:
        state = run(network[0], key, network[1], data, order)
        means = {
            name: mean_loss(metric, state.params, test, batch_size=TEST_BATCH)
            for name, metric in metrics
        }
        return state, means

    return jax.lax.map(one, (states, ks), batch_size=together if together > 1 else None)


def _check_finite_prefixes(
    params: Params, ks: np.ndarray, number: int, learning_rate: float
) -> None:
    bad = np.zeros(len(ks), bool)
    for leaf in jax.tree.leaves(params):
        bad |= ~np.isfinite(leaf).reshape(len(ks), -1).all(1)
    if bad.any():
        raise InputError(
            f"expected finite parameters, found NaN or infinity in epoch {number} for k = "
            f"{', '.join(map(str, ks[bad]))} at --learning-rate {learning_rate}; lower it, or "
            "look for NaN in the inputs"
        )
