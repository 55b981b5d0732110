"""A small bench of the papers' figures, beside it NumPy: a network of one hidden layer."""

import command
import jax
import numpy as np
from cases import at64
from sweeps import flax_losses64

import jaxscape as js
from experiments.common import problem as problems
from experiments.paper.bench import TOP, Bench, PaperConfig
from jaxscape.lab import checkpoint
from jaxscape.lanczos import Eigenpairs

POINTS = 4


def bench(folder, **settings):
    """300 samples around w*, here an untrained network, and 16 random directions for eigenvectors.

    Both are left in the folder as an earlier figure would, so that nothing is trained or solved
    for: a figure's numbers are to be right wherever it looks.
    """
    command.clouds(folder / "clouds.npz")
    small = {"k_max": 300, "hidden": 24, "layers": 1, "epochs": 2, "points": POINTS, "num": 3}
    small |= {"networks": 2, "network_dim": 12}
    config = PaperConfig(
        figures=("fig1",), dataset=f"npz:{folder / 'clouds.npz'}", **small | settings
    )
    problem = problems.load(config)
    checkpoint.save(folder, "trained", problem.initial)
    basis = js.random_subspace(jax.random.key(1), problem.initial, TOP).basis
    values = np.linspace(4, 1, TOP, dtype=np.float32)
    pairs = Eigenpairs(values, basis, values / 1_000_000, np.ones(TOP, bool), np.int32(40))
    checkpoint.save(folder, "subspace", pairs)
    return Bench(problem, config, folder)


def losses64(samples, space, coordinates):
    """ℓ_i(w(θ)) of every sample at the rows θ, [m, n]."""
    return np.stack([flax_losses64(at64(space, theta), samples) for theta in coordinates])


def close(found, expected, rtol=1e-4):
    """Curves agree after k² has taken out their fall."""
    scale = (np.arange(1, np.shape(expected)[-1] + 1) + 1.0) ** 2
    np.testing.assert_allclose(
        found * scale, expected * scale, rtol=rtol, atol=rtol * 1e-2 * np.max(expected * scale)
    )


def published64(key, rows):
    """Δ_k as published: k in batches of 64, the samples of each point in an order of its own."""
    squares = []
    for point_key, row in zip(jax.random.split(key, len(rows)), rows, strict=True):
        row = np.asarray(row, np.float64)[np.asarray(jax.random.permutation(point_key, len(row)))]
        means = [np.mean(row[i : i + 64]) for i in range(0, len(row), 64)]
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
