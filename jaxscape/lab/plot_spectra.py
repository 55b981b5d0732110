"""Figures of the spectra of H_k along k, from arrays."""

from collections.abc import Mapping

import matplotlib
import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure

from jaxscape.lab.bins import log_bins
from jaxscape.lab.curves import PREFIX
from jaxscape.lab.style import MARKERS, Keywords, canvas, colour, legend

DRAWN = 1000
"""Values of k, equally spaced in their logarithm, at which a line known at every k is drawn."""


def eigenvalues(
    k: Int[np.ndarray, "K"],
    values: Float[np.ndarray, "K d"],
    residuals: Float[np.ndarray, "K d"],
    ritz: Float[np.ndarray, "n d"],
    *,
    dataset: str,
    fallback: bool = False,
    unit: str = "nats",
) -> Figure:
    """Eigenvalues of H_k as markers with residuals as bars, Ritz values of every k as lines."""
    title = f"Leading eigenvalues of $H_k$ along $k$: {dataset}"
    ylabel = rf"eigenvalue ({unit} / $\|w\|^2$)"
    figure, (axes,) = canvas(title, PREFIX, ylabel, fallback=fallback)
    d = values.shape[1]
    shades = matplotlib.colormaps["viridis"](np.linspace(0, 0.85, d))
    at = np.unique(np.rint(np.geomspace(k[0], len(ritz), DRAWN)).astype(int))
    # a logarithmic axis has no place for the others
    lines = np.where(ritz[at - 1] > 0, ritz[at - 1], np.nan)
    for j in range(d):
        axes.plot(at, lines[:, j], color=shades[j], lw=1, alpha=0.8)
        axes.errorbar(k, values[:, j], residuals[:, j], fmt="o", ms=3.5, capsize=3, color=shades[j])
    axes.plot([], [], "o", ms=4, color="0.3", label=r"eigenvalue $\lambda_j(H_k)$, bar: residual")
    axes.plot([], [], color="0.3", label=r"Ritz value $\lambda_j(\Lambda_k)$")
    axes.set(xscale="log", yscale="log")
    if (values > 0).any():
        least = values[values > 0].min()
        axes.set_ylim(bottom=max(0.7 * np.nanmin([least, np.nanmin(lines)]), least / 30))
    legend(figure, f"dark to light: $j = 1$ to {d}")
    return figure


def overlap(
    k: Int[np.ndarray, "K"],
    overlaps: Float[np.ndarray, "K"],
    captured: Float[np.ndarray, "K"],
    *,
    dim: int,
    dataset: str,
    fallback: bool = False,
) -> Figure:
    """How much the top-d subspace of H_k is that of H_N, and holds of the curvature of H_k."""
    title = f"Top-{dim} subspaces of $H_k$ and $H_N$: {dataset}"
    figure, (axes,) = canvas(title, PREFIX, "share", fallback=fallback)
    named = {
        r"overlap, $\|V_k V_N^\top\|_F^2\,/\,d$": overlaps,
        r"curvature of $H_k$ within it, $\mathrm{tr}\,\Lambda_k\,/\sum_j\lambda_j$": captured,
    }
    for row, (name, values) in enumerate(named.items()):
        style: Keywords = {"color": colour(row), "marker": MARKERS[row], "ms": 5, "label": name}
        axes.plot(k, values, **style)
    axes.set(xscale="log")
    axes.set_ylim(min(0, captured.min()) - 0.02, 1.03)
    legend(figure, "subspace of $H_N$: its top eigenvectors")
    return figure


def theorem(
    k: Int[np.ndarray, "K"],
    theory: Mapping[str, Float[np.ndarray, "K"]],
    solved: tuple[Int[np.ndarray, "c"], Float[np.ndarray, "c"], Float[np.ndarray, "c"]],
    label: str,
    *,
    dataset: str,
    fallback: bool = False,
    unit: str = "nats²",
) -> Figure:
    """Theorem 1 from exact eigenvalues of H_k and H_{k+1} beside named parts of the law.

    ``solved`` is k, Theorem 1 there, and its error by rounding at most. The parts are drawn at the
    same k as markers, and in the mean over k as lines.
    """
    title = f"Theorem 1 and the quadratic law at {label}: {dataset}"
    figure, (axes,) = canvas(title, PREFIX, rf"$\Delta_k$   ({unit})", fallback=fallback)
    pair_k, values, error = solved
    at = np.searchsorted(k, pair_k)
    for row, (name, curve) in enumerate(theory.items(), start=1):
        bins = log_bins(k, curve)
        axes.plot(bins.k, bins.mean, "--", color=colour(row), lw=1.3)
        style: Keywords = {"marker": MARKERS[row], "ms": 8, "color": colour(row), "lw": 0}
        axes.plot(pair_k, curve[at], label=name, **style)
    style = {"marker": MARKERS[0], "ms": 12, "mfc": "none", "mew": 2, "lw": 0, "elinewidth": 2}
    below = np.minimum(error, 0.9 * values)
    axes.errorbar(pair_k, values, (below, error), color=colour(0), label="Theorem 1", **style)
    axes.set(xscale="log", yscale="log")
    legend(figure, "markers: at single k, bar: rounding; dashed: mean per logarithmic bin of all k")
    return figure
