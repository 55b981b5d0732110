"""Figures of a sweep, from arrays.

Figures of loss surfaces over two directions, from arrays.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator
from mpl_toolkits.mplot3d import Axes3D

from jaxscape.lab.style import (
    PREFIX,
    STYLE,
    Keywords,
    canvas,
    colour,
    draw_extremes,
    draw_mean,
    finish,
    legend,
    thin,
)


def delta(
    k: Int[np.ndarray, "K"],
    curves: Float[np.ndarray, "s K"],
    sem: Float[np.ndarray, "s K"],
    labels: Sequence[str],
    *,
    dataset: str,
    fallback: bool = False,
    unit: str = "nats²",
) -> Figure:
    """Δ_k against k, both logarithmic: one curve for each of ``labels``.

    ``unit`` is that of a squared loss; ``fallback`` marks a data set that stands in for another.
    """
    title = f"Change of the loss surface per sample: {dataset}"
    ylabel = rf"$\Delta_k = \mathrm{{E}}_w\,[\delta_k(w)^2]$   ({unit})"
    figure, (axes,) = canvas(title, PREFIX, ylabel, fallback=fallback)
    for row, label in enumerate(labels):
        draw_extremes(axes, row, k, curves[row])
        draw_mean(axes, row, k, curves[row], sem[row], label)
    return finish(figure, dots=True)


def delta_k2(
    k: Int[np.ndarray, "K"],
    curves: Float[np.ndarray, "s K"],
    sem: Float[np.ndarray, "s K"],
    labels: Sequence[str],
    *,
    dataset: str,
    loss_variance: Float[np.ndarray, "s"] | None = None,
    fallback: bool = False,
    unit: str = "nats²",
) -> Figure:
    """Δ_k·k² against k; with ``loss_variance`` also the order law E_qS²·k/(k+1), dashed."""
    title = f"Scaled change of the loss surface: {dataset}"
    ylabel = rf"$\Delta_k \cdot k^2$   ({unit})"
    figure, (axes,) = canvas(title, PREFIX, ylabel, fallback=fallback)
    square = np.asarray(k, np.float64) ** 2
    for row, label in enumerate(labels):
        draw_extremes(axes, row, k, curves[row] * square)
        draw_mean(axes, row, k, curves[row] * square, sem[row] * square, label)
    if loss_variance is not None:
        axes.plot([], [], "--", color="0.3", label=r"order law $\mathrm{E}_w S^2\, k/(k+1)$")
        for row, variance in enumerate(loss_variance):
            axes.plot(k, variance * (k / (k + 1)), "--", color=colour(row), lw=1.3)
    return finish(figure, dots=True)


def centered(
    k: Int[np.ndarray, "K"],
    total: Float[np.ndarray, "s K"],
    shape: Float[np.ndarray, "s K"],
    labels: Sequence[str],
    *,
    dataset: str,
    fallback: bool = False,
    unit: str = "nats²",
) -> Figure:
    """Δ_k beside its shape part Δ̃_k (a shift of the whole surface removed), a panel per label."""
    title = f"Change of level and of shape: {dataset}"
    ylabel = rf"$\Delta_k,\ \tilde\Delta_k$   ({unit})"
    figure, panels = canvas(title, PREFIX, ylabel, fallback=fallback, panels=len(labels))
    for row, (axes, label) in enumerate(zip(panels, labels, strict=True)):
        axes.set_title(label)
        names = (r"$\Delta_k$, level and shape", r"$\tilde\Delta_k$, shape alone")
        for column, (values, name) in enumerate(zip((total, shape), names, strict=True)):
            draw_mean(axes, column, k, values[row], 0.0, None if row else name)
    return finish(figure, dots=False)


def eigenvalues(
    values: Float[np.ndarray, "d"],
    residuals: Float[np.ndarray, "d"],
    *,
    dataset: str,
    fallback: bool = False,
    unit: str = "nats",
) -> Figure:
    """Eigenvalues in the order given, residual ‖Hv − λv‖ as error bar, the sign as marker."""
    title = f"Hessian eigenvalues: {dataset}"
    ylabel = rf"eigenvalue $\lambda$ ({unit} / $\|w\|^2$)"
    figure, (axes,) = canvas(title, "index", ylabel, fallback=fallback)
    values, residuals = np.asarray(values), np.asarray(residuals)
    index = np.arange(1, len(values) + 1)
    for row, (chosen, sign) in enumerate([(values >= 0, "≥ 0"), (values < 0, "< 0")]):
        if chosen.any():
            style: Keywords = {"fmt": "ov"[row], "color": colour(row), "label": f"λ {sign}"}
            axes.errorbar(index[chosen], values[chosen], residuals[chosen], capsize=4, **style)
    axes.axhline(0, color="0.4", lw=1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend(figure, f"bars: residual ‖Hv − λv‖, at most {residuals.max():.1g}")
    return figure


def save(figure: Figure, folder: str | Path, name: str) -> None:
    """Write ``folder/name.png`` (200 dots per inch) and ``folder/name.pdf``.

    The same figure gives the same bytes. Raises ``OSError`` where they cannot be written.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        thin(figure)
        _write(figure, Path(folder) / f"{name}.png")
        figure.set_layout_engine("none")  # laid out once, which takes as long as drawing
        _write(figure, Path(folder) / f"{name}.pdf", metadata={"CreationDate": None})


def _write(figure: Figure, path: Path, **options: Any) -> None:
    """Draw into memory first: matplotlib reports a full disk in other errors too."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format=path.suffix[1:], dpi=200, **options)
    path.write_bytes(drawn.getvalue())


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
