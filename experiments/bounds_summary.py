"""The published bounds beside what they bound, in numbers and words, from arrays."""

from typing import Any

import numpy as np

from jaxscape import InputError

NOTE = (
    "log10 of everything; looseness: bound over measured, at the sample or k where it is closest; "
    "of a sample's Hessian the Gauss-Newton part is measured; the bound within R takes losses for "
    "smooth, which those of a ReLU network are not, so it is no proof"
)


def compare(arrays: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Each bound beside what it bounds, in log10, from the arrays of ``results.npz``.

    Bounds that fall with k, and what they bound, are multiplied by their power of k + 1. The
    looseness is that at the sample or k where the bound comes closest.
    """
    entries = []
    for name, measured, bound, power in (
        ("norm of a sample's Hessian", "gauss_newton_norms", "bound_norm", 0),
        ("(k+1)·|δ_k| at w*", "step_at_origin", "bound_step_at_origin", 1),
        ("(k+1)·|δ_k| within R", "step_in_probe", "bound_step_in_probe", 1),
        ("(k+1)²·Δ_k, quadratic law", "law_total", "bound_rate", 2),
        ("(k+1)²·Δ_k, Monte-Carlo", "delta", "bound_rate", 2),
    ):
        factor = (arrays["k"] + 1.0) ** power if power else 1.0
        values = arrays[measured].astype(np.float64) * factor
        if not np.max(values) > 0:
            raise InputError(
                f"expected losses that differ between samples, found {measured} = 0 throughout; "
                "no ratio to it is defined"
            )
        limits = arrays[bound].astype(np.float64).reshape(2, -1) + np.log10(factor)
        gaps = limits - np.log10(np.where(values > 0, values, np.nan))
        entries.append(
            {
                "name": name,
                "published": limits[0].max(),
                "corrected": limits[1].max(),
                "largest": np.log10(np.max(values)),
                "median": np.log10(np.median(values)) if np.median(values) > 0 else None,
                "published_looseness": np.nanmin(gaps[0]),
                "corrected_looseness": np.nanmin(gaps[1]),
            }
        )
    return entries


def table(entries: list[dict[str, Any]]) -> list[list[str]]:
    """Rows of text, the first one the header."""
    header = ["bound on", "published", "corrected", "measured, largest", "median"]
    rows = [[*header, "looseness, published", "corrected"]]
    names = ("published", "corrected", "largest", "median")
    for entry in entries:
        numbers = [entry[name] for name in (*names, "published_looseness", "corrected_looseness")]
        rows.append([entry["name"], *("-" if x is None else f"{x:.2f}" for x in numbers)])
    return rows


def sentences(found: dict[str, Any]) -> list[str]:
    """What the numbers say."""
    network, sample = found["network"], found["sample"]
    exceeded = [
        f"the {form} bound on the {entry['name']}"
        for entry in found["bounds"]
        for form in ("published", "corrected")
        if entry[f"{form}_looseness"] < 0
    ]
    return [
        NOTE,
        (
            f"constants: L = {network['layers']:.0f}, M_x = {network['input_norm']:.4g}, "
            f"M_W = {network['weight_norm']:.4g} of the network; M_ℓ = {sample['loss']:.4g}, "
            f"M_g = {sample['gradient']:.4g}, M_H = {sample['hessian']:.4g} of a sample in "
            f"{sample['dim']:.0f} directions; R = {found['radius']:.3g} at σ = {found['sigma']:g}"
        ),
        f"norms: the largest of {found['norms']:,} of {found['num_samples']:,} samples",
        "exceeded: " + ("; ".join(exceeded) or "no bound"),
    ]
