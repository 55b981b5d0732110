"""How a curve over k is drawn.

Each increment hangs on the one sample k+1, so single values scatter over orders of magnitude. A
curve is therefore drawn twice: faintly, as the smallest and the largest value of each of many
narrow logarithmic bins of k, and over it as the mean per wider bin with its standard error e,
shown as mean·exp(±e/mean) since the axis is logarithmic. Nothing is smoothed.
"""

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxscape.lab.bins import log_bins
from jaxscape.lab.style import MARKERS, Keywords, colour, legend

PREFIX = "prefix length $k$ (samples)"


def draw_extremes(
    axes: Axes, row: int, k: Int[np.ndarray, "K"], values: Float[np.ndarray, "K"]
) -> None:
    """The smallest and the largest value of narrow bins, as dots."""
    fine = log_bins(k, values, num=500)
    for extreme in (fine.low, fine.high):
        shown = extreme > 0
        axes.plot(
            fine.k[shown],
            extreme[shown],
            ".",
            color=colour(row),
            alpha=0.4,
            ms=2.5,
            mew=0,
            rasterized=True,
        )


def draw_mean(
    axes: Axes,
    row: int,
    k: Int[np.ndarray, "K"],
    values: Float[np.ndarray, "K"],
    sem: Float[np.ndarray, "K"] | float,
    name: str | None,
    *,
    dash: str = "-",
) -> None:
    """The mean per bin with a band of its standard error."""
    bins = log_bins(k, values, sem)
    shown = bins.mean > 0  # a logarithmic axis has no place for an exact zero
    middle, factor = bins.mean[shown], np.exp(bins.error[shown] / bins.mean[shown])
    axes.fill_between(
        bins.k[shown], middle / factor, middle * factor, color=colour(row), alpha=0.3, lw=0
    )
    style: Keywords = {"marker": MARKERS[row % len(MARKERS)], "ms": 5, "markevery": (2 * row, 8)}
    width = max(1.2, 2.4 - 0.4 * row)  # where curves coincide, the rim of the lower one shows
    axes.plot(bins.k[shown], middle, dash, color=colour(row), lw=width, label=name, **style)


def finish(figure: Figure, *, dots: bool) -> Figure:
    """Logarithmic axes, unless nothing lies above 0, with a legend of line, band and dots."""
    lines = [line for axes in figure.axes for line in axes.lines]
    positive = any((np.asarray(line.get_ydata()) > 0).any() for line in lines)
    for axes in figure.axes:
        if positive:
            axes.set(xscale="log", yscale="log")
        else:
            axes.text(0.5, 0.5, "all values are 0", transform=axes.transAxes, ha="center")
    extremes = "; dots: extremes of narrow bins" if dots else ""
    legend(figure, f"line: mean per logarithmic bin of k; band: its standard error{extremes}")
    return figure
