"""Figures of loss surfaces over two directions, from arrays."""

from collections.abc import Mapping
from typing import NamedTuple

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from mpl_toolkits.mplot3d import Axes3D

from jaxscape.lab.style import STYLE, canvas

RANGE = 1e8
"""Largest over smallest value that a logarithmic scale of colours spans."""
AXES = (r"$\theta_1$", r"$\theta_2$")


class Scale(NamedTuple):
    """The range of values that colours span."""

    low: float
    high: float
    is_log: bool

    @property
    def norm(self) -> Normalize:
        """Values to colours."""
        if self.is_log:
            return LogNorm(self.low, self.high, clip=True)
        return Normalize(self.low, self.high)


def contours(
    steps: Float[np.ndarray, "a"],
    sheets: Mapping[str, Float[np.ndarray, "a a"]],
    *,
    title: str,
    quantity: str,
    dataset: str,
    fallback: bool = False,
    path: Float[np.ndarray, "T 2"] | None = None,
) -> Figure:
    """Every named sheet z[i, j] at (steps[i], steps[j]) in colour, with lines of equal z.

    The trained point, at the origin, is marked by a cross, and ``path``, a training trajectory, is
    drawn over it. Each panel has its own colours, logarithmic where all of its values are above 0.
    """
    figure, panels = canvas(
        f"{title}: {dataset}", AXES[0], AXES[1], fallback=fallback, panels=len(sheets)
    )
    with matplotlib.rc_context(STYLE):
        for axes, (name, sheet) in zip(panels, sheets.items(), strict=True):
            axes.set_title(name)
            axes.grid(False)
            _draw(figure, axes, steps, sheet, quantity)
            if path is not None:
                axes.plot(
                    *path.T, color="w", lw=1.2, marker="o", ms=3.5, mec="k", mew=0.5,
                    label="training, an epoch a dot",
                )  # fmt: skip
            axes.plot(0, 0, "+", color="w", ms=13, mew=3.5)
            axes.plot(0, 0, "+", color="k", ms=11, mew=1.6, label="trained point")
            axes.set(xlim=steps[[0, -1]], ylim=steps[[0, -1]])
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def _draw(
    figure: Figure, axes: Axes, steps: np.ndarray, sheet: Float[np.ndarray, "a a"], quantity: str
) -> None:
    span = scale(sheet)
    mesh = axes.pcolormesh(
        steps, steps, sheet.T, norm=span.norm, cmap="viridis", shading="gouraud", rasterized=True
    )
    if span.low < span.high:
        spaced = np.geomspace if span.is_log else np.linspace
        levels = spaced(span.low, span.high, 13)[1:-1]
        axes.contour(steps, steps, sheet.T, levels=levels, colors="w", linewidths=0.5, alpha=0.7)
    bar = figure.colorbar(mesh, ax=axes, label=quantity)
    if span.is_log and span.high >= 100 * span.low:
        bar.locator = LogLocator(numticks=7)
        bar.minorticks_off()


def scale(sheet: Float[np.ndarray, "a a"]) -> Scale:
    """Colours over the finite values of a sheet, logarithmic where none is below 0."""
    finite = sheet[np.isfinite(sheet)]
    positive = finite[finite > 0]
    if not positive.size or (finite < 0).any() or positive.max() <= positive.min():
        return Scale(float(finite.min()), float(finite.max()), is_log=False)
    low = max(positive.min(), positive.max() / RANGE)
    return Scale(float(low), float(positive.max()), is_log=True)


def reliefs(
    steps: Float[np.ndarray, "a"],
    sheets: Mapping[str, Float[np.ndarray, "a a"]],
    *,
    title: str,
    quantity: str,
    dataset: str,
    fallback: bool = False,
) -> Figure:
    """Every named sheet as a surface in three dimensions, the trained point marked by a dot.

    Heights are decimal logarithms where all values are above 0.
    """
    columns = min(len(sheets), 2)
    rows = -(-len(sheets) // columns)
    mark = "\nFALLBACK DATA: in place of MNIST, which could not be had" if fallback else ""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1.0 + 4.4 * columns, 0.8 + 3.9 * rows))
        figure.suptitle(
            f"{title}: {dataset}{mark}", color="#B00000" if fallback else "black", fontsize=12
        )
        for number, (name, sheet) in enumerate(sheets.items(), start=1):
            axes = figure.add_subplot(rows, columns, number, projection="3d", title=name)
            _relief(axes, steps, sheet, quantity)
    return figure


def _relief(
    axes: Axes3D, steps: np.ndarray, sheet: Float[np.ndarray, "a a"], quantity: str
) -> None:
    span, heights, label = scale(sheet), sheet, quantity
    if span.is_log:
        heights, label = np.log10(np.maximum(sheet, span.low)), rf"$\log_{{10}}$ {quantity}"
    first, second = np.meshgrid(steps, steps, indexing="ij")
    axes.plot_surface(
        first, second, heights, cmap="viridis", lw=0, rstride=1, cstride=1, rasterized=True
    )
    middle = len(steps) // 2
    axes.plot(0, 0, heights[middle, middle], "o", color="k", ms=5, zorder=10)
    axes.set(xlabel=AXES[0], ylabel=AXES[1])
    axes.set_zlabel(label, labelpad=7)
    axes.view_init(elev=32, azim=-55)
    axes.set_box_aspect(None, zoom=0.85)
