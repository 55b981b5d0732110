"""Loss surfaces of Nikitin et al., figures 2, 3, 6 and 7."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxscape as js
from experiments import record, run_folder, sheets
from experiments.paper import bench as benches
from experiments.paper import published, surfaces_seen
from experiments.paper.bench import Bench
from experiments.record import Record
from experiments.sheets import Sheets
from experiments.surface import WORDS
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


def _record(bench: Bench, kind: str, quantity: str) -> Record:
    config = bench.config
    plane = jax.tree.map(jnp.asarray, benches.directions(bench, kind, 2))
    corrected = _corrected(bench, kind, plane)
    arrays = corrected._asdict()
    titles = [sheets.name(k) for k in corrected.k]
    shown = dict(zip(titles, getattr(corrected, quantity), strict=True))
    if config.as_published:
        old = _published(bench, kind, plane, corrected)
        arrays |= old
        batches = int(old["published_k"][-1])
        names = (f"as published: k = {SMALL} batch", f"as published: k = {batches:,} batches")
        shown |= dict(zip(names, old[f"published_{quantity}"], strict=True))
    found = sheets.summarise(corrected) | {"radius": config.radius}
    words = WORDS[kind]
    figures = _figures(bench, corrected.steps, shown, quantity, words)
    seen = surfaces_seen.seen(arrays, quantity, words) + benches.caveat(bench, kind)
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
    found = sheets.evaluate(bench.problem, plane, config.radius, config.num, (SMALL, n - 1))
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
    marks: dict[str, Any] = record.marks(bench.problem)
    if quantity == "increment":
        shown = {name: sheet**2 for name, sheet in shown.items()}
        symbol = r"$(L_{k+1} - L_k)^2$"
        marks |= {"title": f"{symbol} along {words}", "quantity": f"{symbol} ({unit}²)"}
    else:
        marks |= {"title": f"$L_k$ along {words}", "quantity": f"$L_k$ ({unit})"}
    return {
        "contours": plot_surface.contours(steps, shown, **marks),
        "relief": plot_surface.reliefs(steps, shown, **marks),
    }
