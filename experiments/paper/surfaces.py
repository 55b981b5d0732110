"""Loss surfaces of Nikitin et al., figures 2, 3, 6 and 7.

What two surfaces show, in words.

The loss where training went, after Li et al. (2018).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxscape as js
from experiments.common import prepare, run_folder, surfaces
from experiments.common.run_folder import Record
from experiments.common.surfaces import REACH, WORDS, Sheets
from experiments.paper import bench as benches
from experiments.paper import published
from experiments.paper.bench import Bench
from jaxscape.lab import plot

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


def _record(bench: Bench, kind: str, quantity: str) -> Record:
    config = bench.config
    plane = jax.tree.map(jnp.asarray, benches.directions(bench, kind, 2))
    corrected = _corrected(bench, kind, plane)
    arrays = corrected._asdict()
    titles = [surfaces.name(k) for k in corrected.k]
    shown = dict(zip(titles, getattr(corrected, quantity), strict=True))
    if config.as_published:
        old = _published(bench, kind, plane, corrected)
        arrays |= old
        batches = int(old["published_k"][-1])
        names = (f"as published: k = {SMALL} batch", f"as published: k = {batches:,} batches")
        shown |= dict(zip(names, old[f"published_{quantity}"], strict=True))
    found = surfaces.summarise(corrected) | {"radius": config.radius}
    words = WORDS[kind]
    figures = _figures(bench, corrected.steps, shown, quantity, words)
    seen = what_is_seen(arrays, quantity, words) + benches.caveat(bench, kind)
    return Record(arrays, found | {"seen": seen}, figures)


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
    found = surfaces.evaluate(bench.problem, plane, config.radius, config.num, (SMALL, n - 1))
    run_folder.write_arrays(kept, found._asdict())
    return found


def _published(
    bench: Bench, kind: str, plane: js.Subspace, corrected: Sheets
) -> dict[str, np.ndarray]:
    """The published sheets, [2, a, a]: of one batch, drawn anew for each point, and of all but one.

    Over nearly all batches the draws hardly matter but for the last batch, so only that is random:
    the mean over all samples is exact.
    """
    kept = bench.store / f"surface-{kind}-published.npz"
    if not kept.exists():
        problem, config = bench.problem, bench.config
        n = len(problem.order)
        probe = js.grid(plane, config.radius, config.num)
        few, step, batch = published.sheets(
            problem.loss, probe, problem.samples, problem.keys["order"], SMALL
        )
        whole = (corrected.loss[-1] + corrected.increment[-1]).ravel()
        before, last = published.last_step(whole, jnp.asarray(batch), n)
        square = (2, config.num, config.num)
        arrays = {
            "published_k": np.asarray([SMALL, -(-n // published.BATCH) - 1]),
            "published_loss": np.stack([few, before]).reshape(square),
            "published_increment": np.stack([step, last]).reshape(square),
        }
        run_folder.write_arrays(kept, arrays)
    with np.load(kept) as arrays:
        return dict(arrays)


def _figures(
    bench: Bench, steps: np.ndarray, shown: dict[str, np.ndarray], quantity: str, words: str
) -> dict[str, Figure]:
    unit = benches.unit(bench.problem)
    marks: dict[str, Any] = run_folder.marks(bench.problem)
    if quantity == "increment":
        shown = {name: sheet**2 for name, sheet in shown.items()}
        symbol = r"$(L_{k+1} - L_k)^2$"
        marks |= {"title": f"{symbol} along {words}", "quantity": f"{symbol} ({unit}²)"}
    else:
        marks |= {"title": f"$L_k$ along {words}", "quantity": f"$L_k$ ({unit})"}
    return {
        "contours": plot.contours(steps, shown, **marks),
        "relief": plot.reliefs(steps, shown, **marks),
    }


def what_is_seen(arrays: dict[str, np.ndarray], quantity: str, words: str) -> str:
    """The span of the loss, or its mean squared step, and how rough published sheets are."""
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
            f"Along the {words}, the mean of (L_{{k+1}} − L_k)² over the grid is {means[0]:.3g} at "
            f"k = {small} and {means[1]:.3g} at k = {large:,}."
        )
    if "published_loss" in arrays:
        rough = [_roughness(arrays[name][0]) for name in (quantity, f"published_{quantity}")]
        text += (
            " As published, each grid point draws its own random batches: from point to point the "
            f"small-k surface has a roughness of {rough[1]:.2g}, with the same samples at every "
            f"point {rough[0]:.2g} (independent noise has 1, a smooth surface 0)."
        )
    return text


def _lowest(steps: np.ndarray, sheet: np.ndarray) -> str:
    i, j = np.unravel_index(int(np.argmin(sheet)), sheet.shape)
    return f"({steps[i]:.2g}, {steps[j]:.2g})"


def _roughness(sheet: np.ndarray) -> float:
    """Root mean square second difference over that of white noise of the same variance."""
    bends = np.diff(sheet, 2, axis=0), np.diff(sheet, 2, axis=1)
    spread = max(sheet.std(), np.finfo(np.float32).tiny)
    return float(np.sqrt(np.mean([np.mean(bend**2) for bend in bends]) / 6) / spread)


def trajectory(bench: Bench) -> Record:
    """L_k on the two principal components of the training trajectory, with the trajectory."""
    problem = bench.problem
    points, _ = prepare.trajectory(problem, bench.config, bench.store)
    space, along, shares = js.trajectory_subspace(jax.tree.map(jnp.asarray, points), 2)
    path, explained = np.asarray(along), np.asarray(shares)
    n = len(problem.order)
    radius = REACH * float(np.abs(path).max())
    found = surfaces.evaluate(problem, space, radius, bench.config.num, (SMALL, n))
    marks = run_folder.marks(problem) | {"unit": benches.unit(problem)}
    figures = surfaces.figures_of(found, WORDS["trajectory"], path, **marks)
    numbers = surfaces.summarise(found) | {"explained": explained.tolist()}
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
