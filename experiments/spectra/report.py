"""Tables and figures of the spectra of H_k along k, from the arrays of ``results.npz``."""

from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from experiments.common.bounds import theorem1
from experiments.spectra.measure import rounding
from jaxscape.lab.style import PREFIX, canvas, colour, curve, legend, log_bins

ALIKE = 0.9
"""Subspaces with at least this overlap count as alike."""

DRAWN = 1000
"""Values of k, equally spaced in their logarithm, at which a line known at every k is drawn."""

WORDS = """\
Overlap: mean squared cosine between the leading subspaces of H_k and H_N. tr Λ_k / Σλ_j: share of
the leading curvature of H_k that the subspace of H_N holds. Theorem 1: from eigenvalues of H_k and
H_{k+1}, paired by index (for which both are solved), ± rounding, * not all converged; of a flat
sample: were sample k+1 without curvature. Beside it parts of the quadratic law at the same k."""
"""What the tables mean."""


def summarise(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """The numbers of ``summary.json``, from the arrays of ``results.npz``."""
    k, values = arrays["k"], arrays["values"].astype(np.float64)
    ritz = arrays["ritz_values"][k - 1].astype(np.float64)
    # where an eigenvalue is zero to rounding, so is its residual: there rounding is the measure
    excess = (ritz - values) / np.maximum(arrays["residuals"], rounding(values))
    unlike = np.flatnonzero(arrays["overlap"] < ALIKE)
    alike = k[unlike[-1] + 1 :] if unlike.size else k
    at = arrays["pair_k"] - 1
    return {
        "converged": int(arrays["converged"].sum()),
        "eigenpairs": int(arrays["converged"].size),
        "alike_from": int(alike[0]) if alike.size else None,
        "interlacing_excess": float(excess.max()),
        "theorem1_over_curvature": _ratios(arrays["theorem1"], arrays["law_curvature"][at]),
        "curvature_over_law": _ratios(arrays["law_curvature"][at], arrays["law_total"][at]),
    }


def _ratios(above: np.ndarray, below: np.ndarray) -> list[float | None]:
    return [float(x / y) if y > 0 else None for x, y in zip(above, below, strict=True)]


def captured(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """tr Λ_k / Σ_j λ_j(H_k): how much of the top curvature lies in the subspace of H_N, [K]."""
    ritz = arrays["ritz_values"][arrays["k"] - 1].sum(1, dtype=np.float64)
    return ritz / arrays["values"].sum(1, dtype=np.float64)


def table(arrays: dict[str, np.ndarray]) -> list[list[str]]:
    """Rows of text, the first one the header: the eigenpairs of each H_k."""
    d = arrays["values"].shape[1]
    header = ["k", "products", "λ_1", f"λ_{d}", "residual / λ_1", "converged", "overlap"]
    rows = [[*header, "tr Λ_k / Σλ_j"]]
    names = ("k", "matvecs", "values", "residuals", "converged", "overlap")
    columns = zip(*(arrays[name] for name in names), captured(arrays), strict=True)
    for k, products, values, residuals, converged, overlap, share in columns:
        worst = f"{residuals.max() / values[0]:.1e}"
        cells = [f"{k:,}", str(products), f"{values[0]:.4g}", f"{values[-1]:.4g}", worst]
        rows.append([*cells, f"{converged.sum()} of {d}", f"{overlap:.3f}", f"{share:.3f}"])
    return rows


def theorem_table(arrays: dict[str, np.ndarray], sigma: float) -> list[list[str]]:
    """Rows of text, the first one the header: Theorem 1 and the quadratic law where both are."""
    header = ["k", "Theorem 1", "diagonal form", "curvature part", "full law"]
    rows = [[*header, "Theorem 1 of a flat sample"]]
    names = ("law_diagonal", "law_curvature", "law_total")
    solved = (arrays[name] for name in ("pair_k", "theorem1", "theorem1_error"))
    for k, theorem, error in zip(*solved, strict=True):
        # were sample k+1 flat, every eigenvalue λ would shrink by λ/(k+1)
        values = arrays["values"][arrays["k"] == k][0].astype(np.float64)
        numbers = (*(arrays[name][k - 1] for name in names), theorem1(values / (k + 1), sigma))
        others = (f"{number:.3g}" for number in numbers)
        both = arrays["converged"][np.isin(arrays["k"], (k, k + 1))]
        star = "" if both.all() else " *"  # not all converged
        rows.append([f"{k:,}", f"{theorem:.3g} ± {error:.1g}{star}", *others])
    return rows


def verdicts(found: dict[str, Any]) -> list[list[str]]:
    """Rows of text: what the numbers of ``summarise`` say."""
    alike = f"from k = {found['alike_from']:,} on" if found["alike_from"] else "at no k"
    law = f"curvature part over the full law at σ = {found['sigma']:g}"
    return [
        [f"overlap of at least {ALIKE:g} with the subspace of H_N", alike],
        ["Theorem 1 / curvature part", _between(found["theorem1_over_curvature"])],
        [law, _between(found["curvature_over_law"])],
        ["largest (Ritz value − eigenvalue) / residual", f"{found['interlacing_excess']:.2g}"],
    ]


def _between(ratios: list[float | None]) -> str:
    known = [ratio for ratio in ratios if ratio is not None]
    return f"{min(known):.2g} to {max(known):.2g}" if known else "undefined"


def figures_of(
    arrays: dict[str, np.ndarray], found: dict[str, Any], unit: str
) -> dict[str, Figure]:
    """Eigenvalues, overlap and Theorem 1 along k."""
    return {
        "eigenvalues": _eigenvalues(arrays, unit),
        "overlap": _overlap(arrays),
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


def _overlap(arrays: dict[str, np.ndarray]) -> Figure:
    """How much the top-d subspace of H_k is that of H_N, and holds of the curvature of H_k."""
    title = f"Top-{arrays['values'].shape[1]} subspaces of $H_k$ and $H_N$"
    figure, (axes,) = canvas(title, PREFIX, "share")
    share = captured(arrays)
    named = {
        r"overlap, $\|V_k V_N^\top\|_F^2\,/\,d$": arrays["overlap"],
        r"curvature of $H_k$ within it, $\mathrm{tr}\,\Lambda_k\,/\sum_j\lambda_j$": share,
    }
    for row, (name, values) in enumerate(named.items()):
        axes.plot(arrays["k"], values, label=name, **curve(row))
    axes.set(xscale="log")
    axes.set_ylim(min(0, share.min()) - 0.02, 1.03)
    legend(figure, "subspace of $H_N$: its top eigenvectors")
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
