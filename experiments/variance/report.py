"""Figure of how many points each estimator needs, from a list of entries."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from jaxscape.lab.style import MARKERS, Keywords, canvas, colour, legend

PARTS = {
    "delta": r"$\Delta_k$, median over $k$",
    "centered": r"centered $\tilde\Delta_k$, median over $k$",
    "level": r"$\mathrm{E}_q S^2$",
}


def points_needed(
    entries: Sequence[Mapping[str, Any]], *, dataset: str, fallback: bool = False
) -> Figure:
    """Points for a standard error of 1 % by each estimator, a panel per entry.

    An entry holds ``sigma`` and ``estimators``, each with its ``name`` and the numbers ``delta``,
    ``shape`` and ``level``; less than one point is drawn as one.
    """
    title = f"Points for a standard error of 1 %: {dataset}"
    figure, panels = canvas(title, "", "points", fallback=fallback, panels=len(entries))
    for axes, entry in zip(panels, entries, strict=True):
        found = entry["estimators"]
        axes.set_title(rf"$\sigma$ = {entry['sigma']:g}")
        for row, (part, label) in enumerate(PARTS.items()):
            beside = np.arange(len(found)) + 0.2 * (row - 1)
            needed = np.maximum([estimator[part] for estimator in found], 1)
            style: Keywords = {"color": colour(row), "marker": MARKERS[row], "ms": 6, "lw": 0}
            axes.plot(beside, needed, label=label, **style)
        axes.set_xticks(range(len(found)), [estimator["name"] for estimator in found], rotation=90)
        axes.set_yscale("log")
        axes.grid(visible=False, axis="x")
    legend(figure, "control: the quadratic model of every sample as a control variate")
    return figure
