"""Δ_k of one subspace and σ, as it should be and as Nikitin et al. published it.

Δ_k of Nikitin et al., figures 4, 5 and 8.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

import jaxscape as js
from experiments.common import run_folder, tables
from experiments.common.run_folder import Record
from experiments.paper import bench as benches
from experiments.paper import drawings, published, replication
from experiments.paper.bench import SIGMAS, Bench, leading
from experiments.paper.drawings import Curve
from experiments.paper.published import delta_and_losses

DIM = 10
"""Directions of figures 4, 8 and 9."""


class Case(NamedTuple):
    """A curve: its name, its subspace, σ."""

    label: str
    space: js.Subspace
    sigma: float


class Measured(NamedTuple):
    """A curve as it should be, and where asked for, as published, [K] in batches."""

    curve: js.reductions.Delta
    published: np.ndarray | None
    all_directions: np.ndarray | None  #: as published but for this: all directions are applied


def measure(bench: Bench, case: Case, row: int) -> Measured:
    """Δ_k of one case; published curves of different ``row`` have different orders of samples."""
    problem, config = bench.problem, bench.config
    points = case.sigma * benches.normals(bench, config.points, case.space.dim)
    probe, every = js.points(case.space, points), None
    key = jax.random.fold_in(problem.keys["order"], row)
    if config.as_published and case.space.dim <= DIM:
        curve, losses = delta_and_losses(problem.loss, probe, problem.samples)
        every = published.delta(key, losses)
    else:
        curve = js.delta(problem.loss, probe, problem.samples)
    if not config.as_published:
        return Measured(curve, None, None)
    first = benches.losses_at(bench, leading(case.space, 1), points[:, :1])
    return Measured(curve, published.delta(key, first), every)


def along_eigenvectors(bench: Bench) -> list[Measured]:
    """Δ_k along the top ten Hessian eigenvectors at both ``SIGMAS``, kept for figures 8 and 9."""
    space = benches.directions(bench, "hessian", DIM)
    found = []
    for row, sigma in enumerate(SIGMAS):
        kept = bench.store / f"curve-hessian-{row}.npz"
        if not kept.exists():
            curve, *old = measure(bench, Case("", space, sigma), row)
            names = ("published", "all_directions")
            more = {n: values for n, values in zip(names, old, strict=True) if values is not None}
            run_folder.write_arrays(kept, jax.tree.map(np.asarray, curve)._asdict() | more)
        with np.load(kept) as arrays:
            curve = js.reductions.Delta(*(arrays[n] for n in js.reductions.Delta._fields))
            found.append(Measured(curve, arrays.get("published"), arrays.get("all_directions")))
    return found


DIMS = (2, 16, 64, 256)
"""Directions of figure 5."""


CORRECTED = "as it should be: all directions, k in samples"


PUBLISHED = "as published: first direction, k in batches of 64"


def fig4(bench: Bench) -> Record:
    """Δ_k at four σ along ten random filter-normalised directions."""
    space = benches.directions(bench, "filter", DIM)
    cases = [Case(f"σ = {sigma:g}", space, sigma) for sigma in (0.1, 1.0, 5.0, 10.0)]
    return _record(
        bench, cases, _measured(bench, cases), f"{DIM} random filter-normalised directions"
    )


def fig5(bench: Bench) -> Record:
    """Δ_k in four dimensions at σ = 1, random filter-normalised."""
    space = benches.directions(bench, "filter", max(DIMS))
    cases = [Case(f"d = {dim}", leading(space, dim), 1.0) for dim in DIMS]
    note = " The four published curves share their direction and points; only the orders differ."
    where = "random filter-normalised directions, σ = 1"
    return _record(bench, cases, _measured(bench, cases), where, note)


def fig8(bench: Bench) -> Record:
    """Δ_k along the top ten Hessian eigenvectors, close to w* and far from it."""
    space = benches.directions(bench, "hessian", DIM)
    cases = [Case(f"σ = {sigma:g}", space, sigma) for sigma in SIGMAS]
    where = f"top {DIM} Hessian eigenvectors"
    found = _record(bench, cases, along_eigenvectors(bench), where, benches.caveat(bench))
    published = bench.config.as_published and not bench.problem.dataset.has_tokens
    return replication.add(bench, found) if published else found


def _measured(bench: Bench, cases: list[Case]) -> list[Measured]:
    return [measure(bench, case, row) for row, case in enumerate(cases)]


def _record(
    bench: Bench, cases: list[Case], measured: list[Measured], where: str, note: str = ""
) -> Record:
    corrected = [each.curve for each in measured]
    arrays: dict[str, np.ndarray] = {
        "sigma": np.asarray([case.sigma for case in cases], np.float32),
        "dim": np.asarray([case.space.dim for case in cases]),
        "k": np.asarray(corrected[0].k),
        "delta": np.stack([curve.mean for curve in corrected]),
        "delta_sem": np.stack([curve.sem for curve in corrected]),
        "loss_variance": np.asarray([np.mean(curve.loss_variance) for curve in corrected]),
    }
    for name in ("published", "all_directions"):
        if all(getattr(each, name) is not None for each in measured):
            arrays[f"{name}_delta"] = np.stack([getattr(each, name) for each in measured])
            arrays["published_k"] = np.arange(1, arrays[f"{name}_delta"].shape[1] + 1)
    entries = levels(arrays, [case.label for case in cases])
    marks = benches.marks(bench.problem)
    panels = _panels(arrays, [case.label for case in cases])
    figures = {
        "delta": drawings.increments(panels, scaled=False, where=where, **marks),
        "delta_k2": drawings.increments(panels, scaled=True, where=where, **marks),
    }
    found = {"where": where, "points": bench.config.points, "curves": entries}
    seen = _seen(arrays, entries, where, marks["unit"]) + (note if "published_k" in arrays else "")
    return Record(arrays, found | {"seen": seen}, figures)


def _panels(arrays: dict[str, np.ndarray], labels: list[str]) -> dict[str, list[Curve]]:
    rows = zip(labels, arrays["delta"], arrays["delta_sem"], strict=True)
    panels = {CORRECTED: [Curve(label, arrays["k"], mean, sem) for label, mean, sem in rows]}
    if "published_k" in arrays:
        older = zip(labels, arrays["published_delta"], strict=True)
        panels[PUBLISHED] = [Curve(label, arrays["published_k"], old, 0.0) for label, old in older]
    return panels


def levels(arrays: dict[str, np.ndarray], labels: list[str]) -> list[dict[str, Any]]:
    """Mean of Δ_k·k² over late k of each curve, as it should be and as published."""
    entries = []
    for row, label in enumerate(labels):
        entry = {
            "label": label,
            "mean_delta_k2": tables.level(arrays["k"], arrays["delta"][row]),
            "order_law_k2": float(arrays["loss_variance"][row]),
        }
        for name in ("published", "all_directions"):
            if f"{name}_delta" in arrays:
                level = tables.level(arrays["published_k"], arrays[f"{name}_delta"][row])
                entry[f"{name}_mean_delta_k2"] = level
        entries.append(entry)
    return entries


def _seen(
    arrays: dict[str, np.ndarray], entries: list[dict[str, Any]], where: str, unit: str
) -> str:
    first = {name: int(arrays[name][tables.late(arrays[name])][0])
             for name in ("k", "published_k") if name in arrays}  # fmt: skip
    parts = [
        f"{entry['mean_delta_k2']:.3g} at {entry['label']} (order law {entry['order_law_k2']:.3g})"
        for entry in entries
    ]
    text = (
        f"Along the {where}, the mean of Δ_k·k² over k ≥ {first['k']} samples is, in {unit}, "
        f"{', '.join(parts)}."
    )
    if "published_k" not in first:
        return text
    old = ", ".join(f"{entry['published_mean_delta_k2']:.3g}" for entry in entries)
    text += (
        " As published, the first direction alone, another order for each draw, and k, also that "
        f"of k², in batches of 64 (from {first['published_k']} on), which by itself makes it 64 "
        f"times smaller: {old}."
    )
    if "all_directions_delta" in arrays:
        every = ", ".join(f"{entry['all_directions_mean_delta_k2']:.3g}" for entry in entries)
        text += f" The same with all directions: {every}."
    return text
