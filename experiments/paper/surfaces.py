"""Loss surfaces of Nikitin et al., figures 2, 3, 6 and 7, and along the path of training.

Figures 2 and 3 (6 and 7) are one evaluation: L_k, beside its squared increment, for two k.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

import jaxscape as js
from experiments.common import prepare, surfaces
from experiments.common.run_folder import Record
from experiments.common.surfaces import WORDS, Sheets
from experiments.paper import published
from experiments.paper.bench import Bench, record
from jaxscape.lab import plot

SMALL = 1  # the small k, in samples, or in batches as published


def fig2(bench: Bench) -> Record:
    """L_k and (L_{k+1} − L_k)², smallest k, on two random filter-normalised unit directions."""
    return _record(bench, "unit-filter", 0)


def fig3(bench: Bench) -> Record:
    """L_k and (L_{k+1} − L_k)², largest k, on two random filter-normalised unit directions."""
    return _record(bench, "unit-filter", 1)


def fig6(bench: Bench) -> Record:
    """L_k and (L_{k+1} − L_k)², smallest k, on the top two Hessian eigenvectors."""
    return _record(bench, "hessian", 0)


def fig7(bench: Bench) -> Record:
    """L_k and (L_{k+1} − L_k)², largest k, on the top two Hessian eigenvectors."""
    return _record(bench, "hessian", 1)


def _record(bench: Bench, kind: str, row: int) -> Record:
    """A figure of the small k, ``row`` 0, or of the large one, 1: one sample, and all but two."""
    config, n, unit = bench.config, len(bench.problem.order), bench.problem.unit
    plane = bench.directions(kind, 2)
    ks = (SMALL, n - 2, n)  # of the last the published sheets take the mean
    steps = surfaces.square(config.radius, config.num)
    evaluate = lambda: surfaces.evaluate(bench.problem, plane, steps, ks)._asdict()  # noqa: E731
    corrected = Sheets(**bench.kept(f"surface-{kind}", evaluate))
    arrays, own = corrected._asdict(), (corrected.loss[row], corrected.increment[row])
    sheets, notes = {f"k = {ks[row]:,}": own}, bench.inexact() if kind == "hessian" else []
    if config.as_published:
        old = bench.kept(f"surface-{kind}-published", lambda: _published(bench, plane, corrected))
        arrays |= old
        k = int(old["published_k"][row])
        theirs = old["published_loss"][row], old["published_increment"][row]
        sheets[f"published, {k:,} batch{'es' * (k > 1)}"] = theirs
        notes += [
            f"roughness of {symbol} (noise 1, smooth 0): as published, each grid point with "
            f"batches of its own, {roughness(old):.2g}; with the same samples {roughness(new):.2g}"
            for symbol, new, old in (
                ("L_k", own[0], theirs[0]),
                ("(L_{k+1} − L_k)²", own[1] ** 2, theirs[1] ** 2),
            )
        ]
    shown: dict[str, np.ndarray] = {}
    for name, (loss, increment) in sheets.items():
        shown |= {f"$L_k$, {name}": loss, f"increment², {name}": increment**2}
    quantities = [f"$L_k$ ({unit})", rf"$(L_{{k+1}} - L_k)^2$ ({unit}²)"] * len(sheets)
    common: dict[str, Any] = {
        "title": f"One more sample, along {WORDS[kind]}", "quantity": quantities,
    }  # fmt: skip
    figures = {
        "relief": plot.reliefs(steps, shown, is_log=False, **common),
        "relief_log10": plot.reliefs(steps, shown, **common),
        "contours": plot.contours(steps, shown, **common),
    }
    found = surfaces.summarise(corrected) | {"radius": config.radius}
    return record(arrays, found, surfaces.table(found), notes, figures)


def _published(bench: Bench, plane: js.Subspace, corrected: Sheets) -> dict[str, np.ndarray]:
    """The published sheets, [2, a, a]: of one batch, drawn anew for each point, and of all but two.

    Of the draws over all batches only the last two matter, so the mean over all is exact. The last
    step of the reference code goes from K − 2 of K batches to K − 1.
    """
    problem, num, n = bench.problem, bench.config.num, len(bench.problem.order)
    probe, key = js.grid(plane, bench.config.radius, num), problem.keys["order"]
    few, step, batches = published.sheets(problem.loss, probe, problem.samples, key, SMALL)
    before, last = published.last_step(corrected.loss[-1].ravel(), np.asarray(batches), n)
    square = (2, num, num)
    return {
        "published_k": np.asarray([SMALL, -(-n // published.BATCH) - 2]),
        "published_loss": np.stack([few, before]).reshape(square),
        "published_increment": np.stack([step, last]).reshape(square),
    }


def roughness(sheet: Float[np.ndarray, "a a"]) -> float:
    """Root mean square second difference over that of white noise of the same variance."""
    bends = np.diff(sheet, 2, axis=0), np.diff(sheet, 2, axis=1)
    spread = max(sheet.std(), np.finfo(np.float32).tiny)
    return float(np.sqrt(np.mean([np.mean(bend**2) for bend in bends]) / 6) / spread)


def trajectory(bench: Bench) -> Record:
    """L_k on the two principal components of the training trajectory, with the trajectory."""
    problem = bench.problem
    points = prepare.trajectory(problem, bench.config, bench.store)
    space, along, parts = js.trajectory_subspace(jax.tree.map(jnp.asarray, points), 2)
    path, explained = np.asarray(along), np.asarray(parts).tolist()
    steps = surfaces.around(path, bench.config.num)
    found = surfaces.evaluate(problem, space, steps, (SMALL, len(problem.order)))
    figures = surfaces.figures_of(found, WORDS["trajectory"], path, unit=problem.unit)
    numbers = surfaces.summarise(found) | {"explained": explained}
    i, j = np.abs(found.steps - path[0][:, None]).argmin(1)
    shares = " and ".join(f"{share:.0%}" for share in explained)
    notes = [
        f"two principal components hold {shares} of the summed squared distance from w*",
        f"loss of all samples where training starts, projected: {found.loss[-1][i, j]:.3g}",
    ]
    arrays, table = found._asdict() | {"trajectory": path}, surfaces.table(numbers)
    drawn = {name: figures[name] for name in ("loss", "loss_3d")}
    return record(arrays, numbers, table, notes, drawn)
