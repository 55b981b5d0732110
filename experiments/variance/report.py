"""Table and figure of how many points each estimator needs, from the arrays of ``results.npz``."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.common import tables
from experiments.variance.measure import ESTIMATORS
from jaxscape.lab.style import canvas, curve, legend

WORDS = """\
Points for a standard error of 1 % of Δ_k and of its centered part (medians over k), and of E S²,
extrapolated from those of the run."""
"""What the columns mean."""

PARTS = {
    "delta": r"$\Delta_k$, median over $k$",
    "centered": r"centered $\tilde\Delta_k$, median over $k$",
    "level": r"$\mathrm{E}_q S^2$",
}


def entries_of(arrays: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """One entry per sigma: of each estimator the points it needs, at least 1."""
    needed = {
        "delta": np.median(arrays["needed_delta"], -1),
        "centered": np.median(arrays["needed_centered"], -1),
        "level": arrays["needed_level"],
    }
    return [
        {"sigma": tables.short(sigma)}
        | {"estimators": [
            {"name": name} | {key: max(float(x[index, row]), 1) for key, x in needed.items()}
            for row, name in enumerate(ESTIMATORS)
        ]}
        for index, sigma in enumerate(arrays["sigma"])
    ]  # fmt: skip


def table(entries: list[dict[str, Any]]) -> list[list[str]]:
    """Rows of text, the first one the header."""
    rows = [["sigma", "points", "for Δ_k", "centered part", "E S²"]]
    for entry in entries:
        for found in entry["estimators"]:
            needed = (f"{found[part]:,.0f}" for part in PARTS)
            rows.append([f"{entry['sigma']:g}", found["name"], *needed])
    return rows


def points_needed(entries: Sequence[Mapping[str, Any]]) -> Figure:
    """Points for a standard error of 1 % by each estimator, a panel per entry."""
    title = "Points for a standard error of 1 %"
    panels = [rf"$\sigma$ = {entry['sigma']:g}" for entry in entries]
    figure, every = canvas(title, "points", "", panels)
    for axes, entry in zip(every, entries, strict=True):
        for row, (part, label) in enumerate(PARTS.items()):
            beside = np.arange(len(ESTIMATORS)) + 0.2 * (row - 1)
            needed = [found[part] for found in entry["estimators"]]
            axes.plot(needed, beside, label=label, **curve(row, ms=6, lw=0))
        axes.set_yticks(range(len(ESTIMATORS)), [*ESTIMATORS])
        axes.set_xscale("log")
    every[0].invert_yaxis()  # shared by all panels
    legend(figure, "")
    return figure
