"""Training by mini-batch Adam and L-BFGS (Optax): one network, or many in one program.

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
from jaxscape.arguments import check_choice
from jaxscape.batching import cut, host, length_of, taker
from jaxscape.lab import stream
from jaxscape.types import Batch, InputError, Params, PerSampleLoss, Scalar

CACHE = 32 * 2**20  # bytes of optimiser's state that a CPU keeps in its cache
PIECE = 4000  # stored samples that are read at a time, those of one step at least
CHUNK = 1000  # samples at a time of L-BFGS, which takes the gradient of them all

Rates = tuple[float, float, int | None]  # the arguments of ``adam``


class Fitted(NamedTuple):
    """Parameters at the end, leaves ``[R, ...]`` where there were R keys."""

    params: Params
    epoch_losses: Float[np.ndarray, "epochs *R"]
    """Mean training losses, of each sample at the parameters of its step."""
    gradient_norm: Float[np.ndarray, "*R"] | None = None
    """‖∇L_k + λw‖ at the end, 0 at a minimum; None unless ``finish`` was given."""


class State(NamedTuple):
    """What one step hands to the next: parameters, and Optax's state (for Adam, two moments)."""

    params: Params
    optimizer: Any


def fit(
    key: Key[Array, "*R"],
    loss: PerSampleLoss,
    params: Params,
    data: Batch | stream.Stored,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    weight_decay: float = 0.0,
    schedule: str = "constant",
    finish: int | None = None,
    ks: Sequence[int] | Int[np.ndarray, "R"] | None = None,
    together: int | None = None,
    on_epoch: Callable[[int, Params], Any] | None = None,
) -> Fitted:
    """w* from ``params`` by ``epochs`` epochs of Adam (Kingma & Ba, 2015, arXiv:1412.6980).

    An epoch takes ⌈n / batch_size⌉ steps through all samples, shuffled; with ``ks`` as many through
    samples drawn with replacement. The same key gives the same parameters, bit for bit, on the same
    machine. A network among R does not depend on the others beyond rounding. An ``InputError``
    tells of a setting out of range, and of a loss or a parameter that is no longer finite.

    Args:
        key: one key for one network, or R keys for R networks side by side.
        params: where training starts; R networks are stacked, leaves ``[R, ...]``.
        data: n samples, which all networks share; those of one network may be ``stream.Stored``,
            which are read piece by piece, the next one while the device works.
        epochs: at least 0.
        batch_size: the largest number of samples in a step.
        learning_rate, weight_decay: as for ``adam``; above 0, and at least 0.
        schedule: the learning rate stays as it is, or falls to 0 at the last step.
        finish: at most so many steps of L-BFGS thereafter, each along all samples of its network
            (Liu and Nocedal 1989); 0 gives the norm of the gradient alone.
        ks: network r sees only the first ``ks[r]`` samples, in as many steps as the others.
        together: how many of R networks run under one ``jax.vmap``, group after group; by default
            ``group_size``.
        on_epoch: called as ``on_epoch(number, params)`` after each epoch, from 1 on, and once more
            after a ``finish`` above 0.
    """
    _check_settings(epochs, learning_rate, weight_decay, schedule, finish, together)
    single, stored = key.ndim == 0, isinstance(data, stream.Stored)
    with host():  # a single network is a stack of one, whose axis is dropped in the end
        keys, params = (_stack(key), _stack(params)) if single else (key, params)
    if stored and (not single or ks is not None or finish is not None):
        raise InputError("expected one network, no ks and no finish for stored samples; load them")
    num = _check_stacked(keys, params)
    n, bound = _ready(loss, _first(params), data, batch_size)
    seen = None if ks is None else _checked_sizes(ks, num, n)
    together = min(num, together or group_size(jax.default_backend(), params))
    last = epochs * len(cut(n, batch_size).starts) if schedule == "cosine" else None
    rates = learning_rate, weight_decay, last
    run = partial(_pieces if stored else epoch, batch_size, rates, together, bound)
    with host():
        states, epoch_keys = _start(rates, params), list(_split(keys, epochs))
    means, norms = np.zeros((epochs, num), np.float32), None

    def visit(number: int, params: Params, found: Array | np.ndarray, where: str) -> None:
        stream.wait((params, found))
        _check_finite(params, np.asarray(found), seen, where)
        if on_epoch is not None:
            on_epoch(number, _first(params) if single else params)

    for number, step_keys in enumerate(epoch_keys, start=1):
        with host():
            draws = orders(step_keys, n) if seen is None else step_keys
        states, found = run(states, draws, data, seen)
        where = f"epoch {number} of {epochs} at --learning-rate {learning_rate}"
        visit(number, states.params, found, where)
        means[number - 1] = found
    params = states.params
    if finish is not None:
        ends = jnp.full(num, n) if seen is None else seen
        params, found = _finish(together, bound, params, data, ends, weight_decay, finish)
        if finish:
            visit(epochs + 1, params, found, f"L-BFGS after --learning-rate {learning_rate}")
        norms = np.asarray(found)
    if single:
        return Fitted(_first(params), means[:, 0], None if norms is None else norms[0])
    return Fitted(params, means, norms)


