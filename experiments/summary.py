"""The few numbers that answer the question, from a sweep's arrays."""

from collections.abc import Sequence
from typing import Any

import numpy as np

import jaxscape as js
from experiments import law
from jaxscape.decay import decay_exponent

FROM = 100
"""Averages over k leave out the first values, which hang on a handful of samples."""
LATE = 0.95
MARK = "* within the last 5 % of the samples: only these few were quiet, more may not be"


def per_sigma(arrays: dict[str, np.ndarray], tolerances: Sequence[float]) -> list[dict[str, Any]]:
    """One entry per sigma, from the arrays of ``results.npz``."""
    k = arrays["k"]
    late = k >= min(FROM, k[-1])
    entries = []
    for index, sigma in enumerate(arrays["sigma"]):
        delta = arrays["delta"][index]
        fit = decay_exponent(k[late], delta[late])
        scaled = delta[late].astype(np.float64) * k[late].astype(np.float64) ** 2
        entries.append(
            {
                "sigma": float(sigma),
                "mean_delta_k2": float(scaled.mean()),
                "order_law_k2": float(arrays["loss_variance"][index]),
                "order_law_k2_sem": float(arrays["loss_variance_sem"][index]),
                **law.agreement(arrays, index, late),
                "decay_exponent": {"value": _number(fit.exponent), "sem": _number(fit.sem)},
                "sufficient_size": _sizes(delta, tolerances),
            }
        )
    return entries


def _sizes(delta: np.ndarray, tolerances: Sequence[float]) -> list[dict[str, Any]]:
    found = js.sufficient_size(delta, np.asarray(tolerances, np.float32))
    return [
        {"tolerance": tolerance, "k": int(k) if reached else None, "reached": bool(reached)}
        for tolerance, k, reached in zip(tolerances, found.k, found.reached, strict=True)
    ]


def _number(value: Any) -> float | None:
    """NaN is no JSON."""
    return float(value) if np.isfinite(value) else None


def table(entries: list[dict[str, Any]], k_max: int) -> list[list[str]]:
    """Rows of text, the first one the header: K per tolerance and sigma beside what sets it."""
    tolerances = [size["tolerance"] for size in entries[0]["sufficient_size"]]
    header = ["sigma", "mean Δ_k·k²", "order law", "decay exponent"]
    rows = [header + [f"K({tolerance:g})" for tolerance in tolerances]]
    for entry in entries:
        exponent = entry["decay_exponent"]
        fitted = "-" if exponent["value"] is None else f"{exponent['value']:.3f}"
        if exponent["sem"] is not None:
            fitted += f" ± {exponent['sem']:.3f}"
        sizes = [_words(size, k_max) for size in entry["sufficient_size"]]
        law = f"{entry['order_law_k2']:.4g} ± {entry['order_law_k2_sem']:.1g}"
        rows.append([f"{entry['sigma']:g}", f"{entry['mean_delta_k2']:.4g}", law, fitted, *sizes])
    return rows


def _words(size: dict[str, Any], k_max: int) -> str:
    """K; marked where too few samples follow it to tell whether it will last."""
    if not size["reached"]:
        return f"not by {k_max:,}"
    return f"{size['k']:,}" + ("*" if size["k"] > LATE * k_max else "")


def is_marked(rows: list[list[str]]) -> bool:
    """Whether a K of the table carries the mark that ``MARK`` explains."""
    return any(cell.endswith("*") for row in rows for cell in row)


def as_text(rows: list[list[str]]) -> str:
    """The table in columns of equal width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
