"""Training by mini-batch Adam (Optax): one network, or many side by side in one program.

Networks side by side are stacked: their parameters have leaves ``[R, ...]`` and each has a key.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from jaxscape import losses
from jaxscape.batching import cut, host, length_of, taker
from jaxscape.lab import stream
from jaxscape.types import Batch, InputError, Params, PerSampleLoss

CACHE = 32 * 2**20
"""Bytes of optimiser's state that a CPU keeps in its cache."""


class Fitted(NamedTuple):
    """Parameters after the last epoch, leaves ``[R, ...]`` where there were R keys.

    With the mean training loss during each epoch, each sample at the parameters of its step.
    """

    params: Params
    epoch_losses: Float[np.ndarray, "epochs *R"]


class State(NamedTuple):
    """What one step hands to the next: parameters, and Optax's state (for Adam, two moments)."""

    params: Params
    optimizer: Any


class Batches(NamedTuple):
    """Which samples each optimiser step takes: their rows, and which of these count."""

    rows: Int[Array, "steps b"]
    counted: Bool[Array, "steps b"]


def fit(
    key: Key[Array, "*R"],
    loss: PerSampleLoss,
    params: Params,
    data: Batch,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    weight_decay: float = 0.0,
    ks: Sequence[int] | Int[np.ndarray, "R"] | None = None,
    together: int | None = None,
    on_epoch: Callable[[int, Params], Any] | None = None,
) -> Fitted:
    """w* from ``params`` by ``epochs`` epochs of Adam (Kingma & Ba, 2015, arXiv:1412.6980).

    An epoch takes ⌈n / batch_size⌉ steps, whose batches are ``shuffled``; with ``ks`` they are
    ``drawn``. The same key gives the same parameters, bit for bit, on the same machine. A network
    among R does not depend on the others beyond rounding.

    Args:
        key: one key for one network, or R keys for R networks side by side.
        loss: ``loss(params, batch) -> [n]``.
        params: where training starts; R networks are stacked, leaves ``[R, ...]``.
        data: n samples, which all networks share.
        epochs: at least 0.
        batch_size: the largest number of samples in a step.
        learning_rate: above 0.
        weight_decay: as for ``adam``.
        ks: network r sees only the first ``ks[r]`` samples, in as many steps as the others.
        together: how many of R networks run under one ``jax.vmap``, group after group; by default
            ``group_size``.
        on_epoch: called as ``on_epoch(number, params)`` after each epoch, from 1 on.

    Raises:
        InputError: a setting out of range, parameters that do not hold one network per key, a loss
            that is not per sample, or a loss or parameter that is no longer finite.
    """
    if epochs < 0:
        raise InputError(f"expected at least 0 epochs, found {epochs}; raise --epochs")
    if not 0 < learning_rate < float("inf"):
        raise InputError(f"expected a learning rate above 0, found {learning_rate}; change it")
    if not 0 <= weight_decay < float("inf"):
        raise InputError(f"expected a weight decay of at least 0, found {weight_decay}; change it")
    if together is not None and together < 1:
        raise InputError(f"expected together of at least 1, found {together}; raise it")
    single = key.ndim == 0  # then a stack of one network, whose axis is dropped in the end
    with host():
        stack = lambda tree: jax.tree.map(lambda leaf: leaf[None], tree)  # noqa: E731
        keys, params = stack((key, params)) if single else (key, params)
    num, shapes = len(keys), [jnp.shape(leaf) for leaf in jax.tree.leaves(params)]
    if num < 1 or any(shape[:1] != (num,) for shape in shapes):
        raise InputError(
            f"expected parameters of {num} networks, one per key, found shapes {shapes}; stack "
            "the networks along a new first axis"
        )
    n, bound = losses.ready(loss, _first(params), data)
    seen = None if ks is None else _check_ks(np.asarray(ks), num, n)
    together = min(num, together or group_size(jax.default_backend(), params))
    run = partial(epoch, batch_size, (learning_rate, weight_decay), together, bound)
    with host():
        states = State(params, jax.vmap(adam(learning_rate, weight_decay).init)(params))
        epoch_keys = list(jax.vmap(lambda key: jax.random.split(key, epochs), out_axes=1)(keys))
    means = np.zeros((epochs, num), np.float32)
    for number, step_keys in enumerate(epoch_keys, start=1):
        with host():
            draws = orders(step_keys, n) if seen is None else step_keys
        states, found = run(states, draws, data, seen)
        stream.wait(states)
        means[number - 1] = found
        _check_finite(states.params, means[number - 1], seen, f"epoch {number} of {epochs}"
                      f" at --learning-rate {learning_rate}")  # fmt: skip
        if on_epoch is not None:
            on_epoch(number, _first(states.params) if single else states.params)
    return Fitted(_first(states.params), means[:, 0]) if single else Fitted(states.params, means)


