"""The loss where training went, after Li et al. (2018)."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxscape as js
from experiments import prepare, record, sheets
from experiments.paper import bench as benches
from experiments.paper.bench import Bench
from experiments.paper.surfaces import SMALL
from experiments.record import Record
from experiments.surface import REACH, WORDS


def trajectory(bench: Bench) -> Record:
    """L_k on the two principal components of the training trajectory, with the trajectory."""
    problem = bench.problem
    points, _ = prepare.trajectory(problem, bench.config, bench.store)
    space, along, shares = js.trajectory_subspace(jax.tree.map(jnp.asarray, points), 2)
    path, explained = np.asarray(along), np.asarray(shares)
    n = len(problem.order)
    radius = REACH * float(np.abs(path).max())
    found = sheets.evaluate(problem, space, radius, bench.config.num, (SMALL, n))
    marks = record.marks(problem) | {"unit": benches.unit(problem)}
    figures = sheets.figures_of(found, WORDS["trajectory"], path, **marks)
    numbers = sheets.summarise(found) | {"explained": explained.tolist()}
    start, end = (float(found.loss[-1][_at(found.steps, path[t])]) for t in (0, -1))
    lowest = numbers["surfaces"][-1]["lowest_loss"]
    seen = (
        f"Two principal components hold {explained[0]:.0%} and {explained[1]:.0%} of the summed "
        f"squared distance from w* of the networks before training and after each of "
        f"{len(path) - 1} epochs. On their plane the loss of all {n:,} samples is {start:.3g} near "
        f"the projection of the initial network and {end:.3g} at w*; the plane's lowest grid point "
        f"has {lowest:.3g}."
    )
    arrays = found._asdict() | {"trajectory": path}
    kept = {name: figures[name] for name in ("loss", "loss_3d")}
    return Record(arrays, numbers | {"seen": seen}, kept)


def _at(steps: np.ndarray, point: np.ndarray) -> tuple[int, int]:
    """The grid point closest to ``point``."""
    i, j = (int(np.abs(steps - x).argmin()) for x in point)
    return i, j
