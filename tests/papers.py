"""A small bench of the papers' figures, beside it NumPy: a network of one hidden layer."""

import contextlib
from unittest import mock

import command
import jax
import numpy as np
from cases import at64
from sweeps import flax_losses64

import jaxscape as js
from experiments.common import problem as problems
from experiments.common.prepare import Directions
from experiments.paper import bench as benches
from experiments.paper.bench import TOP, Bench, PaperConfig
from jaxscape.lanczos import Eigenpairs

POINTS = 4


@contextlib.contextmanager
def bench(folder, **settings):
    """300 samples around w*, here an untrained network, and 16 random directions for eigenvectors.

    A figure's numbers are to be right wherever it looks, so nothing is trained or solved for.
    """
    command.clouds(folder / "clouds.npz")
    small = {"k_max": 300, "hidden": 16, "layers": 1, "epochs": 2, "points": POINTS, "num": 3}
    config = PaperConfig(
        figures=("fig1",), dataset=f"npz:{folder / 'clouds.npz'}", many_points=8, **small | settings
    )
    problem = problems.load(config)
    space = js.random_subspace(jax.random.key(1), problem.initial, TOP)
    values, good = np.linspace(4, 1, TOP), np.ones(TOP, bool)
    pairs = Eigenpairs(values, space.basis, values / 1e6, good, np.int32(40))
    found = Directions(space, pairs, 0.0)
    with (
        mock.patch.object(benches, "trained", return_value=problem.initial),
        mock.patch.object(benches, "hessian", return_value=found),
    ):
        yield Bench(problem, config, folder)


def losses64(given, space, coordinates):
    """ℓ_i(w(θ)) of every sample at the rows θ, [m, n]."""
    return np.stack([flax_losses64(at64(space, theta), given.problem.samples)
                     for theta in coordinates])  # fmt: skip


def batch_means(row, start=0):
    """The means of batches of 64."""
    return [np.mean(row[i : i + 64]) for i in range(start, len(row), 64)]


def published64(key, rows):
    """Δ_k as published: k in batches, the samples of each point in an order of its own."""
    squares = []
    for point_key, row in zip(jax.random.split(key, len(rows)), rows, strict=True):
        means = batch_means(row[np.asarray(jax.random.permutation(point_key, len(row)))])
        prefix = [np.mean(means[: k + 1]) for k in range(len(means))]
        squares.append(np.diff(prefix) ** 2)
    return np.mean(squares, 0)


def quadratic64(space, samples):
    """Value, gradient and Hessian along the directions of each sample's cross-entropy at w*."""
    w, v = (
        jax.tree.map(lambda x: np.asarray(x, np.float64), t) for t in (space.origin, space.basis)
    )
    x, n = np.asarray(samples["inputs"], np.float64), len(samples["targets"])
    first, last = (w[name] for name in ("Dense_0", "Dense_1"))
    along = v["Dense_0"]["kernel"], v["Dense_0"]["bias"], v["Dense_1"]["kernel"]
    reach = x @ first["kernel"] + first["bias"]
    hidden, on = np.maximum(reach, 0), (reach > 0).astype(float)
    moved = on * (np.einsum("ni,dih->dnh", x, along[0]) + along[1][:, None])
    slope = moved @ last["kernel"] + hidden @ along[2] + v["Dense_1"]["bias"][:, None]
    bend = np.einsum("dnh,ehc->denc", moved, along[2])
    bend = bend + bend.swapaxes(0, 1)  # of the outputs, which are piecewise products of two layers
    outputs = hidden @ last["kernel"] + last["bias"]
    p = np.exp(outputs - outputs.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    right = np.arange(n), np.asarray(samples["targets"])
    gap = p.copy()
    gap[right] -= 1
    gradient = np.einsum("nc,dnc->nd", gap, slope)
    mean = np.einsum("nc,dnc->dn", p, slope)
    hessian = np.einsum("nc,dnc,enc->nde", p, slope, slope) - np.einsum("dn,en->nde", mean, mean)
    return -np.log(p[right]), gradient, hessian + np.einsum("nc,denc->nde", gap, bend)
