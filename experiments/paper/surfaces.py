"""Loss surfaces: figures 2, 3, 6 and 7 of Nikitin et al., and where training went."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxscape as js
from experiments import prepare, run_folder, sheets
from experiments.paper import bench as benches
from experiments.paper import published
from experiments.paper.bench import Bench
from experiments.record import Record
from experiments.sheets import Sheets
from experiments.surface import REACH, WORDS
from jaxscape.lab import plot_surface

SMALL = 1
"""The small k, in samples, or in batches as published."""


def fig2(bench: Bench) -> Record:
    """L_k on two random filter-normalised directions."""
    return _record(bench, "filter", "loss")


def fig3(bench: Bench) -> Record:
    """(L_{k+1} − L_k)² on two random filter-normalised directions."""
    return _record(bench, "filter", "increment")


def fig6(bench: Bench) -> Record:
    """L_k on the top two Hessian eigenvectors."""
    return _record(bench, "hessian", "loss")


def fig7(bench: Bench) -> Record:
    """(L_{k+1} − L_k)² on the top two Hessian eigenvectors."""
    return _record(bench, "hessian", "increment")


def trajectory(bench: Bench) -> Record:
    """L_k on the two principal components of the training trajectory, with the trajectory."""
    problem = bench.problem
    points, _ = prepare.trajectory(problem, bench.config, bench.store)
    space, path, explained = js.trajectory_subspace(jax.tree.map(jnp.asarray, points), 2)
    path, explained = np.asarray(path), np.asarray(explained)
    n = len(problem.order)
    radius = REACH * float(np.abs(path).max())
    found = sheets.evaluate(problem, space, radius, bench.config.num, (SMALL, n))
    marks = benches.marks(problem) | {"unit": benches.unit(problem)}
    figures = sheets.figures_of(found, WORDS["trajectory"], path, **marks)
    numbers = sheets.summarise(found) | {"explained": explained.tolist()}
    start, end = (float(found.loss[-1][_at(found.steps, path[t])]) for t in (0, -1))
    seen = (
        f"Two principal components hold {explained[0]:.0%} and {explained[1]:.0%} of the way that "
        f"training went in {len(path) - 1} epochs. On their plane the loss of all {n:,} samples "
        f"falls from {start:.3g} near the projection of the initial network to {end:.3g} at w*; "
        f"the plane's lowest grid point has {numbers['surfaces'][-1]['lowest_loss']:.3g}."
    )
    arrays = found._asdict() | {"trajectory": path}
    kept = {name: figures[name] for name in ("loss", "loss_3d")}
    return Record(arrays, numbers | {"seen": seen}, kept)


def _at(steps: np.ndarray, point: np.ndarray) -> tuple[int, int]:
    """The grid point closest to ``point``."""
    return tuple(int(np.abs(steps - x).argmin()) for x in point)


def _record(bench: Bench, kind: str, quantity: str) -> Record:
    config = bench.config
    plane = jax.tree.map(jnp.asarray, benches.directions(bench, kind, 2).space)
    corrected = _corrected(bench, kind, plane)
    arrays = corrected._asdict()
    titles = [sheets.name(k) for k in corrected.k]
    shown = dict(zip(titles, getattr(corrected, quantity), strict=True))
    if config.as_published:
        old = _published(bench, plane, corrected)
        arrays |= old
        batches = int(old["published_k"][-1])
        names = (f"as published: k = {SMALL} batch", f"as published: k = {batches:,} batches")
        shown |= dict(zip(names, old[f"published_{quantity}"], strict=True))
    found = sheets.summarise(corrected) | {"radius": config.radius}
    words = WORDS[kind]
    figures = _figures(bench, corrected.steps, shown, quantity, words)
    return Record(arrays, found | {"seen": _seen(arrays, quantity, words)}, figures)


def _corrected(bench: Bench, kind: str, plane: js.Subspace) -> Sheets:
    """L_k and its next increment for the smallest k and for all samples but one.

    Figures 2 and 3, 6 and 7 are two views of one evaluation, which is kept for the second.
    """
    kept = bench.store / f"surface-{kind}.npz"
    if kept.exists():
        with np.load(kept) as arrays:
            return Sheets(**arrays)
    config = bench.config
    n = len(bench.problem.order)
    found = sheets.evaluate(bench.problem, plane, config.radius, config.num, (SMALL, n - 1))
    run_folder.write_arrays(kept, found._asdict())
    return found


def _published(bench: Bench, plane: js.Subspace, corrected: Sheets) -> dict[str, np.ndarray]:
    """The published sheets, [2, a, a]: of one batch and of all, drawn anew for each point."""
    problem, config = bench.problem, bench.config
    probe = js.grid(plane, config.radius, config.num)
    key = problem.keys["order"]
    few = published.sheets(problem.loss, probe, problem.samples, key, SMALL)
    whole = jnp.asarray(corrected.loss[-1] + corrected.increment[-1]).ravel()
    last = published.last_increment(problem.loss, probe, problem.samples, key, whole)
    square = (2, config.num, config.num)
    count = -(-len(problem.order) // published.BATCH)
    return {
        "published_k": np.asarray([SMALL, count - 1]),
        "published_loss": np.asarray(jnp.stack([few[0], whole - last])).reshape(square),
        "published_increment": np.asarray(jnp.stack([few[1], last])).reshape(square),
    }


def _figures(
    bench: Bench, steps: np.ndarray, shown: dict[str, np.ndarray], quantity: str, words: str
) -> dict[str, Figure]:
    unit = benches.unit(bench.problem)
    marks: dict[str, Any] = benches.marks(bench.problem)
    del marks["unit"]
    if quantity == "increment":
        shown = {name: sheet**2 for name, sheet in shown.items()}
        symbol = r"$(L_{k+1} - L_k)^2$"
        labels = {"title": f"{symbol} along {words}", "quantity": f"{symbol} ({unit}²)"}
    else:
        labels = {"title": f"$L_k$ along {words}", "quantity": f"$L_k$ ({unit})"}
    return {
        "contours": plot_surface.contours(steps, shown, **labels, **marks),
        "relief": plot_surface.reliefs(steps, shown, **labels, **marks),
    }


def _seen(arrays: dict[str, np.ndarray], quantity: str, words: str) -> str:
    small, large = (int(k) for k in arrays["k"])
    if quantity == "loss":
        ends = [f"{sheet.min():.3g} to {sheet.max():.3g}" for sheet in arrays["loss"]]
        places = [_lowest(arrays["steps"], sheet) for sheet in arrays["loss"]]
        text = (
            f"Along the {words}, L_k spans {ends[0]} at k = {small}, lowest at {places[0]}, and "
            f"{ends[1]} at k = {large:,}, lowest at {places[1]}; w* is (0, 0)."
        )
    else:
        means = [
            float(np.mean(np.square(sheet, dtype=np.float64))) for sheet in arrays["increment"]
        ]
        text = (
            f"Along the {words}, the mean of (L_{{k+1}} − L_k)² over the grid falls from "
            f"{means[0]:.3g} at k = {small} to {means[1]:.3g} at k = {large:,}."
        )
    if "published_loss" in arrays:
        rough = [_roughness(arrays[name][0]) for name in (quantity, f"published_{quantity}")]
        text += (
            " As published, each grid point draws its own random batches: the small-k surface is "
            f"rough from point to point ({rough[1]:.2g}, where independent noise has 1 and a "
            f"smooth surface 0); with the same samples at every point it is {rough[0]:.2g}."
        )
    return text


def _lowest(steps: np.ndarray, sheet: np.ndarray) -> str:
    i, j = np.unravel_index(int(sheet.argmin()), sheet.shape)
    return f"({steps[i]:.2g}, {steps[j]:.2g})"


def _roughness(sheet: np.ndarray) -> float:
    """Root mean square second difference over that of white noise of the same variance."""
    bends = np.diff(sheet, 2, axis=0), np.diff(sheet, 2, axis=1)
    return float(np.sqrt(np.mean([np.mean(bend**2) for bend in bends]) / 6) / sheet.std())
