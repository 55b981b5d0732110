"""|L_{k+1} − L_k| at w* over widths and depths, of Kiselev and Grabovoy (2024).

Networks without biases of every width and depth are trained on the same samples. Those of one
depth are one stack of the widest: a ReLU network of few units equals one of many units whose
further weights are 0. Adam leaves them at exactly 0: a unit whose incoming weights are 0 puts out
0, where the derivative of ReLU is taken as 0, so no gradient reaches the weights on either side.

Exactly, |δ_k| = |ℓ_{k+1} − L_k| / (k+1). The numerator, what sample k+1 brings that is new, keeps
its level along k where samples are exchangeable; the factor 1/(k+1) is algebra.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key

import jaxscape as js
from experiments.common import console
from experiments.common.console import progress
from experiments.common.problem import Problem
from experiments.common.run_folder import Record
from experiments.paper import unraveling_report
from experiments.paper.bench import Bench
from jaxscape import InputError, losses, prefix
from jaxscape.lab import checkpoint, models, train
from jaxscape.lab.models import Model
from jaxscape.types import Batch, Params, PerSampleLoss

BETA = 0.99
"""Of the exponential average along k."""


def unraveling(bench: Bench) -> Record:
    """|L_{k+1} − L_k| at w* over widths and depths, networks without biases, mean over orders."""
    config, problem = bench.config, bench.problem
    values, entries = trained(bench)
    arrays = {"depth": np.asarray(config.depths), "width": np.asarray(config.widths)}
    arrays |= _curves(bench, values)
    law = first_order_law(arrays["deviation"][..., None], values.shape[-1], arrays["k"])
    found = unraveling_report.summarise(arrays, law, entries, problem) | {
        "orders": config.orders,
        "num_samples": values.shape[-1],
        "beta": BETA,
        "unit": bench.unit,
    }
    figures = unraveling_report.figures_of(bench, arrays, law, found)
    words = {"tables": [unraveling_report.table(found)], "notes": unraveling_report.notes(found)}
    return Record(arrays, found | words, figures)


class Task(NamedTuple):
    """What the networks are trained and tested on: inputs from −1 to 1, targets."""

    samples: Batch
    tests: Batch | None
    num_outputs: int


def task_of(problem: Problem) -> Task:
    """The problem's data, its inputs scaled so that the training samples' span −1 to 1.

    Images, whose values go from 0 to 1, become 2x − 1.

    Raises:
        InputError: inputs that are all equal.
    """
    inputs, dataset = problem.samples["inputs"], problem.dataset
    num_outputs = jax.eval_shape(problem.model.apply, problem.initial, inputs[:1]).shape[-1]
    low, high = float(jnp.min(inputs)), float(jnp.max(inputs))
    if not low < high:
        raise InputError(
            f"expected inputs that differ, to be scaled to [-1, 1], found {low} everywhere; "
            "look at the data"
        )

    def ready(inputs: Any, targets: Any) -> Batch:
        targets = jnp.asarray(targets)
        if not jnp.issubdtype(targets.dtype, jnp.integer):
            targets = targets.reshape(-1, num_outputs)
        return {"inputs": 2 * (jnp.asarray(inputs) - low) / (high - low) - 1, "targets": targets}

    has_tests = dataset.test_inputs is not None
    tests = ready(dataset.test_inputs, dataset.test_targets) if has_tests else None
    return Task(ready(inputs, problem.samples["targets"]), tests, num_outputs)


def trained(bench: Bench) -> tuple[Float[np.ndarray, "d w n"], list[dict[str, Any]]]:
    """ℓ_i(w*) of d depths by w widths, and an entry per network, depth after depth.

    Those of one depth are trained in one compiled program.

    Raises:
        InputError: inputs that are all equal, or a network that diverged.
    """
    task = task_of(bench.problem)
    found = [_of_depth(bench, task, depth) for depth in bench.config.depths]
    return np.stack([values for values, _ in found]), [e for _, entries in found for e in entries]


def _of_depth(
    bench: Bench, task: Task, depth: int
) -> tuple[Float[np.ndarray, "w n"], list[dict[str, Any]]]:
    """ℓ_i(w*) of one depth's networks, and the entry of each."""
    config, classes = bench.config, bench.problem.dataset.num_classes
    started = time.monotonic()
    build = partial(models.build, "mlp", num_outputs=task.num_outputs, layers=depth, bias=False)
    of_width = lambda width: build(hidden=width)  # noqa: E731
    keys = jax.random.fold_in(bench.problem.keys["init"], depth)
    keys = jax.random.split(keys, len(config.widths))
    initial, sizes = stacked_initial(of_width, config.widths, keys, task.samples["inputs"])
    apply = of_width(max(config.widths)).apply
    loss = losses.supervised(apply, losses.cross_entropy if classes else losses.squared_error)
    params = _fit(bench, loss, initial, task.samples, depth)

    def accuracy(w: Params, batch: Batch | None) -> float | None:
        if not classes or batch is None:
            return None
        return float(train.accuracy(apply, w, batch["inputs"], batch["targets"], batch_size=1000))

    values, entries = [], []
    for row, width in enumerate(config.widths):
        w = jax.tree.map(lambda leaf, row=row: leaf[row], params)
        values.append(np.asarray(js.per_sample_losses(loss, w, task.samples)))
        entries.append(
            {
                "depth": depth,
                "width": width,
                "num_parameters": sizes[row],
                "train_loss": float(values[row].mean(dtype=np.float64)),
                "train_accuracy": accuracy(w, task.samples),
                "test_accuracy": accuracy(w, task.tests),
            }
        )
    what = f"{len(config.widths)} networks, {config.epochs} epochs"
    console.stage(f"depth {depth}", what, time.monotonic() - started)
    return np.stack(values), entries


