"""What the networks of several widths and depths are given: inputs from −1 to 1, targets.

Networks without biases of every width and depth, trained on the same samples.

|L_{k+1} − L_k| over widths and depths, of Kiselev and Grabovoy (2024).

Networks of several widths as one stack of the widest.

A ReLU network of few units equals one of many units whose further weights are 0. Adam leaves them
at exactly 0: a unit whose incoming weights are 0 puts out 0, where the derivative of ReLU is taken
as 0, so no gradient reaches the weights on either side of it.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key
from matplotlib.figure import Figure

from experiments.common import console
from experiments.common.console import progress
from experiments.common.problem import Problem
from experiments.common.run_folder import Record, marks
from experiments.paper import bench as benches
from experiments.paper import unraveling_report
from experiments.paper.bench import Bench
from jaxscape import InputError, batching, losses
from jaxscape.lab import checkpoint, models, train
from jaxscape.lab.models import Model
from jaxscape.prefix_spectra import geometric
from jaxscape.types import Batch, Params, PerSampleLoss


class Task(NamedTuple):
    """What the networks are given: inputs from −1 to 1, targets."""

    samples: Batch
    tests: Batch | None
    num_outputs: int


def of(problem: Problem) -> Task:
    """The problem's data, its inputs scaled so that the training samples' span −1 to 1.

    Images, whose values go from 0 to 1, become 2x − 1.

    Raises:
        InputError: inputs that are all equal.
    """
    inputs = problem.samples["inputs"]
    num_outputs = jax.eval_shape(problem.apply, problem.initial, inputs[:1]).shape[-1]
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

    dataset = problem.dataset
    tests = None
    if dataset.test_inputs is not None:
        tests = ready(dataset.test_inputs, dataset.test_targets)
    return Task(ready(inputs, problem.samples["targets"]), tests, num_outputs)


BATCH_SIZE = 1000
"""Samples per chunk where losses are taken."""


class Networks(NamedTuple):
    """What d depths by w widths came to."""

    losses: Float[np.ndarray, "d w n"]  #: ℓ_i(w*)
    entries: list[dict[str, Any]]  #: depth after depth, in each width after width


def trained(bench: Bench) -> Networks:
    """All networks; those of one depth are trained in one compiled program.

    Raises:
        InputError: inputs that are all equal, or a network that diverged.
    """
    task = of(bench.problem)
    found = [_of_depth(bench, task, depth) for depth in bench.config.depths]
    return Networks(
        np.stack([values for values, _ in found]),
        [entry for _, entries in found for entry in entries],
    )


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
    right = _right(apply) if classes else None
    params = _fit(bench, loss, initial, task.samples, depth)
    values, trained = look(loss, right, params, task.samples)
    tested = None if task.tests is None else look(loss, right, params, task.tests)[1]
    values = np.asarray(values)
    entries = [
        {
            "depth": depth,
            "width": width,
            "num_parameters": sizes[row],
            "train_loss": float(values[row].mean(dtype=np.float64)),
            "train_accuracy": None if trained is None else float(trained[row]),
            "test_accuracy": None if tested is None else float(tested[row]),
        }
        for row, width in enumerate(config.widths)
    ]
    what = f"{len(config.widths)} networks, {config.epochs} epochs"
    console.stage(f"depth {depth}", what, time.monotonic() - started)
    return values, entries


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


def _right(apply: Any) -> PerSampleLoss:
    """1 for each sample whose largest output is that of its class, else 0."""

    def right(params: Params, batch: Batch) -> Float[Array, "n"]:
        return train.correct(apply(params, batch["inputs"]), batch["targets"])

    return right


@partial(jax.jit, static_argnums=(0, 1))
def look(
    loss: PerSampleLoss, right: PerSampleLoss | None, params: Params, data: Batch
) -> tuple[Float[Array, "w n"], Float[Array, "w"] | None]:
    """ℓ_i and the mean of ``right`` of stacked networks, in one pass over chunks of samples."""
    n = batching.length_of(data)
    pieces = batching.cut(n, BATCH_SIZE)

    def at(w: Params, batch: Batch) -> tuple[Array, Array]:
        with jax.default_matmul_precision("highest"):
            values = loss(w, batch)
            return values, jnp.zeros_like(values) if right is None else right(w, batch)

    def chunk(_: None, start: Array) -> tuple[None, tuple[Array, Array]]:
        batch = batching.take(data, start, pieces.size)
        return None, jax.vmap(at, in_axes=(0, None), out_axes=1)(params, batch)

    rows = jax.lax.scan(chunk, None, jnp.asarray(pieces.starts))[1]
    values, correct = batching.join(pieces, rows)
    return values.T, None if right is None else correct.mean(0)


DRAWN = 400
"""Values of k, equally spaced in their logarithm, at which curves are drawn."""


def find(bench: Bench) -> Record:
    """|L_{k+1} − L_k| at w* over widths and depths, networks without biases, mean over orders."""
    config, problem = bench.config, bench.problem
    networks = trained(bench)
    arrays = {"depth": np.asarray(config.depths), "width": np.asarray(config.widths)}
    arrays |= _curves(bench, networks.losses)
    found = unraveling_report.summarise(arrays, networks.entries, problem) | {
        "orders": config.orders,
        "num_samples": networks.losses.shape[-1],
        "beta": unraveling_report.BETA,
        "unit": benches.unit(problem),
    }
    figures = _figures(arrays, found, marks(problem) | {"unit": found["unit"]})
    return Record(arrays, found | {"seen": unraveling_report.seen(found)}, figures)


def _curves(bench: Bench, losses: Float[np.ndarray, "d w n"]) -> dict[str, np.ndarray]:
    """Everything that hangs on k, and what the order laws need."""
    started = time.monotonic()
    depths, widths, n = losses.shape
    flat = losses.reshape(-1, n)
    orders = unraveling_report.over_orders(bench.problem.keys["order"], flat, bench.config.orders)
    found: dict[str, Any] = {
        "increment": orders.mean,
        "increment_square": orders.square,
        "smoothed": unraveling_report.exponential(orders.mean),
        "deviation": unraveling_report.deviation(flat),
        "loss_variance": flat.var(-1, ddof=1, dtype=np.float64),
    }
    if bench.config.as_published:
        found["published"] = unraveling_report.exponential(orders.mean, as_published=True)
    found = {name: np.asarray(x).reshape(depths, widths, *x.shape[1:]) for name, x in found.items()}
    console.stage("orders", f"{bench.config.orders} of {n:,} samples", time.monotonic() - started)
    return {"k": np.arange(1, n)} | found


def _figures(
    arrays: dict[str, np.ndarray], found: dict[str, Any], marks: dict[str, Any]
) -> dict[str, Figure]:
    depths, widths = arrays["depth"].tolist(), arrays["width"].tolist()
    at = geometric(1, len(arrays["k"]), DRAWN)
    law = unraveling_report.first_order_law(
        arrays["deviation"][..., None], found["num_samples"], at
    )
    over = f"mean of {found['orders']} orders"
    averages = {
        "smoothed": ("increments", f"{over}, exponential average along $k$"),
        "published": ("increments-as-published", f"{over}, averaged along $k$ as published"),
    }
    figures = {
        name: unraveling_report.increments(
            at, arrays[which][..., at - 1], law, depths, widths, average=average, **marks
        )
        for which, (name, average) in averages.items()
        if which in arrays
    }
    level, train_loss = (
        np.reshape([entry[name] for entry in found["networks"]], (len(depths), len(widths)))
        for name in ("level", "train_loss")
    )
    figures["levels"] = unraveling_report.levels(
        widths, depths, arrays["deviation"], level, train_loss, **marks
    )
    return figures


def stacked_initial(
    build: Callable[[int], Model],
    widths: Sequence[int],
    keys: Key[Array, "R"],
    inputs: Float[Array, "n ..."],
) -> tuple[Params, list[int]]:
    """Initial parameters, leaves ``[R, a, b]``, and the number of parameters of each network.

    ``build(width)`` is an mlp without biases, of the same depth at every width. Each network is a
    corner of one of the widest, drawn from its key, times √(fan-in of the widest / own fan-in):
    LeCun's normal, which is Flax's default, has a standard deviation of 1/√fan-in. Thus one
    compiled program draws them all.
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
