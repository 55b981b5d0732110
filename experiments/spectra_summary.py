"""The spectra of H_k along k in numbers and words, from arrays."""

from typing import Any

import numpy as np
from jaxtyping import Array, Float

from jaxscape.prefix_spectra import PrefixSpectra

ALIKE = 0.9
"""Subspaces with this overlap are called alike."""


def theorem_error(
    spectra: PrefixSpectra, theorem: Float[Array, "c"], sigma: float
) -> Float[np.ndarray, "c"]:
    """How far the errors of eigenvalues that differ by ~λ/k may move Theorem 1, their difference.

    Its square root is a norm of the steps Δλ, so steps that are off by h move Δ by at most
    2√(Δ·f) + f, with f that of h: here the sum of ``eigenvalue_errors`` at k and k + 1.
    """
    errors = eigenvalue_errors(spectra)
    at = np.flatnonzero(np.diff(np.asarray(spectra.k)) == 1)
    steps = errors[at] + errors[at + 1]
    own = sigma**4 / 4 * (2 * np.sum(steps**2, 1) + np.sum(steps, 1) ** 2)
    return 2 * np.sqrt(np.asarray(theorem, np.float64) * own) + own


def eigenvalue_errors(spectra: PrefixSpectra) -> Float[np.ndarray, "K d"]:
    """The 10 ε λ_1 that Lanczos takes for rounding, and min(r, r²/gap) of the residual r.

    The gap is that to the nearest other eigenvalue that was solved for; the one after the last is
    not known. Of a pair that did not converge this is how far some eigenvalue is, perhaps another.
    """
    values, residuals = (np.asarray(x, np.float64) for x in (spectra.values, spectra.residuals))
    apart = np.abs(values[:, :, None] - values[:, None, :])
    apart[:, np.eye(values.shape[1], dtype=bool)] = np.inf
    gap = apart.min(2) if values.shape[1] > 1 else np.zeros_like(values)
    least = np.finfo(np.float64).tiny  # 0/0 of a double eigenvalue solved for exactly
    shift = residuals**2 / np.maximum(np.maximum(gap, residuals), least)
    rounding = 10 * np.finfo(np.float32).eps * np.abs(values).max(1, keepdims=True)
    return rounding + shift


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


def sentences(found: dict[str, Any]) -> list[str]:
    """What the numbers say."""
    theorem, curvature = (
        _between(found[name]) for name in ("theorem1_over_curvature", "curvature_over_law")
    )
    alike = found["alike_from"]
    from_k = f"from k = {alike:,} on" if alike else "at no k"
    return [
        f"overlap with the subspace of H_N: at least {ALIKE:g} {from_k}, of the k above",
        (
            "interlacing: Ritz value less eigenvalue is at most "
            f"{found['interlacing_excess']:.2g} of the residual"
        ),
        f"Theorem 1, with eigenvalues paired by index: {theorem} times the curvature part",
        f"the curvature part: {curvature} times the full law at σ = {found['sigma']:g}",
    ]


def _between(ratios: list[float | None]) -> str:
    known = [ratio for ratio in ratios if ratio is not None]
    return f"{min(known):.2g} to {max(known):.2g}" if known else "undefined"