def _fit(bench: Bench, loss: PerSampleLoss, params: Params, samples: Batch, depth: int) -> Params:
    """The stacked networks of one depth, trained or restored."""
    config, name = bench.config, f"unraveling-{depth}"
    if checkpoint.exists(bench.store, name):
        return checkpoint.restore(bench.store, name, params)
    key = jax.random.fold_in(bench.problem.keys["train"], depth)
    with progress(f"depth {depth}", config.epochs, "epochs") as advance:
        found = train.fit(
            jax.random.split(key, len(config.widths)), loss, params, samples,
            epochs=config.epochs, batch_size=config.batch_size,
            learning_rate=config.learning_rate, together=len(config.widths),
            on_epoch=lambda *_: advance(1),
        ).params  # fmt: skip
    checkpoint.save(bench.store, name, found)
    return found


def stacked_initial(
    build: Callable[[int], Model],
    widths: Sequence[int],
    keys: Key[Array, "R"],
    inputs: Float[Array, "n ..."],
) -> tuple[Params, list[int]]:
    """Initial parameters, leaves ``[R, a, b]``, and the number of parameters of each network.

    Each network is a corner of one of the widest, drawn from its key, times √(fan-in of the
    widest / own fan-in): LeCun's normal, which is Flax's default, has a standard deviation of
    1/√fan-in. Thus one compiled program draws them all.

    Args:
        build: ``build(width)`` is an mlp without biases, of the same depth at every width.
        widths: units per hidden layer of each network.
        keys: one for each network.
        inputs: of the data, for their shape.
    """
    wide = jax.vmap(lambda key: build(max(widths)).init(key, inputs))(keys)
    shapes = [jax.eval_shape(build(width).init, keys[0], inputs) for width in widths]

    def corners(drawn: Float[Array, "R a b"], *kept: jax.ShapeDtypeStruct) -> np.ndarray:
        leaf = np.asarray(drawn)
        padded = np.zeros_like(leaf)
        for row, (rows, columns) in enumerate(like.shape for like in kept):
            scale = np.sqrt(leaf.shape[1] / rows, dtype=leaf.dtype)
            padded[row, :rows, :columns] = scale * leaf[row, :rows, :columns]
        return padded

    sizes = [sum(leaf.size for leaf in jax.tree.leaves(shape)) for shape in shapes]
    return jax.tree.map(corners, wide, *shapes), sizes


def _curves(bench: Bench, values: Float[np.ndarray, "d w n"]) -> dict[str, np.ndarray]:
    """Everything that depends on k, and what the order laws need."""
    started = time.monotonic()
    depths, widths, n = values.shape
    flat = values.reshape(-1, n)
    orders = over_orders(jax.random.split(bench.problem.keys["order"], bench.config.orders), flat)
    found: dict[str, Any] = {
        "increment": orders.mean,
        "increment_square": orders.square,
        "smoothed": exponential(orders.mean),
        "deviation": deviation(flat),
        "loss_variance": flat.var(-1, ddof=1, dtype=np.float64),
    }
    if bench.config.as_published:
        found["published"] = exponential(orders.mean, as_published=True)
    found = {name: np.asarray(x).reshape(depths, widths, *x.shape[1:]) for name, x in found.items()}
    console.stage("orders", f"{bench.config.orders} of {n:,} samples", time.monotonic() - started)
    return {"k": np.arange(1, n)} | found


