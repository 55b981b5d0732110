"""Δ_k of Nikitin et al., figures 4, 5 and 8."""

from typing import Any, NamedTuple

import jax
import numpy as np

import jaxscape as js
from experiments import summary
from experiments.paper import bench as benches
from experiments.paper import published
from experiments.paper.bench import SIGMAS, Bench
from experiments.record import Record
from jaxscape.lab import plot_paper
from jaxscape.lab.plot_paper import Curve

DIM = 10
"""Directions of figures 4 and 8."""


class Case(NamedTuple):
    """A curve: its name, its subspace, σ."""

    label: str
    space: js.Subspace
    sigma: float


def fig4(bench: Bench) -> Record:
    """Δ_k at four σ along ten random filter-normalised directions."""
    space = benches.directions(bench, "filter", DIM).space
    cases = [Case(f"σ = {sigma:g}", space, sigma) for sigma in (0.1, 1.0, 5.0, 10.0)]
    return _record(bench, cases, f"{DIM} random filter-normalised directions")


def fig5(bench: Bench) -> Record:
    """Δ_k in four dimensions at σ = 1, random filter-normalised."""
    space = benches.directions(bench, "filter", 256).space
    cases = [Case(f"d = {dim}", leading(space, dim), 1.0) for dim in (2, 16, 64, 256)]
    return _record(bench, cases, "random filter-normalised directions, σ = 1")


def fig8(bench: Bench) -> Record:
    """Δ_k along the top ten Hessian eigenvectors, close to w* and far from it."""
    space = benches.directions(bench, "hessian", DIM).space
    cases = [Case(f"σ = {sigma:g}", space, sigma) for sigma in SIGMAS]
    return _record(bench, cases, f"top {DIM} Hessian eigenvectors")


def leading(space: js.Subspace, dim: int) -> js.Subspace:
    """The subspace of the first ``dim`` directions."""
    return js.Subspace(space.origin, jax.tree.map(lambda leaf: leaf[:dim], space.basis))


def measure(bench: Bench, case: Case) -> tuple[js.reductions.Delta, np.ndarray | None]:
    """Δ_k with all directions and k in samples; Δ_k as published, where that is asked for."""
    problem, config = bench.problem, bench.config
    points = case.sigma * benches.normals(bench, config.points, case.space.dim)
    curve = js.delta(problem.loss, js.points(case.space, points), problem.samples)
    if not config.as_published:
        return curve, None
    losses = benches.losses_at(bench, case.space, published.first_direction(points))
    return curve, published.delta(problem.keys["order"], losses)


def _record(bench: Bench, cases: list[Case], where: str) -> Record:
    measured = [measure(bench, case) for case in cases]
    curves = [curve for curve, _ in measured]
    arrays = {
        "sigma": np.asarray([case.sigma for case in cases], np.float32),
        "dim": np.asarray([case.space.dim for case in cases]),
        "k": np.asarray(curves[0].k),
        "delta": np.stack([curve.mean for curve in curves]),
        "delta_sem": np.stack([curve.sem for curve in curves]),
        "loss_variance": np.asarray([np.mean(curve.loss_variance) for curve in curves]),
    }
    panels = {
        "as it should be: all directions, k in samples": [
            Curve(case.label, np.asarray(c.k), np.asarray(c.mean), np.asarray(c.sem))
            for case, c in zip(cases, curves, strict=True)
        ]
    }
    if bench.config.as_published:
        arrays["published_delta"] = np.stack([old for _, old in measured])
        arrays["published_k"] = np.arange(1, arrays["published_delta"].shape[1] + 1)
        panels["as published: first direction, k in batches of 64"] = [
            Curve(case.label, arrays["published_k"], old, 0.0)
            for case, (_, old) in zip(cases, measured, strict=True)
        ]
    entries = levels(arrays, [case.label for case in cases])
    found = {"where": where, "points": bench.config.points, "curves": entries}
    marks = benches.marks(bench.problem)
    figures = {
        "delta": plot_paper.increments(panels, scaled=False, where=where, **marks),
        "delta_k2": plot_paper.increments(panels, scaled=True, where=where, **marks),
    }
    return Record(arrays, found | {"seen": _seen(entries, where, marks["unit"])}, figures)


def levels(arrays: dict[str, np.ndarray], labels: list[str]) -> list[dict[str, Any]]:
    """Mean of Δ_k·k² over k ≥ 100 of each curve, as it should be and as published."""
    entries = []
    for row, label in enumerate(labels):
        entry = {"label": label, "mean_delta_k2": _level(arrays["k"], arrays["delta"][row]),
                 "order_law_k2": float(arrays["loss_variance"][row])}  # fmt: skip
        if "published_delta" in arrays:
            old = _level(arrays["published_k"], arrays["published_delta"][row])
            entry["published_mean_delta_k2"] = old
        entries.append(entry)
    return entries


def _level(k: np.ndarray, values: np.ndarray) -> float:
    late = summary.late(k)
    return float(np.mean(values[late].astype(np.float64) * k[late].astype(np.float64) ** 2))


def _seen(entries: list[dict[str, Any]], where: str, unit: str) -> str:
    words = [f"Along the {where}, the mean of Δ_k·k² over k ≥ 100 is, in {unit},"]
    parts = []
    for entry in entries:
        part = f"{entry['mean_delta_k2']:.3g} at {entry['label']} (order law "
        part += f"{entry['order_law_k2']:.3g}"
        if "published_mean_delta_k2" in entry:
            part += f"; as published {entry['published_mean_delta_k2']:.3g}"
        parts.append(part + ")")
    text = " ".join(words) + " " + ", ".join(parts) + "."
    if "published_mean_delta_k2" in entries[0]:
        text += (
            " The published curves count k in batches of 64, which divides the variance of a step "
            "by 64, and move along one direction only, so they lie lower, and differ between "
            "dimensions by chance alone; each draw having its own order of the samples, they are "
            "as flat as the order law makes them."
        )
    return text
