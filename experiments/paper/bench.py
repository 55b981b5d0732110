"""What the figures share: the problem, the trained network, directions through it."""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxscape as js
from experiments import prepare, record, say
from experiments.paper.config import PaperConfig
from experiments.prepare import Eigenspace
from experiments.problem import Problem
from jaxscape.lab import checkpoint
from jaxscape.subspace import num_parameters
from jaxscape.types import Params

TOP = 16
"""Eigenvectors that the figures share; each takes the leading ones."""
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


def directions(bench: Bench, kind: str, dim: int) -> js.Subspace:
    """The subspace of ``dim`` directions, "hessian" or "filter", through w*."""
    params = trained(bench)
    if kind == "filter":
        key = bench.problem.keys["subspace"]
        return js.random_subspace(key, params, dim, normalization="filter")
    return leading(jax.tree.map(jnp.asarray, hessian(bench).space), dim)


def hessian(bench: Bench) -> Eigenspace:
    """The top eigenpairs of the Hessian over all samples, as many as any figure needs."""
    params = trained(bench)
    fresh = not checkpoint.exists(bench.store, "subspace")
    dim = min(TOP, num_parameters(params))
    found = prepare.eigenspace(bench.problem, params, dim, bench.store)
    if fresh:
        say.directions("hessian", found.pairs, found.seconds)
    return found


def caveat(bench: Bench, kind: str = "hessian") -> str:
    """A sentence on eigenpairs that did not converge, where there are any."""
    if kind != "hessian":
        return ""
    lost = int((~np.asarray(hessian(bench).pairs.converged)).sum())
    return f" {lost} of {TOP} eigenpairs did not converge: directions are inexact." if lost else ""


def leading(space: js.Subspace, dim: int) -> js.Subspace:
    """The subspace of the first ``dim`` directions."""
    return js.Subspace(space.origin, _first(space.basis, dim))


@partial(jax.jit, static_argnums=1)  # all leaves in one program
def _first(basis: Params, dim: int) -> Params:
    return jax.tree.map(lambda leaf: leaf[:dim], basis)


def losses_at(bench: Bench, space: js.Subspace, coordinates: np.ndarray) -> jax.Array:
    """ℓ_i(w(θ)) of every sample at the rows θ, [m, n].

    Raises:
        InputError: a loss that is NaN or infinite.
    """
    probe = js.points(space, jnp.asarray(coordinates, jnp.float32))
    reduction = js.reductions.losses(probe.num_points)
    losses = js.evaluate(bench.problem.loss, probe, bench.problem.samples, reduction)
    bad = int((~np.isfinite(losses).all(0)).sum())
    if bad:
        raise js.InputError(
            f"expected finite losses, found NaN or infinity for {bad} of {losses.shape[1]} "
            "samples; scale the inputs down, or train with a lower --learning-rate"
        )
    return losses


def normals(bench: Bench, num_points: int, dim: int) -> np.ndarray:
    """Standard normal coordinates [m, d]; a smaller ``dim`` has the leading ones of a larger."""
    key = bench.problem.keys["probe"]
    draw = lambda j: jax.random.normal(jax.random.fold_in(key, j), (num_points,))  # noqa: E731
    return np.stack([draw(j) for j in range(dim)], -1)


def unit(problem: Problem) -> str:
    """The unit of a loss."""
    return "nats" if problem.dataset.num_classes else "loss"


def marks(problem: Problem) -> dict[str, Any]:
    """What a figure of squared losses says of its data."""
    return record.marks(problem) | {"unit": unit(problem) + "²"}
