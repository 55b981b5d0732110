"""Loss surfaces of Nikitin et al., figures 2, 3, 6 and 7, and along the path of training.

Figures 2 and 3 (6 and 7) are two views of one evaluation: L_k, and its squared increment.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

import jaxscape as js
from experiments.common import prepare, surfaces
from experiments.common.run_folder import Record
from experiments.common.surfaces import REACH, WORDS, Sheets
from experiments.paper import published
from experiments.paper.bench import Bench, record
from jaxscape.lab import plot

SMALL = 1
"""The small k, in samples, or in batches as published."""


def fig2(bench: Bench) -> Record:
    """L_k on two random filter-normalised directions of unit norm."""
    return _record(bench, "unit-filter", "loss")


def fig3(bench: Bench) -> Record:
    """(L_{k+1} − L_k)² on two random filter-normalised directions of unit norm."""
    return _record(bench, "unit-filter", "increment")


def fig6(bench: Bench) -> Record:
    """L_k on the top two Hessian eigenvectors."""
    return _record(bench, "hessian", "loss")


def fig7(bench: Bench) -> Record:
    """(L_{k+1} − L_k)² on the top two Hessian eigenvectors."""
    return _record(bench, "hessian", "increment")


def _record(bench: Bench, kind: str, quantity: str) -> Record:
    """A figure of the "loss" or of the "increment", for one sample and for all but one."""
    config, n = bench.config, len(bench.problem.order)
    plane = bench.directions(kind, 2)
    ks = (SMALL, n - 1)
    evaluate = lambda: surfaces.evaluate(bench.problem, plane, config.radius, config.num, ks)  # noqa: E731
    corrected = Sheets(**bench.kept(f"surface-{kind}", lambda: evaluate()._asdict()))
    arrays = corrected._asdict()
    shown = dict(zip(map(surfaces.name, corrected.k), arrays[quantity], strict=True))
    notes = bench.inexact() if kind == "hessian" else []
    if config.as_published:
        old = bench.kept(f"surface-{kind}-published", lambda: _published(bench, plane, corrected))
        arrays |= old
        batches = int(old["published_k"][-1])
        names = (f"as published: k = {SMALL} batch", f"as published: k = {batches:,} batches")
        shown |= dict(zip(names, old[f"published_{quantity}"], strict=True))
        rough = [roughness(arrays[name][0]) for name in (f"published_{quantity}", quantity)]
        notes.append(
            "roughness of the small-k surface (noise 1, smooth 0), each grid point with batches of "
            f"its own, as published: {rough[0]:.2g}; with the same samples: {rough[1]:.2g}"
        )
    found = surfaces.summarise(corrected) | {"radius": config.radius}
    figures = _figures(bench, corrected.steps, shown, quantity, kind)
    return record(arrays, found, surfaces.table(found), notes, figures)


def _published(bench: Bench, plane: js.Subspace, corrected: Sheets) -> dict[str, np.ndarray]:
    """The published sheets, [2, a, a]: of one batch, drawn anew for each point, and of all but one.

    Of the draws over all batches only the last batch matters, so the mean over all is exact.
    """
    problem, num, n = bench.problem, bench.config.num, len(bench.problem.order)
    probe, key = js.grid(plane, bench.config.radius, num), problem.keys["order"]
    few, step, batch = published.sheets(problem.loss, probe, problem.samples, key, SMALL)
    whole = (corrected.loss[-1] + corrected.increment[-1]).ravel()
    before, last = published.last_step(whole, jnp.asarray(batch), n)
    square = (2, num, num)
    return {
        "published_k": np.asarray([SMALL, -(-n // published.BATCH) - 1]),
        "published_loss": np.stack([few, before]).reshape(square),
        "published_increment": np.stack([step, last]).reshape(square),
    }


def roughness(sheet: Float[np.ndarray, "a a"]) -> float:
    """Root mean square second difference over that of white noise of the same variance."""
    bends = np.diff(sheet, 2, axis=0), np.diff(sheet, 2, axis=1)
    spread = max(sheet.std(), np.finfo(np.float32).tiny)
    return float(np.sqrt(np.mean([np.mean(bend**2) for bend in bends]) / 6) / spread)


def _figures(
    bench: Bench, steps: np.ndarray, shown: dict[str, np.ndarray], quantity: str, kind: str
) -> dict[str, Figure]:
    symbol, unit = "$L_k$", bench.unit
    if quantity == "increment":
        shown = {name: sheet**2 for name, sheet in shown.items()}
        symbol, unit = r"$(L_{k+1} - L_k)^2$", f"{unit}²"
    title, quantity = f"{symbol} along {WORDS[kind]}", f"{symbol} ({unit})"
    draw = {"contours": plot.contours, "relief": plot.reliefs}
    return {name: d(steps, shown, title=title, quantity=quantity) for name, d in draw.items()}


def trajectory(bench: Bench) -> Record:
    """L_k on the two principal components of the training trajectory, with the trajectory."""
    problem, num = bench.problem, bench.config.num
    points = prepare.trajectory(problem, bench.config, bench.store)
    space, along, parts = js.trajectory_subspace(jax.tree.map(jnp.asarray, points), 2)
    path, explained = np.asarray(along), np.asarray(parts).tolist()
    radius = REACH * float(np.abs(path).max())
    found = surfaces.evaluate(problem, space, radius, num, (SMALL, len(problem.order)))
    figures = surfaces.figures_of(found, WORDS["trajectory"], path, unit=bench.unit)
    numbers = surfaces.summarise(found) | {"explained": explained}
    i, j = (int(np.abs(found.steps - x).argmin()) for x in path[0])
    shares = " and ".join(f"{share:.0%}" for share in explained)
    notes = [
        f"two principal components hold {shares} of the summed squared distance from w*",
        f"loss of all samples where training starts, projected: {found.loss[-1][i, j]:.3g}",
    ]
    arrays, table = found._asdict() | {"trajectory": path}, surfaces.table(numbers)
    drawn = {name: figures[name] for name in ("loss", "loss_3d")}
    return record(arrays, numbers, table, notes, drawn)