def adam(learning_rate: float, weight_decay: float = 0.0) -> optax.GradientTransformation:
    """Adam on the mean loss plus (λ/2)‖w‖², λ the weight decay.

    λ w is added to the gradient before Adam scales it, so that the minimum is that of this sum. The
    decoupled decay of AdamW shrinks w beside Adam's step and has no such loss.
    """
    steps = optax.adam(learning_rate)
    return optax.chain(optax.add_decayed_weights(weight_decay), steps) if weight_decay else steps


@partial(jax.jit, static_argnums=range(3))
def epoch(
    batch_size: int, rates: tuple[float, float], together: int, loss: PerSampleLoss,
    states: State, draws: Int[Array, "R n"] | Key[Array, "R"], data: Batch,
    ks: Int[Array, "R"] | None,
) -> tuple[State, Float[Array, "R"]]:  # fmt: skip
    """One epoch of R networks, ``together`` at a time: in ``orders``, or with ``ks`` by keys."""
    steps = len(cut(length_of(data), batch_size).starts)
    optimizer = adam(*rates)

    def one(network: tuple[State, Array, Array | None]) -> tuple[State, Float[Array, ""]]:
        state, draw, k = network
        if k is None:
            batches = shuffled(draw, batch_size=batch_size)
        else:
            batches = drawn(draw, k, steps=steps, batch_size=batch_size)
        return descend(loss, optimizer, state, data, batches)

    return jax.lax.map(one, (states, draws, ks), batch_size=together if together > 1 else None)


@partial(jax.jit, static_argnums=1)
def orders(keys: Key[Array, "R"], n: int) -> Int[Array, "R n"]:
    """An order of n samples from each key. A TPU's compiler takes half a minute for the sort."""
    return jax.vmap(lambda key: jax.random.permutation(key, n))(keys)


def shuffled(order: Int[Array, "n"], *, batch_size: int) -> Batches:
    """All n samples once, in this order.

    The ⌈n / batch_size⌉ batches are of equal size, at most ``batch_size``. Where that does not
    divide n, the last one repeats rows of the one before, which do not count.
    """
    positions, fresh = cut(len(order), batch_size).computed()
    return Batches(order[positions], fresh)


def drawn(key: Key[Array, ""], k: Int[Array, ""], *, steps: int, batch_size: int) -> Batches:
    """Rows below k, uniformly with replacement: k may be traced, so one program serves all k."""
    draw = lambda key: jax.random.randint(key, (batch_size,), 0, k)  # noqa: E731
    rows = jax.vmap(draw)(jax.random.split(key, steps))
    return Batches(rows, jnp.ones(rows.shape, bool))


def descend(
    loss: PerSampleLoss,
    optimizer: optax.GradientTransformation,
    state: State,
    data: Batch,
    batches: Batches,
) -> tuple[State, Float[Array, ""]]:
    """One optimiser step per batch, along the mean gradient over those of its rows that count.

    Args:
        loss: ``loss(params, batch) -> [n]``.
        optimizer: any of Optax.
        state: where to start.
        data: the samples.
        batches: ``shuffled`` or ``drawn``.

    Returns:
        The state after the last step, and the mean loss of all rows that count.
    """

    def batch_loss(params: Params, batch: Batch, counted: Array) -> tuple[Array, Array]:
        total = jnp.sum(jnp.where(counted, loss(params, batch), 0))
        return total / jnp.sum(counted), total

    def step(state: State, chosen: Batches) -> tuple[State, Array]:
        batch = jax.tree.map(lambda leaf: leaf[chosen.rows], data)
        gradient, total = jax.grad(batch_loss, has_aux=True)(state.params, batch, chosen.counted)
        update, moments = optimizer.update(gradient, state.optimizer, state.params)
        return State(optax.apply_updates(state.params, update), moments), total

    state, totals = jax.lax.scan(step, state, batches)
    return state, jnp.sum(totals) / jnp.sum(batches.counted)


