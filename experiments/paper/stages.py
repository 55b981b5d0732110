"""Where the time of three estimators of Δ_k goes, "Curvature-Aligned Probing" (2026)."""

import jax
import numpy as np

import jaxscape as js
from experiments import record
from experiments.paper import aligned
from experiments.paper import bench as benches
from experiments.paper.aligned import DIM
from experiments.paper.bench import Bench
from experiments.paper.errors import MANY_SIGMA
from experiments.record import Record
from experiments.stages import seconds
from jaxscape.lab import plot_aligned, train

PART = 10
"""Every sample costs ``project`` the same, so one in so many is timed."""
ESTIMATORS = {
    "closed form": ("eigenpairs", "project", "law"),
    "quadratic Monte-Carlo": ("eigenpairs", "project", "quadratic points"),
    "direct Monte-Carlo": ("eigenpairs", "direct points"),
}


def stages(bench: Bench) -> Record:
    """Time per stage of closed form, quadratic and direct Monte-Carlo, in forward passes."""
    spent, products = _spent(bench)
    forward = spent.pop("forward")
    passes = {name: value / forward for name, value in spent.items()}
    totals = {name: sum(passes[stage] for stage in used) for name, used in ESTIMATORS.items()}
    figure = plot_aligned.stages(ESTIMATORS, passes, **record.marks(bench.problem))
    parts = ", ".join(f"{name} {total:.0f}" for name, total in totals.items())
    seen = (
        f"In plain forward passes over the data ({bench.config.points} points, D = {DIM}, "
        f"compilation left out): {parts}; of each, {passes['eigenpairs']:.0f} are the {products} "
        "Hessian products of the eigenpairs. The closed form serves every σ at once, the others "
        "one each."
    )
    names, values = (np.asarray(list(x)) for x in (passes, passes.values()))
    arrays = {"stage": names, "forward_passes": values}
    found = {"forward_passes": passes, "totals": totals, "forward_seconds": forward, "seen": seen}
    return Record(arrays, found, {"stages": figure})


def _spent(bench: Bench) -> tuple[dict[str, float], int]:
    """Seconds of each stage and of a forward pass; the number of Hessian products."""
    problem, config = bench.problem, bench.config
    pairs = benches.hessian(bench).pairs
    model = aligned.project(bench)
    space = aligned.space(bench)
    points = MANY_SIGMA * benches.normals(bench, config.points, DIM)
    probe = js.points(space, points)
    product = js.hvp(problem.loss, space.origin, problem.samples)
    part = max(1, len(problem.order) // PART)
    few = jax.tree.map(lambda leaf: leaf[:part], problem.samples)
    calls = {
        "eigenpairs": lambda: product(space.origin),
        "project": lambda: js.project(problem.loss, space, few),
        "law": lambda: js.quadratic_delta(model, MANY_SIGMA),
        "quadratic points": lambda: aligned.increments(aligned.modelled(model, points)),
        "direct points": lambda: js.delta(problem.loss, probe, problem.samples),
        "forward": lambda: train.mean_loss(
            problem.loss, space.origin, problem.samples, batch_size=1000
        ),
    }
    spent = {name: seconds(call, times=2) for name, call in calls.items()}
    products = int(pairs.matvecs)
    spent["eigenpairs"] *= products
    spent["project"] *= len(problem.order) / part
    return spent, products
