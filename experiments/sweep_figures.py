"""The figures of a sweep, each with its caption."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

import jaxscape as js
from jaxscape.lab import plot, plot_theory

PARTS = ("offset", "gradient", "curvature", "mixed")
CAPTIONS = {
    "delta": "Δ_k against k, both logarithmic. Each value hangs on the one sample k+1, so single "
    "values scatter widely: dots are the extremes of narrow bins, the line the mean over k in "
    "bins of equal width in log k, the band its standard error.",
    "delta_k2": "Δ_k·k²; dashed the order law, its mean over all orders of these samples, which is "
    "flat. The curve of the one order that was run may lie far below it until the few samples "
    "arrive that carry the variance of the loss.",
    "shape_part": "Δ_k beside its shape part, which leaves out shifts of the whole surface.",
    "sizes": "K against tolerance: markers one past the last exceedance in this order "
    "(Definition 4), lines the order law, which is the mean over orders and so comes earlier.",
    "law": "Monte-Carlo beside the quadratic law, in full and as published (Figure 9 of Nikitin et "
    "al. 2025). Where the full law lies on the measured curve, the points stay where the loss is "
    "quadratic.",
    "law_parts": "The parts of the quadratic law as shares of their sum: offset a², gradient "
    "σ²‖b‖², curvature, mixed σ² a tr A, which may be negative. They explain Δ_k only where the "
    "law holds.",
    "eigenvalues": "The largest eigenvalues of the Hessian over all samples; error bars are "
    "residuals.",
}


def figures_of(arrays: dict[str, np.ndarray], found: dict[str, Any]) -> dict[str, Figure]:
    """From the arrays of results.npz and the summary; those that there is something to show in."""
    marks = {"dataset": found["dataset_label"], "fallback": bool(found["dataset_note"])}
    labels = [f"σ = {sigma:g}" for sigma in arrays["sigma"]]
    common = {"labels": labels, "unit": found["unit"], **marks}
    k, delta, sem = arrays["k"], arrays["delta"], arrays["delta_sem"]
    figures = {
        "delta": plot.delta(k, delta, sem, **common),
        "delta_k2": plot.delta_k2(k, delta, sem, loss_variance=arrays["loss_variance"], **common),
        "shape_part": plot.shape_part(k, delta, arrays["delta_shape"], **common),
        "sizes": _sizes(arrays, found["num_samples"], common),
    }
    if "law_total" in arrays:
        theory = {
            "full law": arrays["law_total"],
            "curvature part (Theorem 1)": arrays["law_curvature"],
            "its diagonal form (published)": arrays["law_diagonal"],
        }
        parts = {part: arrays[f"law_{part}"] for part in PARTS}
        figures["law"] = plot_theory.law(k, delta, theory, **common)
        figures["law_parts"] = plot_theory.parts(k, parts, labels, **marks)
    if len(arrays["eigenvalues"]):
        figures["eigenvalues"] = plot.eigenvalues(
            arrays["eigenvalues"],
            arrays["eigenvalue_residuals"],
            unit=found["unit"].removesuffix("²"),
            **marks,
        )
    return figures


def _sizes(arrays: dict[str, np.ndarray], num_samples: int, common: dict[str, Any]) -> Figure:
    """K against tolerance, over all tolerances that the measured curves meet."""
    positive = arrays["delta"][arrays["delta"] > 0]
    low, high = (positive.min(), positive.max()) if positive.size else (0.1, 1.0)
    tolerances = np.geomspace(low, high, 80).astype(np.float32)
    measured = np.asarray(js.sufficient_size(arrays["delta"][:, None], tolerances).k)
    law = js.increment_size(arrays["loss_variance"][:, None], tolerances)
    predicted = np.where(law.reached, law.k, np.nan)
    return plot_theory.sizes(tolerances, measured, predicted, num_samples, **common)
