"""The sample size that suffices, as measured and as predicted, with their intervals."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxscape as js
from jaxscape.loss_variance import Interval, Terms, mean_interval, terms_of
from jaxscape.sample_size import SufficientSize

LEVEL = 0.9
"""Of every interval here."""


PARTS = ("delta", "delta_centered")


def level_of(arrays: dict[str, np.ndarray], index: int) -> Interval:
    """E_q S² with its interval: over samples from the terms k(k+1)Δ_k, over points from S²(w)."""
    terms = _terms(arrays, index)
    groups = arrays.get("point_groups")
    m = arrays["coordinates"].shape[1] if groups is None else int(groups)
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
    """Per tolerance, K of this order, with its interval over orders, of Δ and of centered delta.

    Of Δ also K of the order law, and the K_ε with ε² the tolerance: to the landscape of the
    population, and to that of all samples of the run.
    """
    wanted = np.asarray(tolerances, np.float32)
    n = len(arrays["k"]) + 1
    own = {part: js.sufficient_size(arrays[part][index], wanted) for part in PARTS}
    orders = {
        part: js.exceedance_size(_terms(arrays, index, part), n - 1, wanted, level=LEVEL)
        for part in PARTS
    }
    level, epsilons = level_of(arrays, index), np.sqrt(wanted)
    law = [js.increment_size(v, wanted) for v in level]
    population = [js.distance_size(v, epsilons) for v in level]
    full = [js.distance_size(v, epsilons, n) for v in level]
    entries = []
    for row, tolerance in enumerate(tolerances):
        entries.append(
            {
                "tolerance": tolerance,
                "k": _k(own["delta"], row),
                "reached": bool(own["delta"].reached[row]),
                "ci": [_k(orders["delta"].low, row), _k(orders["delta"].high, row)],
                "centered_k": _k(own["delta_centered"], row),
                "centered_ci": [
                    _k(orders["delta_centered"].low, row),
                    _k(orders["delta_centered"].high, row),
                ],
            }
            | _named("law", law, row)
            | _named("distance", population, row)
            | _named("distance_full", full, row)
        )
    return entries


def _named(name: str, sizes: Sequence[SufficientSize], row: int) -> dict[str, Any]:
    low, value, high = (_k(size, row) for size in sizes)
    return {f"{name}_k": value, f"{name}_ci": [low, high]}


def _terms(arrays: dict[str, np.ndarray], index: int, part: str = "delta") -> np.ndarray:
    k = arrays["k"].astype(np.float64)
    return (k * (k + 1) * arrays[part][index]).astype(np.float32)


def _k(size: SufficientSize, row: int) -> int | None:
    """K, or None where it lies beyond every number looked at."""
    return int(size.k[row]) if bool(size.reached[row]) else None
