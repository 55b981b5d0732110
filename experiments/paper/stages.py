"""Where the time of three estimators of Δ_k goes, "Curvature-Aligned Probing" (2026)."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import jaxscape as js
from experiments.paper import aligned
from experiments.paper import bench as benches
from experiments.paper.aligned import DIM
from experiments.paper.bench import Bench
from experiments.paper.errors import MANY_SIGMA
from experiments.record import Record
from jaxscape.lab import plot_aligned, train

ESTIMATORS = {
    "closed form": ("eigenpairs", "project", "law"),
    "quadratic Monte-Carlo": ("eigenpairs", "project", "quadratic points"),
    "direct Monte-Carlo": ("eigenpairs", "direct points"),
}


def stages(bench: Bench) -> Record:
    """Time per stage of closed form, quadratic and direct Monte-Carlo, in forward passes."""
    problem, config = bench.problem, bench.config
    solve = benches.directions(bench, "hessian", DIM)
    model, projected = aligned.project(bench)
    space = aligned.space(bench)
    points = MANY_SIGMA * benches.normals(bench, config.points, DIM)
    probe = js.points(space, points)
    quadratic = lambda: aligned.increments(aligned.modelled(model, points))  # noqa: E731
    spent = {
        "eigenpairs": solve.seconds,
        "project": projected,
        "law": _seconds(lambda: js.quadratic_delta(model, MANY_SIGMA)),
        "quadratic points": _seconds(quadratic),
        "direct points": _seconds(lambda: js.delta(problem.loss, probe, problem.samples)),
    }
    mean = lambda: train.mean_loss(problem.loss, space.origin, problem.samples, batch_size=1000)  # noqa: E731
    jax.block_until_ready(mean())
    forward = min(_seconds(mean) for _ in range(3))
    passes = {name: value / forward for name, value in spent.items()}
    totals = {name: sum(passes[stage] for stage in used) for name, used in ESTIMATORS.items()}
    marks = {name: value for name, value in benches.marks(problem).items() if name != "unit"}
    figure = plot_aligned.stages(ESTIMATORS, passes, **marks)
    parts = ", ".join(f"{name} {total:.0f}" for name, total in totals.items())
    seen = (
        f"In plain forward passes over the data ({config.points} points, D = {DIM}, compilation "
        f"included): {parts}; of each, {passes['eigenpairs']:.0f} are the eigenpairs. The closed "
        "form serves every σ at once, the others one each."
    )
    arrays = {
        "stage": np.asarray(list(passes)),
        "forward_passes": np.asarray(list(passes.values())),
    }
    found = {"forward_passes": passes, "totals": totals, "forward_seconds": forward, "seen": seen}
    return Record(arrays, found, {"stages": figure})


def _seconds(what: Callable[[], Any]) -> float:
    started = time.perf_counter()
    jax.block_until_ready(what())
    return time.perf_counter() - started