def adam(
    learning_rate: float, weight_decay: float = 0.0, last: int | None = None
) -> optax.GradientTransformation:
    """Adam on the mean loss plus (λ/2)‖w‖², λ the weight decay.

    λ w is added to the gradient before Adam scales it, so that the minimum is that of this sum. The
    decoupled decay of AdamW shrinks w beside Adam's step and has no such loss. With ``last``, the
    learning rate falls to 0 at that step, as half a cosine does.
    """
    falls = None if last is None else optax.cosine_decay_schedule(learning_rate, max(1, last))
    steps = optax.adam(falls or learning_rate)
    return optax.chain(optax.add_decayed_weights(weight_decay), steps) if weight_decay else steps


@partial(jax.jit, static_argnums=0)
def _start(rates: Rates, params: Params) -> State:
    """The state of each network before its first step."""
    return State(params, jax.vmap(adam(*rates).init)(params))


@partial(jax.jit, static_argnums=1)
def _split(keys: Key[Array, "R"], epochs: int) -> Key[Array, "epochs R"]:
    """The key of every epoch of each network."""
    return jax.vmap(lambda key: jax.random.split(key, epochs), out_axes=1)(keys)


@partial(jax.jit, static_argnums=range(3))
def epoch(
    batch_size: int, rates: Rates, together: int, loss: PerSampleLoss,
    states: State, draws: Int[Array, "R n"] | Key[Array, "R"], data: Batch,
    ks: Int[Array, "R"] | None,
) -> tuple[State, Float[Array, "R"]]:  # fmt: skip
    """One epoch of R networks, ``together`` at a time: in ``orders``, or with ``ks`` by keys."""

    def one(network: tuple[State, Array, Array | None]) -> tuple[State, Float[Array, ""]]:
        state, draw, k = network
        return descend(rates, loss, state, data, *_batches(draw, k, length_of(data), batch_size))

    return jax.lax.map(one, (states, draws, ks), batch_size=together if together > 1 else None)


