"""Loss surfaces of Nikitin et al., figures 2, 3, 6 and 7.

Figures 2 and 3 (6 and 7) are one evaluation: L_k, beside its squared increment, for two k.
"""

import functools
from typing import Any

import numpy as np
from jaxtyping import Float

import jaxscape as js
from experiments.common import surfaces
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
    found, old = evaluated(bench, kind)
    own = found.loss[row], found.increment[row] ** 2
    theirs = old["published_loss"][row], old["published_increment"][row] ** 2
    titles = f"k = {found.k[row]:,}", f"published, k = {old['published_k'][row]:,} (batches)"
    names = [f"{what}, {title}" for title in titles for what in ("$L_k$", "increment²")]
    shown = dict(zip(names, (*own, *theirs), strict=True))
    notes = bench.inexact() if kind == "hessian" else []
    notes += [
        f"roughness of {symbol} (noise 1, smooth 0): as published, each grid point with "
        f"batches of its own, {roughness(rough):.2g}; with the same samples {roughness(new):.2g}"
        for symbol, new, rough in zip(("L_k", "(L_{k+1} − L_k)²"), own, theirs, strict=True)
    ]
    common: dict[str, Any] = {
        "title": f"One more sample, along {WORDS[kind]}",
        "quantity": ["$L_k$ (nats)", "$(L_{k+1} - L_k)^2$ (nats²)"] * 2,
    }
    figures = {
        "relief": plot.reliefs(found.steps, shown, is_log=False, **common),
        "relief_log10": plot.reliefs(found.steps, shown, **common),
        "contours": plot.contours(found.steps, shown, **common),
    }
    table = surfaces.table(surfaces.summarise(found))
    return record(found._asdict() | old, table, notes, figures)


@functools.lru_cache(maxsize=4)
def evaluated(bench: Bench, kind: str) -> tuple[Sheets, dict[str, np.ndarray]]:
    """The sheets of one sample, of all but two, and of all; the first two also as published."""
    n, config = len(bench.problem.order), bench.config
    plane, steps = bench.directions(kind, 2), surfaces.square(config.radius, config.num)
    found = surfaces.evaluate(bench.problem, plane, steps, (SMALL, n - 2, n))
    return found, _published(bench, plane, found)


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
