"""How far the quadratic model is from the loss, "Curvature-Aligned Probing" (2026)."""

from typing import Any

import numpy as np

from experiments import record, run_folder
from experiments.paper import aligned
from experiments.paper import bench as benches
from experiments.paper.aligned import DIM
from experiments.paper.bench import Bench
from experiments.progress import progress
from experiments.record import Record
from jaxscape.lab import plot_errors
from jaxscape.quadratic import Quadratic
from jaxscape.subspace import Subspace

DIMS = (1, 2, 4, 8, 16)
SIGMAS = tuple(10.0 ** (exponent / 2) for exponent in range(-8, 1))
MANY_SIGMA = 0.01
"""σ at which the number of points varies."""


def model_error(bench: Bench) -> Record:
    """The error of the quadratic model against σ, on the points of direct Monte-Carlo."""
    arrays = _compare(bench)
    figure = plot_errors.errors(arrays, **_marks(bench))
    row = list(DIMS).index(DIM)
    last = _last_within(_off(arrays)[row])
    where = f"up to σ = {last:.3g}" if last else "not even at the smallest σ"
    ends = [arrays["pointwise"][row][column] for column in (0, -1)]
    seen = (
        f"Along the top {DIM} eigenvectors, quadratic over direct Monte-Carlo at the same points "
        f"stays within 10 % of 1 {where}; the root mean square error of an increment, relative "
        f"to its root mean square, grows from {ends[0]:.2g} at σ = {SIGMAS[0]:g} to "
        f"{ends[1]:.2g} at σ = {SIGMAS[-1]:g}."
    )
    found = {"within_ten_percent": last, "seen": seen + benches.caveat(bench)}
    return Record(arrays, found, {"errors": figure})


def error_map(bench: Bench) -> Record:
    """The relative error of the quadratic model over σ and the number of directions."""
    arrays = _compare(bench)
    off = _off(arrays)
    figure = plot_errors.error_map(DIMS, SIGMAS, off, **_marks(bench))
    parts = []
    for dim, row in zip(DIMS, off, strict=True):
        last = _last_within(row)
        parts.append(f"{last:.3g} (D = {dim})" if last else f"none (D = {dim})")
    seen = (
        "The largest σ up to which quadratic over direct Monte-Carlo, at the same points, stays "
        f"within 10 % of 1: {', '.join(parts)}."
    )
    return Record(arrays | {"relative_error": off}, {"seen": seen}, {"error_map": figure})


def convergence(bench: Bench) -> Record:
    """Direct and quadratic Monte-Carlo against the closed form, as points grow."""
    model = aligned.project(bench)
    total = bench.config.many_points
    points = MANY_SIGMA * benches.normals(bench, total, DIM)
    losses = {
        "quadratic": aligned.modelled(model, points),
        "direct": benches.losses_at(bench, aligned.space(bench), points),
    }
    each = {name: aligned.levels(aligned.increments(x)) for name, x in losses.items()}
    (closed,) = aligned.law_levels(model, [MANY_SIGMA])
    counts = np.asarray([2**e for e in range(1, total.bit_length()) if 2**e <= total // 4])
    arrays = {f"{name}_level": levels for name, levels in each.items()}
    arrays |= {"points": counts, "closed_form": np.asarray(closed)}
    for name, levels in each.items():
        arrays[f"{name}_error"] = np.asarray([_spread(levels, m, closed) for m in counts])
    figure = plot_errors.convergence(arrays, sigma=MANY_SIGMA, dim=DIM, **_marks(bench))
    biases = {name: levels.mean() / closed - 1 for name, levels in each.items()}
    sems = {n: levels.std(ddof=1) / np.sqrt(total) / closed for n, levels in each.items()}
    seen = (
        f"At σ = {MANY_SIGMA:g} and D = {DIM}, one estimate from {counts[0]} points is off the "
        f"closed form by {arrays['quadratic_error'][0]:.1%} (quadratic) and "
        f"{arrays['direct_error'][0]:.1%} (direct), from {counts[-1]} points by "
        f"{arrays['quadratic_error'][-1]:.1%} and {arrays['direct_error'][-1]:.1%}. All {total} "
        f"points together: quadratic {biases['quadratic']:+.1%} ± {sems['quadratic']:.1%}, direct "
        f"{biases['direct']:+.1%} ± {sems['direct']:.1%}; what does not shrink with the points is "
        "the model's own error."
    )
    found = {"closed_form": closed, "bias": biases, "bias_sem": sems, "seen": seen}
    return Record(arrays, found, {"convergence": figure})


def _spread(levels: np.ndarray, count: int, closed: float) -> float:
    """Root mean square relative error of the mean over ``count`` points, over disjoint blocks."""
    blocks = levels[: len(levels) // count * count].reshape(-1, count).mean(1)
    return float(np.sqrt(np.mean((blocks / closed - 1) ** 2)))


def _off(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """|quadratic / direct − 1| at the same points, [D, s]."""
    return np.abs(arrays["quadratic"] / arrays["direct"] - 1)


def _last_within(off: np.ndarray) -> float | None:
    """The last σ before the error first exceeds 10 %."""
    count = int(np.argmax(np.append(off, np.inf) > 0.1))
    return SIGMAS[count - 1] if count else None


def _compare(bench: Bench) -> dict[str, np.ndarray]:
    """Levels of Δ_k·k² by direct Monte-Carlo, at its points by the model, and in closed form.

    Kept for the second of the two figures that show them.
    """
    kept = bench.store / "errors.npz"
    if not kept.exists():
        space, model = aligned.space(bench), aligned.project(bench)
        rows = []
        with progress("errors", len(DIMS), "dimensions") as advance:
            for dim in DIMS:
                rows.append(_of_dim(bench, space, model, dim))
                advance(1)
        arrays = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        run_folder.write_arrays(
            kept, arrays | {"dim": np.asarray(DIMS), "sigma": np.asarray(SIGMAS)}
        )
    with np.load(kept) as arrays:
        return dict(arrays)


def _of_dim(bench: Bench, space: Subspace, model: Quadratic, dim: int) -> dict[str, np.ndarray]:
    """The numbers of every σ, [s]; the points of all σ are evaluated at once."""
    m = max(2, bench.config.points // 2)
    used = np.arange(DIM) < dim
    normals = np.where(used, benches.normals(bench, m, DIM), 0)
    points = [sigma * normals for sigma in SIGMAS]
    losses = benches.losses_at(bench, space, np.concatenate(points))
    model_losses = np.concatenate([aligned.modelled(model, rows) for rows in points])
    direct, quadratic = (np.asarray(aligned.increments(x)) for x in (losses, model_losses))
    each, modelled, apart = (
        aligned.levels(x).reshape(len(SIGMAS), m) for x in (direct, quadratic, direct - quadratic)
    )
    return {
        "direct": each.mean(1),
        "direct_sem": each.std(1, ddof=1) / np.sqrt(m),
        "quadratic": modelled.mean(1),
        "closed": aligned.law_levels(aligned.within(model, used), SIGMAS),
        "pointwise": np.sqrt(apart.mean(1) / each.mean(1)),
    }


def _marks(bench: Bench) -> dict[str, Any]:
    return record.marks(bench.problem)
