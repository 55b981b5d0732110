"""The few numbers that answer the question, from a sweep's arrays."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.common import law, sizes
from experiments.common.run_folder import plain
from experiments.sweep.decay import decay_exponent

FROM = 100
"""Averages over k leave out the first values, which hang on a handful of samples."""


LATE = 0.95


MARK = "* within the last 5 % of the samples: only these few were quiet, more may not be"


def tested(found: dict[str, Any], before: str) -> str:
    """The test accuracy in words, after ``before``; nothing where there is none."""
    if found["test_accuracy"] is None:
        return ""
    of = " of whole sequences" if found.get("whole_sequences") else ""
    return f"{before}test accuracy {found['test_accuracy']:.2%}{of}"


def late(k: np.ndarray) -> np.ndarray:
    """Which k averages are taken over: from ``FROM`` on, or the later half of fewer than 200."""
    return k >= min(FROM, (k[-1] + 1) // 2)


def level(k: np.ndarray, delta: np.ndarray) -> float:
    """The mean of Δ_k·k² over late k."""
    chosen = late(k)
    return float(np.mean(delta[chosen].astype(np.float64) * k[chosen].astype(np.float64) ** 2))


def per_sigma(arrays: dict[str, np.ndarray], tolerances: Sequence[float]) -> list[dict[str, Any]]:
    """One entry per sigma, from the arrays of ``results.npz``."""
    k = arrays["k"]
    chosen = late(k)
    entries = []
    for index, sigma in enumerate(arrays["sigma"]):
        delta = arrays["delta"][index]
        interval = sizes.level_of(arrays, index)
        fit = decay_exponent(k[chosen], delta[chosen])
        entries.append(
            {
                "sigma": float(sigma),
                "mean_delta_k2": level(k, delta),
                "order_law_k2": float(arrays["loss_variance"][index]),
                "order_law_k2_sem": float(arrays["loss_variance_sem"][index]),
                **law.agreement(arrays, index, chosen),
                "decay_exponent": {"value": plain(fit.exponent), "sem": plain(fit.sem)},
                "order_law_k2_ci": [plain(interval.low), plain(interval.high)],
                "effective_samples": plain(sizes.effective_of(arrays, index)),
                "sufficient_size": sizes.entries_of(arrays, index, tolerances),
            }
        )
    return entries


def levels_table(entries: list[dict[str, Any]]) -> list[list[str]]:
    """Rows of text, the first one the header: the level of Δ_k·k² at each sigma, and its decay."""
    rows = [["sigma", "mean Δ_k·k²", "order law", "90 %", "carried by", "decay exponent"]]
    for entry in entries:
        exponent = entry["decay_exponent"]
        fitted = "-" if exponent["value"] is None else f"{exponent['value']:.3f}"
        if exponent["sem"] is not None:
            fitted += f" ± {exponent['sem']:.3f}"
        limits = ["any" if x is None else f"{x:.3g}" for x in entry["order_law_k2_ci"]]
        carried = entry["effective_samples"]
        rows.append(
            [
                f"{entry['sigma']:g}",
                f"{entry['mean_delta_k2']:.4g}",
                f"{entry['order_law_k2']:.4g}",
                " to ".join(limits),
                "no sample" if carried is None else f"{carried:,.0f} samples",
                fitted,
            ]
        )
    return rows


def sizes_table(entries: list[dict[str, Any]], k_max: int) -> list[list[str]]:
    """Rows of text, the first one the header: K per sigma and tolerance, with its intervals."""
    rows = [["sigma", "tolerance", "K, this order", "any order, 90 %", "K, order law", "90 %"]]
    for entry in entries:
        for size in entry["sufficient_size"]:
            rows.append(
                [
                    f"{entry['sigma']:g}",
                    f"{size['tolerance']:g}",
                    _words(size, k_max),
                    between(size["ci"]),
                    count(size["law_k"]),
                    between(size["law_ci"]),
                ]
            )
    return rows


def count(k: float | None) -> str:
    """K in words, None where it is beyond every number looked at."""
    return "beyond 2^31" if k is None else f"{k:,.0f}"


def between(limits: Sequence[float | None]) -> str:
    """An interval of K in words."""
    return " to ".join(map(count, limits))


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
