"""What all figures share: colours, axes, legends, and how a curve over k is drawn.

Each increment depends on the one sample k+1, so single values scatter over orders of magnitude. A
curve is therefore drawn twice: as dots, the smallest and the largest value of each of many narrow
logarithmic bins of k, and over these as a line, the mean per wider bin. The band is its standard
error e, shown as mean·exp(±e/mean) since the axis is logarithmic. Nothing is smoothed.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import matplotlib
import numpy as np
from jaxtyping import Float, Int
from matplotlib import ticker
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

Keywords: TypeAlias = dict[str, Any]
"""Keyword arguments of a call to matplotlib."""

PREFIX = "prefix length $k$ (samples)"
BINNED = "line: mean per logarithmic bin of k; band: its standard error"
MARKERS = "os^Dv<>"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Colours that colour-blind readers can tell apart (Okabe & Ito, 2008)."""

STYLE = matplotlib.RcParams({
    "font.size": 11, "axes.titlesize": 11, "legend.fontsize": 9.5, "legend.title_fontsize": 9.5,
    "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
    "axes.grid": True, "axes.axisbelow": True, "axes.xmargin": 0.02, "grid.color": "0.92",
    "pdf.fonttype": 42, "figure.constrained_layout.use": True,
})  # fmt: skip
"""Settings of matplotlib for ``rc_context``."""


def colour(row: int) -> str:
    """The colour of curve ``row``, the first again after the last."""
    return COLOURS[row % len(COLOURS)]


def curve(row: int, **more: Any) -> Keywords:
    """The colour and the marker of curve ``row``, with ``more`` keywords of ``plot``."""
    return {"color": colour(row), "marker": MARKERS[row % len(MARKERS)], "ms": 5, **more}


def canvas(
    title: str, xlabel: str, ylabel: str, panels: Sequence[str] = ("",), *, share_y: bool = True,
    columns: int | None = None,
) -> tuple[Figure, Sequence[Axes]]:  # fmt: skip
    """An empty figure with axes, one for each title in ``panels``; more than three are in two rows.

    They have a common scale; without ``share_y`` each has a vertical scale of its own.
    """
    num = len(panels)
    columns = columns or (num if num <= 3 else -(-num // 2))
    rows = -(-num // columns)
    size = (7.0, 5.2) if num == 1 else (0.8 + 3.2 * columns, 1.2 + 2.8 * rows)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size)
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=share_y).ravel()
        for unused in grid[num:]:
            unused.remove()
        for axes, name in zip(grid, panels, strict=False):
            axes.set_title(name)
        for lowest in grid[num - columns : num]:
            lowest.set_xlabel(xlabel)
            lowest.tick_params(labelbottom=True)
        for leftmost in grid[:num:columns]:
            leftmost.set_ylabel(ylabel)
        figure.suptitle(title, fontsize=12)
    return figure, list(grid[:num])


def legend(figure: Figure, title: str) -> Figure:
    """The figure, with one legend for all axes, below them, where it hides nothing."""
    with matplotlib.rc_context(STYLE):
        handles: dict[str, Artist] = {}
        for axes in figure.axes:
            handles |= dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
        # a letter takes about 1/15 inch, the line and the gap before it as much as eight
        fitting = int(figure.get_figwidth() * 15 / (8 + max(map(len, handles), default=0)))
        place: Keywords = {"loc": "outside lower center", "title": title}
        place["ncols"] = min(len(handles) if len(handles) <= 4 else 3, max(1, fitting))
        figure.legend(handles.values(), handles, **place)
    return figure


def thin(figure: Figure) -> None:
    """Logarithmic axes: numbers apart, and two of them at least along each."""
    for axis in [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]:
        base = getattr(axis.get_transform(), "base", None)
        if not isinstance(axis.get_major_locator(), ticker.LogLocator) or base != 10:
            continue  # linear, of another base, or with ticks of the figure's own
        low, high = sorted(axis.get_view_interval())
        formatter, short = axis.get_major_formatter(), 1e-3 <= low < high < 1e5
        ours = getattr(formatter, "func", None) in (plain, power)
        if high < 5 * low:
            axis.set_major_locator(ticker.MaxNLocator(5, steps=[1, 2, 5, 10]))
            axis.set_major_formatter(plain if short else power)
            axis.set_minor_locator(ticker.NullLocator())
        elif ours or isinstance(formatter, ticker.LogFormatter):
            narrow = high <= 100 * low
            axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if narrow else (1,)))
            axis.set_major_formatter(plain if short and narrow else power)
        axis.set_minor_formatter(ticker.NullFormatter())


