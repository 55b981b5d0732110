"""Figures of Δ_k as published beside what it should be, from arrays."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure

from jaxscape.lab.style import (
    MARKERS,
    PREFIX,
    Keywords,
    canvas,
    colour,
    draw_mean,
    finish,
    legend,
    log_bins,
)


class Curve(NamedTuple):
    """A named curve over k with its Monte-Carlo error."""

    label: str
    k: Int[np.ndarray, "K"]
    values: Float[np.ndarray, "K"]
    sem: Float[np.ndarray, "K"] | float


def increments(
    panels: Mapping[str, Sequence[Curve]],
    *,
    scaled: bool,
    where: str,
    dataset: str,
    fallback: bool = False,
    unit: str = "nats²",
) -> Figure:
    """Δ_k, or where ``scaled`` Δ_k·k², of the curves of each named panel, on common axes."""
    quantity = r"$\Delta_k \cdot k^2$" if scaled else r"$\Delta_k$"
    figure, axes = canvas(
        f"{where}: {dataset}", PREFIX, f"{quantity}   ({unit})",
        fallback=fallback, panels=len(panels),
    )  # fmt: skip
    for panel, (name, curves) in zip(axes, panels.items(), strict=True):
        panel.set_title("\n".join(name.split(": ")))
        if "batches" in name:
            panel.set_xlabel("prefix length $k$ (batches)")
        for row, curve in enumerate(curves):
            scale = np.asarray(curve.k, np.float64) ** 2 if scaled else 1.0
            draw_mean(panel, row, curve.k, curve.values * scale, curve.sem * scale, curve.label)
    return finish(figure, dots=False)


def theorem(
    panels: Mapping[str, Sequence[Curve]],
    marked: Mapping[str, tuple[Int[np.ndarray, "c"], Float[np.ndarray, "c"]]],
    *,
    dataset: str,
    fallback: bool = False,
    unit: str = "nats²",
) -> Figure:
    """Δ_k·k² by experiment and by theory, a panel per σ; ``marked`` values are drawn in each."""
    title = f"Theory against experiment: {dataset}"
    figure, axes = canvas(
        title, PREFIX,
        rf"$\Delta_k \cdot k^2$   ({unit})", fallback=fallback, panels=len(panels),
    )  # fmt: skip
    for panel, (name, curves) in zip(axes, panels.items(), strict=True):
        panel.set_title(name)
        for row, curve in enumerate(curves):
            bins = log_bins(curve.k, curve.values * np.asarray(curve.k, np.float64) ** 2)
            style: Keywords = {"color": colour(row), "marker": MARKERS[row], "ms": 5, "lw": 1.6}
            panel.plot(bins.k, bins.mean, markevery=(2 * row, 8), label=curve.label, **style)
        for row, (label, (k, values)) in enumerate(marked.items(), start=len(curves)):
            style = {"color": colour(row), "marker": MARKERS[row], "ms": 8, "lw": 0}
            panel.plot(k, values * np.asarray(k, np.float64) ** 2, label=label, **style)
        panel.set(xscale="log", yscale="log")
    legend(figure, "lines: mean per logarithmic bin of k; as published: k in batches of 64")
    return figure


def spectrum(
    curves: Mapping[str, Float[np.ndarray, "R d"]],
    *,
    num_samples: int,
    dataset: str,
    fallback: bool = False,
    unit: str = "nats",
) -> Figure:
    """Eigenvalues in descending order: mean over R networks, their range as a band."""
    count = len(next(iter(curves.values())))
    title = f"Leading Hessian eigenvalues of {count} networks, {num_samples:,} samples: {dataset}"
    figure, (axes,) = canvas(
        title,
        "index $j$",
        rf"eigenvalue $\lambda_j$ ({unit} per unit of $w$ squared)",
        fallback=fallback,
    )
    lowest = min(values.min() for values in curves.values())
    for row, (label, values) in enumerate(curves.items()):
        index = np.arange(1, values.shape[1] + 1)
        style: Keywords = {"marker": MARKERS[row], "ms": 5 if row == 0 else 8, "lw": 1.6}
        style |= {"mfc": colour(row) if row == 0 else "none", "color": colour(row), "label": label}
        axes.plot(index, values.mean(0), **style)
        if row == 0:
            spread = values.std(0, ddof=1)
            ends = (values.mean(0) - spread, values.mean(0) + spread)
            axes.fill_between(index, values.min(0), values.max(0), color=colour(row), alpha=0.15)
            axes.fill_between(index, *ends, color=colour(row), alpha=0.3, lw=0)
    axes.set_yscale("log" if lowest > 0 else "linear")
    legend(figure, "line: mean over networks; bands: one standard deviation, and the extremes")
    return figure
