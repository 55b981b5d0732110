"""Figures that set theory beside measurement, from arrays."""

from collections.abc import Mapping, Sequence
from typing import Any

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


def law(
    k: Int[np.ndarray, "K"],
    measured: Float[np.ndarray, "s K"],
    theory: Mapping[str, Float[np.ndarray, "s K"]],
    labels: Sequence[str],
    *,
    dataset: str,
    fallback: bool = False,
    unit: str = "nats²",
) -> Figure:
    """Δ_k by Monte-Carlo beside each named theory, a panel per label.

    Figure 9 of Nikitin et al. 2025 compares the diagonal form of the curvature part alone.
    """
    title = f"Law against Monte-Carlo: {dataset}"
    ylabel = rf"$\Delta_k$   ({unit})"
    figure, panels = canvas(title, PREFIX, ylabel, fallback=fallback, panels=len(labels))
    for row, (axes, label) in enumerate(zip(panels, labels, strict=True)):
        axes.set_title(label)
        draw_mean(axes, 0, k, measured[row], 0.0, "Monte-Carlo")
        for column, (name, values) in enumerate(theory.items(), start=1):
            draw_mean(axes, column, k, values[row], 0.0, name, dash="--")
    return finish(figure, dots=False)


def parts(
    k: Int[np.ndarray, "K"],
    shares: Mapping[str, Float[np.ndarray, "s K"]],
    labels: Sequence[str],
    *,
    dataset: str,
    fallback: bool = False,
) -> Figure:
    """The parts of Δ_k, stacked, as shares of their sum per bin of k, a panel per label.

    A negative part hangs below zero, by as much as the others together exceed one.
    """
    title = rf"What the quadratic law's $\Delta_k$ is made of: {dataset}"
    ylabel = r"share of the law's $\Delta_k$"
    figure, panels = canvas(title, PREFIX, ylabel, fallback=fallback, panels=len(labels))
    for row, (axes, label) in enumerate(zip(panels, labels, strict=True)):
        axes.set_title(label)
        binned = {name: log_bins(k, values[row], num=30) for name, values in shares.items()}
        whole = sum(bins.mean for bins in binned.values())
        above, below = np.zeros_like(whole), np.zeros_like(whole)
        for column, (name, bins) in enumerate(binned.items()):
            share = np.divide(bins.mean, whole, out=np.zeros_like(whole), where=whole > 0)
            up, down = np.maximum(share, 0), np.minimum(share, 0)
            style: Keywords = {"color": colour(column), "lw": 0, "alpha": 0.85}
            axes.fill_between(bins.k, above, above + up, label=name, **style)
            axes.fill_between(bins.k, below, below + down, **style)
            above, below = above + up, below + down
        axes.axhline(0, color="0.2", lw=1)
        axes.set_xscale("log")
    legend(figure, "mean per logarithmic bin of k")
    return figure


def sizes(
    tolerances: Float[np.ndarray, "t"],
    measured: Int[np.ndarray, "s t"],
    predicted: Float[np.ndarray, "s t"],
    k_max: int,
    labels: Sequence[str],
    *,
    dataset: str,
    fallback: bool = False,
    unit: str = "nats²",
) -> Figure:
    """K against tolerance: Definition 4 on the curve, and the order law.

    ``measured`` is −1 where K is not reached, and then not drawn. Where the law's K lies above
    the grey line at ``k_max``, no run of that length can measure it.
    """
    title = f"Sufficient sample size: {dataset}"
    figure, (axes,) = canvas(
        title, rf"tolerance of $\Delta_k$ ({unit})", "$K$ (samples)", fallback=fallback
    )
    for row, label in enumerate(labels):
        reached = measured[row] >= 1
        style: Keywords = {"marker": MARKERS[row % len(MARKERS)], "ms": 4, "lw": 0, "label": label}
        axes.plot(tolerances[reached], measured[row][reached], color=colour(row), **style)
        axes.plot(tolerances, predicted[row], "--", color=colour(row))
    axes.plot([], [], "--", color="0.3", label="order law")
    axes.axhline(k_max, color="0.5", lw=1)
    axes.set(xscale="log", yscale="log")
    legend(
        figure, f"markers: one past the last exceedance; grey: the {k_max:,} samples of this run"
    )
    return figure


def agreement(
    entries: Sequence[Mapping[str, Any]], *, dataset: str, fallback: bool = False
) -> Figure:
    """Law over Monte-Carlo against σ: in full, per k in the median, and each part alone.

    ``entries`` hold ``sigma``, ``law_over_monte_carlo`` with its ``_sem`` and ``_median``, and
    ``law_parts`` as shares of the law. A negative part is not drawn.
    """
    title = f"Where the quadratic law holds: {dataset}"
    xlabel = r"$\sigma$ (standard deviation per direction, units of the parameters)"
    ylabel = r"law / Monte-Carlo, mean over $k \geq 100$"
    figure, (axes,) = canvas(title, xlabel, ylabel, fallback=fallback)
    sigma, ratio, error, median = (
        np.array([entry[name] for entry in entries])
        for name in (
            "sigma",
            "law_over_monte_carlo",
            "law_over_monte_carlo_sem",
            "law_over_monte_carlo_median",
        )
    )
    axes.axhspan(0.95, 1.05, color="0.85", lw=0)
    for row, part in enumerate(("offset", "mixed", "gradient", "curvature"), start=2):
        share = np.array([entry["law_parts"][part] for entry in entries]) * ratio
        shown = share > 0
        style: Keywords = {"color": colour(row), "marker": MARKERS[row], "ms": 4, "lw": 1.2}
        axes.plot(sigma[shown], share[shown], "--", label=f"{part} part", **style)
    axes.plot(sigma, median, ":", color=colour(1), marker=MARKERS[1], label="full law, median")
    bars: Keywords = {"color": colour(0), "marker": MARKERS[0], "capsize": 4, "lw": 2}
    axes.errorbar(sigma, ratio, [np.minimum(error, 0.999 * ratio), error], label="full law", **bars)
    axes.set(xscale="log", yscale="log")
    axes.set_ylim(bottom=max(1e-10, axes.get_ylim()[0]))
    legend(figure, "bars: standard error over the points; grey: within 5 % of 1")
    return figure