def plain(value: float, _: Any = None) -> str:
    """A number along an axis as it stands: 0.02, 5,000."""
    return f"{value:,g}"


def power(value: float, _: Any = None) -> str:
    """The same with a power of ten: 10⁻³, 2·10⁵. As formulas they would take a second more."""
    if not 0 < value < np.inf:
        return plain(value)
    digits, exponent = f"{value:.6e}".split("e")
    digits = digits.rstrip("0").rstrip(".")
    factor = "" if digits == "1" else f"{digits}·"
    return f"{factor}10{str(int(exponent)).translate(SUPERSCRIPT)}"


class Bins(NamedTuple):
    """Per non-empty bin: geometric mean of k, mean, its standard error, least and largest value."""

    k: Float[np.ndarray, "b"]
    mean: Float[np.ndarray, "b"]
    error: Float[np.ndarray, "b"]
    low: Float[np.ndarray, "b"]
    high: Float[np.ndarray, "b"]


Ks = Int[np.ndarray, "K"]
Curve = Float[np.ndarray, "K"]


def log_bins(k: Ks, values: Curve, sem: Curve | float = 0.0, *, num: int = 60) -> Bins:
    """Average over bins of equal width in log k.

    error² = s²/count + (mean of ``sem``)², with s² the variance over the values of the bin
    (count − 1 in the denominator; 0 for a single value).

    Args:
        k, values: increasing; one for each.
        sem: Monte-Carlo error of each value, which the mean keeps: all k share their points.
        num: number of bins between the first k and the last.
    """
    edges = np.geomspace(k[0], k[-1], num + 1)
    starts = np.unique(np.searchsorted(k, edges[:-1]))
    count = np.diff(starts, append=len(k))

    def mean(array: np.ndarray) -> np.ndarray:
        return np.add.reduceat(np.asarray(array, np.float64), starts) / count

    middle = mean(values)
    scatter = mean((values - np.repeat(middle, count)) ** 2) / np.maximum(count - 1, 1)
    error = np.sqrt(scatter + mean(np.broadcast_to(sem, np.shape(values))) ** 2)
    low, high = np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
    return Bins(np.exp(mean(np.log(k))), middle, error, low, high)


def draw_extremes(axes: Axes, row: int, k: Ks, values: Curve) -> None:
    """The smallest and the largest value of narrow bins, as dots."""
    fine = log_bins(k, values, num=500)
    least = 1e-4 * np.min(fine.mean[fine.mean > 0], initial=np.inf)  # a few lie far below all
    style: Keywords = {"alpha": 0.4, "ms": 2.5, "mew": 0, "rasterized": True}
    for extreme in (fine.low, fine.high):
        shown = extreme > (least if np.isfinite(least) else 0)
        axes.plot(fine.k[shown], extreme[shown], ".", color=colour(row), **style)


def draw_mean(
    axes: Axes, row: int, k: Ks, values: Curve, sem: Curve | float, name: str, *, dash: str = "-"
) -> None:
    """The mean per bin, as a line in the colour of ``row``, with a band of its standard error."""
    bins = log_bins(k, values, sem)
    shown = bins.mean > 0  # a logarithmic axis has no place for an exact zero
    at, middle = bins.k[shown], bins.mean[shown]
    factor = np.exp(bins.error[shown] / middle)
    axes.fill_between(at, middle / factor, middle * factor, color=colour(row), alpha=0.3, lw=0)
    width = max(1.2, 2.4 - 0.4 * row)  # where curves coincide, the rim of the lower one shows
    axes.plot(at, middle, dash, label=name, **curve(row, lw=width, markevery=(2 * row, 8)))


def finish(figure: Figure, title: str) -> Figure:
    """The figure, with its legend, its axes logarithmic unless nothing lies above 0."""
    lines = [line for axes in figure.axes for line in axes.lines]
    positive = any((np.asarray(line.get_ydata()) > 0).any() for line in lines)
    for axes in figure.axes:
        if positive:
            axes.set(xscale="log", yscale="log")
        else:
            axes.text(0.5, 0.5, "no value above 0", transform=axes.transAxes, ha="center")
    return legend(figure, title)