def group_size(backend: str, params: Params) -> int:
    """How many of R networks (leaves ``[R, ...]``) to train under one ``vmap``: a divisor of R.

    On an accelerator all; on a CPU as many as keep their optimiser's state in the cache. A
    remainder would be a second, smaller program.
    """
    leaves = jax.tree.leaves(params)
    num = leaves[0].shape[0]
    if backend != "cpu":
        return num
    state = 4 * sum(leaf.nbytes for leaf in leaves) / num  # parameters, gradient, two moments
    fitting = (size for size in range(1, num + 1) if num % size == 0 and size * state <= CACHE)
    return max(fitting, default=1)


@jax.jit
def _first(params: Params) -> Params:
    return jax.tree.map(lambda leaf: leaf[0], params)


def _check_ks(ks: np.ndarray, num: int, n: int) -> Int[Array, "R"]:
    if ks.shape != (num,) or ks.min() < 1 or ks.max() > n:
        raise InputError(
            f"expected {num} values of k from 1 to {n}, one per key, found {ks.tolist()}; change ks"
        )
    return jnp.asarray(ks, jnp.int32)


def _check_finite(
    params: Params, means: Float[np.ndarray, "R"], ks: Int[Array, "R"] | None, where: str
) -> None:
    bad = ~np.isfinite(means)
    for leaf in jax.tree.leaves(params):
        bad |= ~np.isfinite(leaf).reshape(len(bad), -1).all(1)
    if bad.any():
        which = f"{bad.sum()} of {len(bad)} networks"
        if ks is not None:
            which = f"the networks of k = {', '.join(map(str, np.asarray(ks)[bad]))}"
        raise InputError(
            f"expected finite training losses and parameters, found NaN or infinity in {which} in "
            f"{where}; lower it, or look for NaN in the inputs"
        )


def mean_loss(
    loss: PerSampleLoss, params: Params, data: Batch, *, batch_size: int
) -> Float[Array, ""]:
    """L_n(w) = (1/n) Σ_i ℓ_i(w) in one pass over chunks of at most ``batch_size`` samples.

    Matrix products run at the highest precision.
    """
    return _mean(losses.one_each(loss, params, data)[1], params, data, batch_size)


@partial(jax.jit, static_argnums=3)
def _mean(loss: PerSampleLoss, params: Params, data: Batch, batch_size: int) -> Float[Array, ""]:
    n, take = length_of(data), taker(data)
    chunks = cut(n, batch_size)

    def step(total: Array, chunk: tuple[Array, Array]) -> tuple[Array, None]:
        start, fresh = chunk
        values = loss(params, take(start, chunks.size))
        return total + jnp.sum(jnp.where(fresh, values, 0)), None

    pieces = jnp.asarray(chunks.starts), chunks.computed()[1]
    with jax.default_matmul_precision("highest"):
        total, _ = jax.lax.scan(step, jnp.float32(0), pieces)
    return total / n


def accuracy(
    apply: Callable[[Params, Any], Float[Array, "n *a c"]],
    params: Params,
    inputs: Shaped[Array | np.ndarray, "n ..."],
    targets: Int[Array | np.ndarray, "n *a"],
    *,
    batch_size: int,
) -> Float[Array, ""]:
    """The fraction of samples that are predicted correctly; see ``correct``."""
    samples = {"inputs": inputs, "targets": targets}
    return mean_loss(losses.supervised(apply, correct), params, samples, batch_size=batch_size)


def correct(
    outputs: Float[Array, "n *a c"], targets: Int[Array | np.ndarray, "n *a"]
) -> Float[Array, "n"]:
    """1 for each sample whose largest output is that of the target class, else 0.

    A sequence is correct where every token is whose target is not negative. The network then also
    writes the right tokens when it continues from its own most likely ones.
    """
    right = (outputs.argmax(-1) == targets) | (targets < 0)
    return right.reshape(len(targets), -1).all(-1).astype(jnp.float32)
