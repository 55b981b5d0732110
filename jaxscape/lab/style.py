"""How all figures look."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogFormatterSciNotation, NullFormatter

Keywords: TypeAlias = dict[str, Any]
"""Keyword arguments of a call to matplotlib."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "os^Dv<>"
STYLE = matplotlib.RcParams(
    {
        "font.size": 11,
        "axes.titlesize": 11,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.xmargin": 0.02,
        "grid.color": "0.92",
        "legend.fontsize": 9.5,
        "legend.title_fontsize": 9.5,
        "legend.frameon": False,
        "pdf.fonttype": 42,
        "figure.constrained_layout.use": True,
    }
)
"""Colours that stay apart for colour-blind readers (Okabe & Ito, 2008)."""


def colour(row: int) -> str:
    """The colour of curve ``row``, the first again after the last."""
    return COLOURS[row % len(COLOURS)]


def canvas(
    title: str, xlabel: str, ylabel: str, *, fallback: bool, panels: int = 1
) -> tuple[Figure, Sequence[Axes]]:
    """An empty figure with ``panels`` axes of common scale; ``fallback`` marks it in red."""
    columns = panels if panels <= 3 else -(-panels // 2)
    rows = -(-panels // columns)
    size = (7.0, 5.2) if panels == 1 else (0.8 + 3.2 * columns, 1.2 + 2.8 * rows)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size)
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
        for unused in grid[panels:]:
            unused.remove()
        for lowest in grid[panels - columns : panels]:
            lowest.set_xlabel(xlabel)
            lowest.tick_params(labelbottom=True)
        for leftmost in grid[:panels:columns]:
            leftmost.set_ylabel(ylabel)
        mark = "\nFALLBACK DATA: in place of MNIST, which could not be had" if fallback else ""
        figure.suptitle(title + mark, color="#B00000" if fallback else "black", fontsize=12)
    return figure, list(grid[:panels])


def legend(figure: Figure, title: str) -> None:
    """One legend for all axes, below them, where it hides nothing."""
    with matplotlib.rc_context(STYLE):
        handles: dict[str, Artist] = {}
        for axes in figure.axes:
            handles |= dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
        # a letter takes about 1/15 inch, the line and the gap before it as much as eight
        width = (8 + max(map(len, handles), default=0)) / 15
        fitting = max(1, int(figure.get_figwidth() / width))
        columns = min(len(handles) if len(handles) <= 4 else 3, fitting)
        place: Keywords = {"loc": "outside lower center", "ncols": columns}
        figure.legend(handles.values(), handles, title=title, **place)


def thin(figure: Figure) -> None:
    """Keep the numbers along logarithmic k apart: no more than those of 1, 2 and 5 times 10^e."""
    for axes in figure.axes:
        axis = axes.xaxis
        if all(
            isinstance(formatter, LogFormatterSciNotation)
            for formatter in (axis.get_major_formatter(), axis.get_minor_formatter())
        ):
            axis.set_minor_formatter(_minor(axis))


def _minor(axis: Axis) -> FuncFormatter | NullFormatter:
    low, high = axis.get_view_interval()
    if high > 100 * low:
        return NullFormatter()

    def label(value: float, position: int | None) -> str:
        del position
        exponent = int(np.floor(np.log10(value) + 1e-9))
        factor = round(value / 10.0**exponent)
        return rf"${factor}\times10^{{{exponent}}}$" if factor in (2, 5) else ""

    return FuncFormatter(label)
