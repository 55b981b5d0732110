"""What the figures share: the problem, the trained network, directions through it."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxscape as js
from experiments import prepare, record
from experiments.paper.config import PaperConfig
from experiments.prepare import Directions
from experiments.problem import Problem
from jaxscape.types import Params

SIGMAS = (0.01, 1.0)
"""Standard deviations close to w* and far from it, for the figures that the papers give one σ."""


class Bench(NamedTuple):
    """A problem, and the folder in which what was computed for one figure serves the next."""

    problem: Problem
    config: PaperConfig
    store: Path


def trained(bench: Bench) -> Params:
    """w*."""
    return prepare.trained(bench.problem, bench.config, bench.store)[0]


def directions(bench: Bench, kind: str, dim: int) -> Directions:
    """The subspace of ``dim`` directions, "hessian" or "filter", through w*."""
    params = trained(bench)
    if kind == "filter":
        key = bench.problem.keys["subspace"]
        space = js.random_subspace(key, params, dim, normalization="filter")
        return Directions(space, None, 0.0)
    store = bench.store / f"{kind}-{dim}"
    return prepare.directions(bench.problem, params, kind, dim, store)


def losses_at(bench: Bench, space: js.Subspace, coordinates: np.ndarray) -> jax.Array:
    """ℓ_i(w(θ)) of every sample at the rows θ, [m, n]."""
    probe = js.points(space, jnp.asarray(coordinates, jnp.float32))
    reduction = js.reductions.losses(probe.num_points)
    return js.evaluate(bench.problem.loss, probe, bench.problem.samples, reduction)


def normals(bench: Bench, num_points: int, dim: int) -> np.ndarray:
    """Standard normal coordinates [m, d]; a smaller ``dim`` has the leading ones of a larger."""
    keys = jax.random.split(bench.problem.keys["probe"], dim)
    return np.stack([jax.random.normal(key, (num_points,)) for key in keys], -1)


def unit(problem: Problem) -> str:
    """The unit of a loss."""
    return "nats" if problem.dataset.num_classes else "loss"


def marks(problem: Problem) -> dict[str, Any]:
    """What every figure says of its data, with the unit of a squared loss."""
    return record.marks(problem) | {"unit": unit(problem) + "²"}