class Orders(NamedTuple):
    """Means over R random orders, at m points for k = 1..n−1."""

    mean: Float[Array, "m n-1"]
    """Of |δ_k|."""
    square: Float[Array, "m n-1"]
    """Of δ_k²."""


@jax.jit
def over_orders(keys: Key[Array, "R"], losses: Float[Array, "m n"]) -> Orders:
    """The mean of |δ_k| and of δ_k² over R orders drawn with equal probability, one for each key.

    All points see the same orders. Memory is that of a few copies of the losses ℓ_i.
    """
    m, n = losses.shape
    losses -= jnp.median(losses, -1, keepdims=True)  # δ stays; exactly 0 where all losses are equal

    def add(total: Orders, key: Key[Array, ""]) -> tuple[Orders, None]:
        size = jnp.abs(prefix.increments(losses[:, jax.random.permutation(key, n)]))
        return Orders(total.mean + size, total.square + size**2), None

    zeros = jnp.zeros((m, n - 1), losses.dtype)
    total, _ = jax.lax.scan(add, Orders(zeros, zeros), keys)
    return jax.tree.map(lambda x: x / len(keys), total)


def deviation(losses: Float[ArrayLike, "m n"]) -> Float[np.ndarray, "m"]:
    """M = (1/n) Σ_i |ℓ_i − L_n|, the mean absolute deviation at each point."""
    losses = np.asarray(losses, np.float64)
    losses = losses - np.median(losses, -1, keepdims=True)  # exactly 0 where all are equal
    return np.abs(losses - losses.mean(-1, keepdims=True)).mean(-1)


def first_order_law(
    deviation: Float[ArrayLike, "*m"], n: int, k: Int[np.ndarray, "*k"]
) -> Float[np.ndarray, "..."]:
    """M n / ((n−1) (k+1)): the average of |δ_k| over all orders of n samples, as k grows.

    Given that sample i comes next, L_k is on average (n L_n − ℓ_i) / (n−1), so that ℓ_i − L_k is
    n/(n−1) (ℓ_i − L_n) plus a remainder of mean 0. By Jensen's inequality the average of |δ_k| is
    therefore nowhere below this law; at k = n−1 the remainder is 0, and they are equal. Since a
    mean is at most a root mean square, it is nowhere above √(S²/(k(k+1))), the root of the order
    law of δ_k² (``jaxscape.order_law``). The arguments broadcast.
    """
    return np.asarray(deviation) * n / (n - 1) / (np.asarray(k, np.float64) + 1)


def exponential(
    values: Float[Array, "... K"], *, beta: float = BETA, as_published: bool = False
) -> Float[Array, "... K"]:
    """s_k of |δ_k|, ``values`` at k = 1..K: a / (k+1), with a the average of (j+1) |δ_j|, j ≤ k.

    Weights are in proportion to β^(k−j) and sum to one at every k, as Adam's do (Kingma & Ba 2015,
    section 3). A multiple of 1/(k+1) is its own average. Where (k+1) |δ_k| has a trend, its average
    lags 1/(1−β) values behind, as that of any past does. Averaging |δ_k| itself instead is too high
    at every k: for an exact 1/(k+1) and β = 0.99 more than twice at k = 100.

    As published: s_1 = |δ_1|, then s_k = β s_{k−1} + (1−β) |δ_k|, in which the first value keeps
    the weight β^(k−1) and the past is not scaled to the present.
    """
    values = jnp.asarray(values)
    k = np.arange(1, values.shape[-1] + 1, dtype=np.float64)
    if as_published:
        return _average(values, np.where(k == 1, 1, 1 - beta))
    return _average(values * (k + 1), (1 - beta) / (1 - beta**k)) / (k + 1)


@jax.jit
def _average(values: Float[Array, "... K"], gains: Float[Array, "K"]) -> Float[Array, "... K"]:
    """s_k = s_{k−1} + gain_k (y_k − s_{k−1}), s_0 = 0."""

    def step(average: Array, entry: tuple[Array, Array]) -> tuple[Array, Array]:
        value, gain = entry
        average = average + gain * (value - average)
        return average, average

    along = jnp.moveaxis(values, -1, 0)
    gains = gains.astype(values.dtype)
    return jnp.moveaxis(jax.lax.scan(step, jnp.zeros_like(along[0]), (along, gains))[1], 0, -1)
