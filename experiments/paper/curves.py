"""Δ_k of one subspace and σ, as it should be and as Nikitin et al. published it."""

from typing import NamedTuple

import jax
import numpy as np

import jaxscape as js
from experiments import run_folder
from experiments.paper import bench as benches
from experiments.paper import published
from experiments.paper.bench import SIGMAS, Bench, leading
from experiments.paper.one_pass import delta_and_losses

DIM = 10
"""Directions of figures 4, 8 and 9."""


class Case(NamedTuple):
    """A curve: its name, its subspace, σ."""

    label: str
    space: js.Subspace
    sigma: float


class Measured(NamedTuple):
    """A curve as it should be, and where asked for, as published, [K] in batches."""

    curve: js.reductions.Delta
    published: np.ndarray | None
    all_directions: np.ndarray | None  #: as published but for this: all directions are applied


def measure(bench: Bench, case: Case, row: int) -> Measured:
    """Δ_k of one case; published curves of different ``row`` have different orders of samples."""
    problem, config = bench.problem, bench.config
    points = case.sigma * benches.normals(bench, config.points, case.space.dim)
    probe, every = js.points(case.space, points), None
    key = jax.random.fold_in(problem.keys["order"], row)
    if config.as_published and case.space.dim <= DIM:
        curve, losses = delta_and_losses(problem.loss, probe, problem.samples)
        every = published.delta(key, losses)
    else:
        curve = js.delta(problem.loss, probe, problem.samples)
    if not config.as_published:
        return Measured(curve, None, None)
    first = benches.losses_at(bench, leading(case.space, 1), points[:, :1])
    return Measured(curve, published.delta(key, first), every)


def along_eigenvectors(bench: Bench) -> list[Measured]:
    """Δ_k along the top ten Hessian eigenvectors at both ``SIGMAS``, kept for figures 8 and 9."""
    space = benches.directions(bench, "hessian", DIM)
    found = []
    for row, sigma in enumerate(SIGMAS):
        kept = bench.store / f"curve-hessian-{row}.npz"
        if not kept.exists():
            curve, *old = measure(bench, Case("", space, sigma), row)
            names = ("published", "all_directions")
            more = {n: values for n, values in zip(names, old, strict=True) if values is not None}
            run_folder.write_arrays(kept, jax.tree.map(np.asarray, curve)._asdict() | more)
        with np.load(kept) as arrays:
            curve = js.reductions.Delta(*(arrays[n] for n in js.reductions.Delta._fields))
            found.append(Measured(curve, arrays.get("published"), arrays.get("all_directions")))
    return found
