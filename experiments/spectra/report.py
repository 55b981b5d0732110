"""Tables and figures of the spectra of H_k along k, from the arrays of ``results.npz``."""

from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure

from experiments.common.tables import as_text
from jaxscape.lab.style import MARKERS, PREFIX, Keywords, canvas, colour, legend, log_bins

ALIKE = 0.9
"""Subspaces with at least this overlap count as alike."""


def summarise(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """The numbers of ``summary.json``, from the arrays of ``results.npz``."""
    k, values = arrays["k"], arrays["values"].astype(np.float64)
    ritz = arrays["ritz_values"][k - 1].astype(np.float64)
    # where an eigenvalue is zero to rounding, so is its residual: there rounding is the measure
    rounding = 10 * np.finfo(np.float32).eps * np.abs(values).max(1, keepdims=True)
    excess = (ritz - values) / np.maximum(arrays["residuals"], rounding)
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


def text(arrays: dict[str, np.ndarray], found: dict[str, Any]) -> str:
    """All that the command prints."""
    rows = table(arrays), theorem_table(arrays, found["sigma"]), verdicts(found)
    return "\n\n".join(map(as_text, rows))


def table(arrays: dict[str, np.ndarray]) -> list[list[str]]:
    """Rows of text, the first one the header: the eigenpairs of each H_k."""
    d = arrays["values"].shape[1]
    header = ["k", "products", "λ_1", f"λ_{d}", "residual / λ_1", "converged", "overlap"]
    rows = [[*header, "tr Λ_k / Σλ_j"]]
    for index, share in enumerate(captured(arrays)):
        values, residuals, converged = (
            arrays[name][index] for name in ("values", "residuals", "converged")
        )
        rows.append(
            [
                f"{arrays['k'][index]:,}",
                str(arrays["matvecs"][index]),
                f"{values[0]:.4g}",
                f"{values[-1]:.4g}",
                f"{residuals.max() / values[0]:.1e}",
                f"{converged.sum()} of {d}",
                f"{arrays['overlap'][index]:.3f}",
                f"{share:.3f}",
            ]
        )
    return rows


def theorem_table(arrays: dict[str, np.ndarray], sigma: float) -> list[list[str]]:
    """Rows of text, the first one the header: Theorem 1 and the quadratic law where both are.

    Were sample k+1 flat, every eigenvalue would shrink by λ/(k+1): the last column is Theorem 1 of
    that alone. A star marks a k where a pair of H_k or of H_{k+1} did not converge.
    """
    header = ["k", "Theorem 1", "diagonal form", "curvature part", "full law"]
    rows = [[*header, "Theorem 1 of a flat sample"]]
    names = ("law_diagonal", "law_curvature", "law_total")
    solved = (arrays[name] for name in ("pair_k", "theorem1", "theorem1_error"))
    for k, theorem, error in zip(*solved, strict=True):
        shrunk = arrays["values"][arrays["k"] == k][0].astype(np.float64) / (k + 1)
        flat = sigma**4 / 4 * (2 * (shrunk**2).sum() + shrunk.sum() ** 2)
        numbers = (*(arrays[name][k - 1] for name in names), flat)
        others = (f"{number:.3g}" for number in numbers)
        both = arrays["converged"][np.isin(arrays["k"], (k, k + 1))]
        star = "" if both.all() else " *"
        rows.append([f"{k:,}", f"{theorem:.3g} ± {error:.1g}{star}", *others])
    return rows


def verdicts(found: dict[str, Any]) -> list[list[str]]:
    """Rows of text: what the numbers of ``summarise`` say."""
    alike = found["alike_from"]
    return [
        [
            f"overlap of at least {ALIKE:g} with the subspace of H_N",
            f"from k = {alike:,} on" if alike else "at no k",
        ],
        ["Theorem 1 / curvature part", _between(found["theorem1_over_curvature"])],
        [
            f"curvature part over the full law at σ = {found['sigma']:g}",
            _between(found["curvature_over_law"]),
        ],
        ["largest (Ritz value − eigenvalue) / residual", f"{found['interlacing_excess']:.2g}"],
    ]


def _between(ratios: list[float | None]) -> str:
    known = [ratio for ratio in ratios if ratio is not None]
    return f"{min(known):.2g} to {max(known):.2g}" if known else "undefined"


def figures_of(
    arrays: dict[str, np.ndarray], found: dict[str, Any], unit: str
) -> dict[str, Figure]:
    """Eigenvalues, overlap and Theorem 1 along k."""
    k, values = arrays["k"], arrays["values"]
    theory = {
        "diagonal form": arrays["law_diagonal"],
        "curvature part": arrays["law_curvature"],
        "full law": arrays["law_total"],
    }
    solved = arrays["pair_k"], arrays["theorem1"], arrays["theorem1_error"]
    label = rf"$\sigma = {found['sigma']:g}$"
    return {
        "eigenvalues": eigenvalues(k, values, arrays["residuals"], arrays["ritz_values"], unit),
        "overlap": overlap(k, arrays["overlap"], captured(arrays), dim=values.shape[1]),
        "theorem": theorem(np.arange(1, found["num_samples"]), theory, solved, label, unit),
    }


DRAWN = 1000
"""Values of k, equally spaced in their logarithm, at which a line known at every k is drawn."""


def eigenvalues(
    k: Int[np.ndarray, "K"],
    values: Float[np.ndarray, "K d"],
    residuals: Float[np.ndarray, "K d"],
    ritz: Float[np.ndarray, "n d"],
    unit: str,
) -> Figure:
    """Eigenvalues of H_k as markers with residuals as bars, Ritz values of every k as lines."""
    title = "Leading eigenvalues of $H_k$ along $k$"
    ylabel = rf"eigenvalue ({unit} / $\|w\|^2$)"
    figure, (axes,) = canvas(title, PREFIX, ylabel)
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
) -> Figure:
    """How much the top-d subspace of H_k is that of H_N, and holds of the curvature of H_k."""
    title = f"Top-{dim} subspaces of $H_k$ and $H_N$"
    figure, (axes,) = canvas(title, PREFIX, "share")
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
    unit: str,
) -> Figure:
    """Theorem 1 from exact eigenvalues of H_k and H_{k+1} beside named parts of the law.

    ``solved`` is k, Theorem 1 there, and its error by rounding at most. The parts are drawn at the
    same k as markers, and in the mean over k as lines.
    """
    title = f"Theorem 1 and the quadratic law at {label}"
    figure, (axes,) = canvas(title, PREFIX, rf"$\Delta_k$   ({unit}²)")
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
