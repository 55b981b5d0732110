"""Networks trained as in the reference code, for the level of Δ_k·k² that it reports.

There the network is the same, but sees the first 9,984 samples, 156 whole batches, standardised,
and starts from PyTorch's default initialisation: every parameter of a layer of ``f`` inputs is
uniform on ±1/√f.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxscape as js
from experiments.common import tables
from experiments.common.console import progress
from experiments.common.run_folder import Record
from experiments.paper import bench as benches
from experiments.paper import drawings, published
from experiments.paper.bench import Bench
from experiments.paper.drawings import Curve
from experiments.paper.published import delta_and_losses
from jaxscape.lab import train
from jaxscape.types import Batch, Params

NETWORKS = 4


SAMPLES = published.BATCH * (10_000 // published.BATCH)


SIGMA = 1.0


DIM = 10


LEVEL = 2.4
"""Δ_k·k² of the published curve on MNIST."""


NAMES = ("published", "all_directions", "corrected")


class Replication(NamedTuple):
    """What each of R networks gives at σ = 1 along its top ten eigenvectors."""

    train_loss: np.ndarray  #: [R]
    published: np.ndarray  #: [R, K] Δ_k, first direction, k in batches
    all_directions: np.ndarray  #: [R, K] as published but for this
    corrected: np.ndarray  #: [R, n−1] Δ_k, all directions, k in samples

    def levels(self, name: str) -> np.ndarray:
        """The mean of Δ_k·k² over late k, [R]."""
        curves = getattr(self, name)
        k = np.arange(1, curves.shape[1] + 1)
        return np.asarray([tables.level(k, curve) for curve in curves])


def replicate(bench: Bench) -> Replication:
    """Train the networks one after another, and evaluate Δ_k around each."""
    samples = standardised(bench)
    rows = []
    with progress("networks as published", NETWORKS, "networks") as advance:
        for number in range(NETWORKS):
            rows.append(_one(bench, samples, number))
            advance(1)
    return Replication(*(np.stack(column) for column in zip(*rows, strict=True)))


def standardised(bench: Bench) -> Batch:
    """The data set's first samples, less the mean, over the standard deviation, of all inputs."""
    dataset = bench.problem.dataset
    count = min(SAMPLES, bench.config.k_max)
    inputs = dataset.train_inputs[:]
    scaled = (inputs[:count] - inputs.mean()) / max(inputs.std(), np.finfo(np.float32).tiny)
    return {"inputs": jnp.asarray(scaled), "targets": jnp.asarray(dataset.train_targets[:count])}


@jax.jit
def uniform(key: jax.Array, params: Params) -> Params:
    """Parameters of the same layers, weights and biases uniform on ±1/√f."""

    def layer(key: jax.Array, values: Params) -> Params:
        bound = values["kernel"].shape[0] ** -0.5
        keys = dict(zip(values, jax.random.split(key, len(values)), strict=True))
        return {
            name: jax.random.uniform(keys[name], leaf.shape, leaf.dtype, -bound, bound)
            for name, leaf in values.items()
        }

    keys = dict(zip(params, jax.random.split(key, len(params)), strict=True))
    return {name: layer(keys[name], values) for name, values in params.items()}


def _one(bench: Bench, samples: Batch, number: int) -> tuple[np.ndarray, ...]:
    problem, config = bench.problem, bench.config
    key = {name: jax.random.fold_in(problem.keys[name], number) for name in problem.keys}
    params = train.fit(
        key["train"], problem.loss, uniform(key["init"], problem.initial), samples,
        epochs=config.epochs, batch_size=config.batch_size, learning_rate=config.learning_rate,
    ).params  # fmt: skip
    operator = js.hessian_operator(problem.loss, params, samples)
    pairs = js.top_eigenpairs(key["subspace"], operator, params, DIM, which="magnitude")
    space = js.Subspace(params, pairs.vectors)
    points = SIGMA * jax.random.normal(key["probe"], (config.points, DIM))
    first = js.points(benches.leading(space, 1), points[:, :1])
    losses = js.evaluate(problem.loss, first, samples, js.reductions.losses(config.points))
    curve, every = delta_and_losses(problem.loss, js.points(space, points), samples)
    return (
        np.asarray(train.mean_loss(problem.loss, params, samples, batch_size=1000)),
        *(published.delta(key["order"], rows) for rows in (losses, every)),
        np.asarray(curve.mean),
    )


def sentence(found: Replication, unit: str) -> str:
    """Levels of Δ_k·k² in words, each the mean over networks with its standard error."""
    levels = {name: found.levels(name) for name in NAMES}
    words = {
        name: f"{values.mean():.3g} ± {values.std(ddof=1) / np.sqrt(len(values)):.2g}"
        for name, values in levels.items()
    }
    low, high = levels["published"].min(), levels["published"].max()
    n = found.corrected.shape[1] + 1
    return (
        f" On {NETWORKS} networks trained as in the reference code ({n:,} standardised samples, "
        f"training loss {found.train_loss.mean():.3g}), σ = {SIGMA:g}, the published computation "
        f"gives {words['published']} {unit} (from {low:.3g} to {high:.3g}; published on MNIST: "
        f"{LEVEL}), with all {DIM} directions {words['all_directions']}, and with k in samples "
        f"{words['corrected']}."
    )


def add(bench: Bench, found: Record) -> Record:
    """Add the published computation on networks trained as published."""
    again = replicate(bench)
    arrays = {f"replication_{name}": values for name, values in again._asdict().items()}
    levels = {name: again.levels(name).tolist() for name in NAMES}
    curves = [
        Curve(label, np.arange(1, values.shape[1] + 1), values.mean(0),
              values.std(0, ddof=1) / np.sqrt(len(values)))
        for label, values in (
            ("first direction", again.published), ("all ten", again.all_directions)
        )
    ]  # fmt: skip
    marks = benches.marks(bench.problem)
    where = f"{NETWORKS} networks trained as published, σ = {SIGMA:g}"
    panel = {"as published: k in batches of 64": curves}
    figure = drawings.increments(panel, scaled=True, where=where, **marks)
    seen = found.summary["seen"] + sentence(again, marks["unit"])
    more = {"replication_levels": levels, "replication_train_loss": again.train_loss.tolist()}
    return Record(
        dict(found.arrays) | arrays,
        dict(found.summary) | more | {"seen": seen},
        dict(found.figures) | {"replication": figure},
    )
