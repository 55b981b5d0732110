"""Networks without biases of every width and depth, trained on the same samples."""

import time
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments import say
from experiments.paper import unraveling_task
from experiments.paper.bench import Bench
from experiments.paper.unraveling_task import Task
from experiments.progress import progress
from jaxscape import chunks, losses
from jaxscape.lab import checkpoint, ensemble, models, train, widths
from jaxscape.types import Batch, Params, PerSampleLoss

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
    task = unraveling_task.of(bench.problem)
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
    initial, sizes = widths.initial(of_width, config.widths, keys, task.samples["inputs"])
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
    say.stage(f"depth {depth}", what, time.monotonic() - started)
    return values, entries


def _fit(bench: Bench, loss: PerSampleLoss, params: Params, samples: Batch, depth: int) -> Params:
    """The stacked networks of one depth, trained or restored."""
    config, name = bench.config, f"unraveling-{depth}"
    if checkpoint.exists(bench.store, name):
        return checkpoint.restore(bench.store, name, params)
    key = jax.random.fold_in(bench.problem.keys["train"], depth)
    with progress(f"depth {depth}", config.epochs, "epochs") as advance:
        found = ensemble.fit(
            loss, params, samples,
            epochs=config.epochs, batch_size=config.batch_size,
            learning_rate=config.learning_rate, keys=jax.random.split(key, len(config.widths)),
            together=len(config.widths), on_epoch=lambda number: advance(1),
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
    n = chunks.length_of(data)
    pieces = chunks.cut(n, BATCH_SIZE)

    def at(w: Params, batch: Batch) -> tuple[Array, Array]:
        with jax.default_matmul_precision("highest"):
            values = loss(w, batch)
            return values, jnp.zeros_like(values) if right is None else right(w, batch)

    def chunk(_: None, start: Array) -> tuple[None, tuple[Array, Array]]:
        batch = chunks.take(data, start, pieces.size)
        return None, jax.vmap(at, in_axes=(0, None), out_axes=1)(params, batch)

    rows = jax.lax.scan(chunk, None, jnp.asarray(pieces.starts))[1]
    values, correct = chunks.join(pieces, rows)
    return values.T, None if right is None else correct.mean(0)
