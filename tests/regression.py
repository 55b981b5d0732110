"""A small linear regression, with its per-sample losses and Δ_k in float64."""

import jax
import jax.numpy as jnp
import numpy as np
from cases import increments64

import jaxscape as js

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 4)).astype(np.float32)
Y = (X @ np.arange(4) + RNG.normal(size=60)).astype(np.float32)
DATA = {"x": X, "y": Y}
P = {"w": jnp.full(4, 0.3), "b": jnp.zeros(())}


def loss(params, batch):
    return 0.5 * (batch["x"] @ params["w"] + params["b"] - batch["y"]) ** 2


SPACE = js.random_subspace(KEY, P, dim=2)
PROBE = js.gaussian(KEY, SPACE, num_points=8, sigma=0.1)


def losses64(probe=PROBE, data=DATA):
    rows = []
    for index in range(probe.num_points):
        w = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), probe.at(index))
        rows.append(0.5 * (np.asarray(data["x"], np.float64) @ w["w"] + w["b"] - data["y"]) ** 2)
    return np.stack(rows)


def delta64():
    return (increments64(losses64()) ** 2).mean(0)
