"""Figures of a sweep, from arrays."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jaxscape.lab.curves import PREFIX, draw_extremes, draw_mean, finish
from jaxscape.lab.style import STYLE, Keywords, canvas, colour, legend, thin


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


def shape_part(
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
