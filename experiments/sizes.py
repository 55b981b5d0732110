"""The sample size that suffices, as measured and as predicted, with their intervals."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxscape as js
from jaxscape.intervals import Interval, Terms, mean_interval, terms_of
from jaxscape.sample_size import SufficientSize

LEVEL = 0.9
"""Of every interval here."""


def level_of(arrays: dict[str, np.ndarray], index: int) -> Interval:
    """E_q S² with its interval: over samples from the terms k(k+1)Δ_k, over points from S²(w)."""
    terms = _terms(arrays, index)
    m = arrays["coordinates"].shape[1]
    mean = jnp.asarray(arrays["loss_variance"][index])
    error = jnp.asarray(arrays["loss_variance_sem"][index])
    points = Terms(jnp.asarray(m), m * mean, m * mean**2 + m * (m - 1) * error**2)
    found = mean_interval(terms_of(terms), terms.max(), points, level=LEVEL)
    return jax.tree.map(float, found)


def effective_of(arrays: dict[str, np.ndarray], index: int) -> float:
    """By how many samples E_q S² is carried."""
    return float(terms_of(_terms(arrays, index)).effective)


def entries_of(
    arrays: dict[str, np.ndarray], index: int, tolerances: Sequence[float]
) -> list[dict[str, Any]]:
    """Per tolerance: K of this order, its interval over orders, and K of the order law."""
    wanted = np.asarray(tolerances, np.float32)
    measured = js.sufficient_size(arrays["delta"][index], wanted)
    terms = _terms(arrays, index)
    over_orders = js.exceedance_size(terms, len(terms), wanted, level=LEVEL)
    law = jax.tree.map(lambda v: js.increment_size(v, wanted), level_of(arrays, index))
    law = Interval(*(SufficientSize(*map(np.asarray, size)) for size in law))
    entries = []
    for row, tolerance in enumerate(tolerances):
        reached = bool(measured.reached[row])
        entries.append(
            {
                "tolerance": tolerance,
                "k": int(measured.k[row]) if reached else None,
                "reached": reached,
                "ci": [_k(over_orders.low, row), _k(over_orders.high, row)],
                "law_k": _k(law.value, row),
                "law_ci": [_k(law.low, row), _k(law.high, row)],
            }
        )
    return entries


def _terms(arrays: dict[str, np.ndarray], index: int) -> np.ndarray:
    k = arrays["k"].astype(np.float64)
    return (k * (k + 1) * arrays["delta"][index]).astype(np.float32)


def _k(size: SufficientSize, row: int) -> int | None:
    """K, or None where it lies beyond every number looked at."""
    return int(size.k[row]) if bool(size.reached[row]) else None