def _pieces(
    batch_size: int, rates: Rates, _: int, loss: PerSampleLoss,
    states: State, draws: Int[Array, "1 n"], data: stream.Stored, ks: Array | None,
) -> tuple[State, Float[np.ndarray, "1"]]:  # fmt: skip
    """One epoch of one network, by the steps of ``epoch``, over pieces of the shuffled samples."""
    rows, counted = map(np.asarray, _batches(draws[0], ks, data.n, batch_size))
    steps, means, state = max(1, PIECE // rows.shape[1]), [], _first(states)
    for start in range(0, len(rows), steps):
        own, fresh = rows[start : start + steps], counted[start : start + steps]
        piece, here = jax.device_put(data.read(own.ravel())), np.arange(own.size)
        state = jax.block_until_ready(state)
        state, mean = descend(rates, loss, state, piece, here.reshape(own.shape), fresh)
        means.append((mean, fresh.sum()))
    values, weights = map(np.asarray, zip(*means, strict=True))
    return _stack(state), np.average(values, weights=weights)[None]


@partial(jax.jit, static_argnums=1)
def orders(keys: Key[Array, "R"], n: int) -> Int[Array, "R n"]:
    """An order of n samples from each key. A TPU's compiler takes half a minute for the sort."""
    return jax.vmap(lambda key: jax.random.permutation(key, n))(keys)


def _batches(
    draw: Int[Array, "n"] | Key[Array, ""], k: Int[Array, ""] | None, n: int, batch_size: int
) -> tuple[Int[Array, "steps b"], Bool[Array, "steps b"]]:
    """The rows that each step takes, and which of them count.

    All n samples once in the order ``draw``: where the size of a batch does not divide n, the last
    one repeats rows of the one before, which do not count. Or with k, drawn by a key from the rows
    below k, with replacement: k may be traced, so one program serves all k.
    """
    chunks = cut(n, batch_size)
    if k is None:
        positions, fresh = chunks.computed()
        return draw[positions], fresh
    keys = jax.random.split(draw, len(chunks.starts))
    rows = jax.vmap(lambda key: jax.random.randint(key, (batch_size,), 0, k))(keys)
    return rows, jnp.ones(rows.shape, bool)


@partial(jax.jit, static_argnums=0)
def descend(
    rates: Rates, loss: PerSampleLoss, state: State, data: Batch,
    rows: Int[Array | np.ndarray, "steps b"], counted: Bool[Array | np.ndarray, "steps b"],
) -> tuple[State, Float[Array, ""]]:  # fmt: skip
    """One step of Adam per batch of rows, along the mean gradient over those that count.

    Returns the state after the last step, and the mean loss of all rows that count.
    """
    optimizer = adam(*rates)

    def batch_loss(params: Params, batch: Batch, counted: Array) -> tuple[Array, Array]:
        total = jnp.sum(jnp.where(counted, loss(params, batch), 0))
        return total / jnp.sum(counted), total

    def step(state: State, chosen: tuple[Any, Any]) -> tuple[State, Array]:
        rows, counted = chosen
        batch = jax.tree.map(lambda leaf: leaf[rows], data)
        gradient, total = jax.grad(batch_loss, has_aux=True)(state.params, batch, counted)
        update, moments = optimizer.update(gradient, state.optimizer, state.params)
        return State(optax.apply_updates(state.params, update), moments), total

    state, totals = jax.lax.scan(step, state, (rows, counted))
    return state, jnp.sum(totals) / jnp.sum(counted)


@partial(jax.jit, static_argnums=0)
def _finish(
    together: int, loss: PerSampleLoss, params: Params, data: Batch, ks: Int[Array, "R"],
    weight_decay: Scalar, steps: Scalar,
) -> tuple[Params, Float[Array, "R"]]:  # fmt: skip
    """L-BFGS on L_k + (λ/2)‖w‖² until it falls no further, and the norm of the gradient there."""
    solver = optax.lbfgs()

    def one(network: tuple[Params, Array]) -> tuple[Params, Float[Array, ""]]:
        params, k = network
        objective = _objective(loss, data, k, weight_decay)
        value_and_grad = optax.value_and_grad_from_state(objective)

        def step(carry: tuple) -> tuple:
            number, params, state, value, _ = carry
            _, gradient = value_and_grad(params, state=state)
            update, state = solver.update(
                gradient, state, params, value=value, grad=gradient, value_fn=objective
            )
            reached = optax.tree_utils.tree_get(state, "value")
            return number + 1, optax.apply_updates(params, update), state, reached, value

        def falling(carry: tuple) -> Array:
            number, _, _, value, before = carry
            return (number < steps) & (value < before)

        start = 0, params, solver.init(params), objective(params), jnp.inf
        params = jax.lax.while_loop(falling, step, start)[1]
        return params, optax.tree_utils.tree_norm(jax.grad(objective)(params))

    with jax.default_matmul_precision("highest"):  # of small differences
        return jax.lax.map(one, (params, ks), batch_size=together if together > 1 else None)


def _objective(
    loss: PerSampleLoss, data: Batch, k: Int[Array, ""], weight_decay: Scalar
) -> Callable[[Params], Float[Array, ""]]:
    """L_k(w) + (λ/2)‖w‖², with the gradient, from as many chunks as hold the first k samples."""
    chunks, take = cut(length_of(data), CHUNK), taker(data)
    positions, fresh = chunks.computed()

    def part(params: Params, index: Array) -> Array:
        values = loss(params, take(positions[index, 0], chunks.size))
        counted = fresh[index] & (positions[index] < k)
        return jnp.sum(jnp.where(counted, values, 0)) / k

    def both(params: Params) -> tuple[Array, Params]:
        def add(index: Array, total: tuple[Array, Params]) -> tuple[Array, Params]:
            return jax.tree.map(jnp.add, total, jax.value_and_grad(part)(params, index))

        decay = lambda w: weight_decay / 2 * optax.tree_utils.tree_norm(w, squared=True)  # noqa: E731
        return jax.lax.fori_loop(0, -(-k // chunks.size), add, jax.value_and_grad(decay)(params))

    objective = jax.custom_vjp(lambda params: both(params)[0])
    objective.defvjp(both, lambda gradient, scale: (jax.tree.map(lambda g: scale * g, gradient),))
    return objective


def group_size(backend: str, params: Params) -> int:
    """How many of R networks (leaves ``[R, ...]``) to train under one ``vmap``: a divisor of R.

    On an accelerator all; on a CPU as many as keep their optimiser's state in the cache. A
    remainder would be a second, smaller program.
    """
    leaves = jax.tree.leaves(params)
    num = leaves[0].shape[0]
    state = 4 * sum(leaf.nbytes for leaf in leaves) / num  # parameters, gradient, two moments
    most = num if backend != "cpu" else CACHE // state
    return max((size for size in range(1, num + 1) if num % size == 0 and size <= most), default=1)


_first = jax.jit(partial(jax.tree.map, lambda leaf: leaf[0]))
_stack = jax.jit(partial(jax.tree.map, lambda leaf: leaf[None]))


def _check_settings(
    epochs: int, learning_rate: float, weight_decay: float, schedule: str, finish: int | None,
    together: int | None,
) -> None:  # fmt: skip
    check_choice("schedule", schedule, ("constant", "cosine"))
    for what, value, fits in (
        ("at least 0 epochs", epochs, epochs >= 0),
        ("a learning rate above 0", learning_rate, 0 < learning_rate < np.inf),
        ("a weight decay of at least 0", weight_decay, 0 <= weight_decay < np.inf),
        ("at least 0 steps of L-BFGS", finish, finish is None or finish >= 0),
        ("together of at least 1", together, together is None or together >= 1),
    ):
        if not fits:
            raise InputError(f"expected {what}, found {value}; change it")


def _check_stacked(keys: Key[Array, "R"], params: Params) -> int:
    """The number R of networks."""
    num, shapes = len(keys), [jnp.shape(leaf) for leaf in jax.tree.leaves(params)]
    if num < 1 or any(shape[:1] != (num,) for shape in shapes):
        found = f"shapes {shapes}; stack them"
        raise InputError(f"expected parameters of {num} networks, one per key, found {found}")
    return num


def _ready(
    loss: PerSampleLoss, params: Params, data: Batch | stream.Stored, batch_size: int
) -> tuple[int, PerSampleLoss]:
    """The number of samples, and the loss as compiled programs take it."""
    if not isinstance(data, stream.Stored):
        return losses.ready(loss, params, data)
    few = data.read(np.arange(min(data.n, batch_size)))
    return data.n, losses.ready(loss, params, few)[1]


def _checked_sizes(ks: Sequence[int] | Int[np.ndarray, "R"], num: int, n: int) -> Int[Array, "R"]:
    if np.shape(ks) != (num,) or np.min(ks) < 1 or np.max(ks) > n:
        found = f"found {np.asarray(ks).tolist()}; change ks"
        raise InputError(f"expected {num} values of k from 1 to {n}, one per key, {found}")
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
        found = f"NaN or infinity in {which} in {where}; lower it, or look for NaN in the inputs"
        raise InputError(f"expected finite training losses and parameters, found {found}")


def mean_loss(
    loss: PerSampleLoss, params: Params, data: Batch, *, batch_size: int
) -> Float[Array, ""]:
    """L_n(w) = (1/n) Σ_i ℓ_i(w) over chunks of ``batch_size``, with products at full precision."""
    _, bound = losses.ready(loss, params, data, apart=False)
    return _mean(bound, params, data, batch_size)


@partial(jax.jit, static_argnums=3)
def _mean(loss: PerSampleLoss, params: Params, data: Batch, batch_size: int) -> Float[Array, ""]:
    chunks, take = cut(length_of(data), batch_size), taker(data)

    def step(total: Array, chunk: tuple[Array, Array]) -> tuple[Array, None]:
        start, fresh = chunk
        values = loss(params, take(start, chunks.size))
        return total + jnp.sum(jnp.where(fresh, values, 0)), None

    with jax.default_matmul_precision("highest"):
        pieces = jnp.asarray(chunks.starts), chunks.computed()[1]
        total, _ = jax.lax.scan(step, jnp.float32(0), pieces)
    return total / length_of(data)


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
