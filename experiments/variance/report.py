"""Table and figure of how many points each estimator needs, from the arrays of ``results.npz``."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.common import tables
from experiments.variance.measure import ESTIMATORS
from jaxscape.lab.style import canvas, curve, legend

WORDS = """\
For Δ_k, its centered part (medians over k), E S²: points for a standard error of 1 %, extrapolated
from those of the run. Held: share of 90 % intervals from few points that hold the value of all."""
"""What the columns mean."""


def entries_of(arrays: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """One entry per sigma: of each estimator the points it needs, and its coverage.

    Points for Δ_k and its centered part are medians over k. Coverage is the mean over k.
    """
    numbers = {
        "delta": np.median(arrays["needed_delta"], -1),
        "centered": np.median(arrays["needed_centered"], -1),
        "level": arrays["needed_level"],
        "held": np.mean(arrays["held_delta"], -1),
        "held_level": arrays["held_level"],
    }
    names = [estimator.name for estimator in ESTIMATORS]
    return [
        {"sigma": tables.short(sigma)}
        | {"estimators": [
            {"name": name} | {key: float(values[index, row]) for key, values in numbers.items()}
            for row, name in enumerate(names)
        ]}
        for index, sigma in enumerate(arrays["sigma"])
    ]  # fmt: skip


def table(entries: list[dict[str, Any]]) -> list[list[str]]:
    """Rows of text, the first one the header: points for an error of 1 %, coverage of 90 %."""
    rows = [["sigma", "points", "for Δ_k", "centered part", "E S²", "held Δ_k", "E S²"]]
    for entry in entries:
        for found in entry["estimators"]:
            needed = (f"{max(found[part], 1):,.0f}" for part in ("delta", "centered", "level"))
            held = (f"{found[part]:.0%}" for part in ("held", "held_level"))
            rows.append([f"{entry['sigma']:g}", found["name"], *needed, *held])
    return rows


PARTS = {
    "delta": r"$\Delta_k$, median over $k$",
    "centered": r"centered $\tilde\Delta_k$, median over $k$",
    "level": r"$\mathrm{E}_q S^2$",
}


def points_needed(entries: Sequence[Mapping[str, Any]]) -> Figure:
    """Points for a standard error of 1 % by each estimator, a panel per entry.

    Less than one point is drawn as one.
    """
    title = "Points for a standard error of 1 %"
    panels = [rf"$\sigma$ = {entry['sigma']:g}" for entry in entries]
    figure, every = canvas(title, "points", "", panels)
    for axes, entry in zip(every, entries, strict=True):
        found = entry["estimators"]
        for row, (part, label) in enumerate(PARTS.items()):
            beside = np.arange(len(found)) + 0.2 * (row - 1)
            needed = np.maximum([estimator[part] for estimator in found], 1)
            axes.plot(needed, beside, label=label, **curve(row, ms=6, lw=0))
        axes.set_yticks(range(len(found)), [estimator["name"] for estimator in found])
        axes.set_xscale("log")
        axes.grid(visible=False, axis="y")
    every[0].invert_yaxis()  # shared by all panels
    legend(figure, "control: the quadratic model of every sample as a control variate")
    return figure
