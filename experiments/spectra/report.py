"""Tables and figures of the spectra of H_k along k, from the arrays of ``results.npz``."""

from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from jaxscape.lab.style import PREFIX, canvas, colour, curve, legend, log_bins

ALIKE = 0.9
"""Subspaces with at least this overlap count as alike."""

DRAWN = 1000
"""Values of k, equally spaced in their logarithm, at which a line known at every k is drawn."""

WORDS = """\
Overlap: mean squared cosine between the leading subspaces of H_k and H_N. Theorem 1: from
eigenvalues of H_k and H_{k+1}, paired by index (for which both are solved), ± rounding. Beside it
parts of the quadratic law at the same k."""
"""What the tables mean."""


def summarise(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """The numbers of ``summary.json``, from the arrays of ``results.npz``."""
    k, at = arrays["k"], arrays["pair_k"] - 1
    unlike = np.flatnonzero(arrays["overlap"] < ALIKE)
    alike = k[unlike[-1] + 1 :] if unlike.size else k
    curvature = arrays["law_curvature"][at]
    return {
        "converged": int(arrays["converged"].sum()),
        "eigenpairs": int(arrays["converged"].size),
        "alike_from": int(alike[0]) if alike.size else None,
        "theorem1_over_curvature": _ratios(arrays["theorem1"], curvature),
        "curvature_over_law": _ratios(curvature, arrays["law_total"][at]),
    }


def _ratios(above: np.ndarray, below: np.ndarray) -> list[float | None]:
    return [float(x / y) if y > 0 else None for x, y in zip(above, below, strict=True)]


def table(arrays: dict[str, np.ndarray]) -> list[list[str]]:
    """Rows of text, the first one the header: the eigenpairs of each H_k."""
    d = arrays["values"].shape[1]
    rows = [["k", "products", "λ_1", f"λ_{d}", "residual / λ_1", "converged", "overlap"]]
    names = ("k", "matvecs", "values", "residuals", "converged", "overlap")
    for k, products, values, residuals, converged, overlap in zip(
        *(arrays[name] for name in names), strict=True
    ):
        worst = f"{residuals.max() / values[0]:.1e}"
        cells = [f"{k:,}", str(products), f"{values[0]:.4g}", f"{values[-1]:.4g}", worst]
        rows.append([*cells, f"{converged.sum()} of {d}", f"{overlap:.3f}"])
    return rows


def theorem_table(arrays: dict[str, np.ndarray]) -> list[list[str]]:
    """Rows of text, the first one the header: Theorem 1 and the quadratic law where both are."""
    rows = [["k", "Theorem 1", "diagonal form", "curvature part", "full law"]]
    solved = (arrays[name] for name in ("pair_k", "theorem1", "theorem1_error"))
    for k, theorem, error in zip(*solved, strict=True):
        law = (arrays[f"law_{part}"][k - 1] for part in ("diagonal", "curvature", "total"))
        rows.append([f"{k:,}", f"{theorem:.3g} ± {error:.1g}", *(f"{x:.3g}" for x in law)])
    return rows


def verdicts(found: dict[str, Any]) -> list[list[str]]:
    """Rows of text: what the numbers of ``summarise`` say."""
    alike = f"from k = {found['alike_from']:,} on" if found["alike_from"] else "at no k"
    law = f"curvature part over the full law at σ = {found['sigma']:g}"
    return [
        [f"overlap of at least {ALIKE:g} with the subspace of H_N", alike],
        ["Theorem 1 / curvature part", _between(found["theorem1_over_curvature"])],
        [law, _between(found["curvature_over_law"])],
    ]


def _between(ratios: list[float | None]) -> str:
    known = [ratio for ratio in ratios if ratio is not None]
    return f"{min(known):.2g} to {max(known):.2g}" if known else "undefined"


def figures_of(
    arrays: dict[str, np.ndarray], found: dict[str, Any], unit: str
) -> dict[str, Figure]:
    """Eigenvalues and Theorem 1 along k."""
    return {
        "eigenvalues": _eigenvalues(arrays, unit),
        "theorem": _theorem(arrays, found["sigma"], unit),
    }


def _eigenvalues(arrays: dict[str, np.ndarray], unit: str) -> Figure:
    """Eigenvalues of H_k as markers with residuals as bars, Ritz values of every k as lines."""
    title = "Leading eigenvalues of $H_k$ along $k$"
    figure, (axes,) = canvas(title, PREFIX, rf"eigenvalue ({unit} / $\|w\|^2$)")
    k, values, residuals = (arrays[name] for name in ("k", "values", "residuals"))
    d = values.shape[1]
    shades = matplotlib.colormaps["viridis"](np.linspace(0, 0.85, d))
    at = np.unique(np.rint(np.geomspace(k[0], len(arrays["ritz_values"]), DRAWN)).astype(int))
    ritz = arrays["ritz_values"][at - 1]
    lines = np.where(ritz > 0, ritz, np.nan)  # a logarithmic axis has no place for the others
    for j, shade in enumerate(shades):
        axes.plot(at, lines[:, j], color=shade, lw=1, alpha=0.8)
        axes.errorbar(k, values[:, j], residuals[:, j], fmt="o", ms=3.5, capsize=3, color=shade)
    axes.plot([], [], "o", ms=4, color="0.3", label=r"eigenvalue $\lambda_j(H_k)$, bar: residual")
    axes.plot([], [], color="0.3", label=r"Ritz value $\lambda_j(\Lambda_k)$")
    axes.set(xscale="log", yscale="log")
    if (values > 0).any():
        least = values[values > 0].min()
        axes.set_ylim(bottom=max(0.7 * np.nanmin([least, np.nanmin(lines)]), least / 30))
    legend(figure, f"dark to light: $j = 1$ to {d}")
    return figure


def _theorem(arrays: dict[str, np.ndarray], sigma: float, unit: str) -> Figure:
    """Theorem 1 from exact eigenvalues of H_k and H_{k+1} beside parts of the law."""
    title = rf"Theorem 1 and the quadratic law at $\sigma = {sigma:g}$"
    figure, (axes,) = canvas(title, PREFIX, rf"$\Delta_k$   ({unit}²)")
    k, values, error = (arrays[name] for name in ("pair_k", "theorem1", "theorem1_error"))
    parts = {"diagonal form": "diagonal", "curvature part": "curvature", "full law": "total"}
    for row, (name, part) in enumerate(parts.items(), start=1):
        law = arrays[f"law_{part}"]
        bins = log_bins(np.arange(1, len(law) + 1), law)
        axes.plot(bins.k, bins.mean, "--", color=colour(row), lw=1.3)
        axes.plot(k, law[k - 1], label=name, **curve(row, ms=8, lw=0))
    hollow = curve(0, ms=12, mfc="none", mew=2, lw=0, elinewidth=2)
    below = np.minimum(error, 0.9 * values)
    axes.errorbar(k, values, (below, error), label="Theorem 1", **hollow)
    axes.set(xscale="log", yscale="log")
    legend(figure, "markers: at single k, bar: rounding; dashed: mean per logarithmic bin of all k")
    return figure
