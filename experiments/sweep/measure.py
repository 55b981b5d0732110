"""What a sweep measures: the arrays of results.npz and the numbers of summary.json."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxscape as js
from experiments.common import segments, tables
from experiments.common.problem import Problem
from experiments.common.run_folder import plain
from experiments.common.tables import LEVEL
from jaxscape.lab import train
from jaxscape.lanczos import Eigenpairs
from jaxscape.loss_variance import Interval, Terms, mean_interval, terms_of
from jaxscape.reductions import Delta
from jaxscape.sample_size import SufficientSize
from jaxscape.trees import num_parameters
from jaxscape.types import Params, Probe


def arrays_of(
    problem: Problem,
    params: Params,
    pairs: Eigenpairs | None,
    sigmas: Sequence[float],
    probes: Sequence[Probe],
    curves: Sequence[Delta],
) -> dict[str, np.ndarray]:
    """The arrays of results.npz but for the law's; ``pairs`` of a Hessian's directions.

    ``order`` [k_max], ``k`` [K = k_max − 1], ``sigma`` [s], ``delta*`` [s, K], ``loss_variance*``
    [s], ``eigenvalue*`` [d], ``loss_at_origin`` [k_max], ``coordinates`` [s, m, d].
    """
    variance = np.stack([curve.loss_variance for curve in curves])
    at_origin = functools.partial(js.per_sample_losses, problem.loss, params)
    groups = getattr(probes[0], "groups", None)
    # an isotropic probe has none
    coordinates = [getattr(p, "coordinates", np.zeros((p.num_points, 0))) for p in probes]
    means = variance.reshape(len(curves), groups or variance.shape[1], -1).mean(2)
    return {
        "k": curves[0].k,
        "order": problem.order.astype(np.int32),
        "sigma": np.asarray(sigmas, np.float32),
        "delta": np.stack([curve.mean for curve in curves]),
        "delta_sem": np.stack([curve.sem for curve in curves]),
        "delta_centered": np.stack([curve.centered for curve in curves]),
        "delta_first_order": np.stack([curve.first_order for curve in curves]),
        "loss_variance": variance.mean(1),
        "loss_variance_sem": means.std(1, ddof=1) / np.sqrt(means.shape[1]),
        "eigenvalues": np.asarray(pairs.values if pairs else []),
        "eigenvalue_residuals": np.asarray(pairs.residuals if pairs else []),
        "loss_at_origin": segments.rows(problem, at_origin),
        "coordinates": np.stack([np.asarray(theta) for theta in coordinates]),
    } | ({"point_groups": np.asarray(groups)} if groups else {})


def summary_of(
    problem: Problem,
    params: Params,
    pairs: Eigenpairs | None,
    arrays: dict[str, np.ndarray],
    tolerances: Sequence[float],
) -> dict[str, Any]:
    """The content of summary.json, from the ``arrays`` of results.npz."""
    dataset = problem.dataset
    return {
        "dataset": dataset.name,
        "dataset_note": dataset.note,
        "num_samples": len(problem.order),
        "num_parameters": num_parameters(params),
        "train_loss": float(arrays["loss_at_origin"].mean(dtype=np.float64)),
        "test_accuracy": _test_accuracy(problem, params),
        "whole_sequences": dataset.has_tokens,
        "unit": f"{problem.unit}²",
        "eigenvalues": [float(value) for value in arrays["eigenvalues"]],
        "eigenvalues_converged": [bool(good) for good in pairs.converged] if pairs else [],
        "hessian_products": int(pairs.matvecs) if pairs else 0,
        "sigmas": [sigma_entry(arrays, index, tolerances) for index in range(len(arrays["sigma"]))],
        "seconds": {stage: round(value, 2) for stage, value in problem.seconds.items()},
    }


def _test_accuracy(problem: Problem, params: Params) -> float | None:
    """None for a regression, or where the data set has no test split."""
    dataset = problem.dataset
    if dataset.num_classes == 0 or dataset.test_inputs is None or dataset.test_targets is None:
        return None
    inputs, targets = jnp.asarray(dataset.test_inputs), jnp.asarray(dataset.test_targets)
    return float(train.accuracy(problem.apply, params, inputs, targets, batch_size=1000))


def sigma_entry(
    arrays: dict[str, np.ndarray], index: int, tolerances: Sequence[float]
) -> dict[str, Any]:
    """The summary of one sigma: the level of Δ_k·k², its decay, the law beside it, and K."""
    k, delta = arrays["k"], arrays["delta"][index]
    chosen = tables.late(k)
    interval, effective = level_of(arrays, index)
    fit = tables.decay_exponent(k[chosen], delta[chosen])
    return {
        "sigma": float(arrays["sigma"][index]),
        "mean_delta_k2": tables.level(k, delta),
        "order_law_k2": float(arrays["loss_variance"][index]),
        "order_law_k2_sem": float(arrays["loss_variance_sem"][index]),
        **tables.agreement(arrays, index, chosen),
        "decay_exponent": {"value": plain(fit.exponent), "sem": plain(fit.sem)},
        "order_law_k2_ci": [plain(interval.low), plain(interval.high)],
        "effective_samples": plain(effective),
        "sufficient_size": sizes_of(arrays, index, tolerances),
    }


def level_of(arrays: dict[str, np.ndarray], index: int) -> tuple[Interval, float]:
    """E_q S² with its interval, and the effective sample size of the terms k(k+1)Δ_k.

    The interval over samples comes from these terms, the one over points from S²(w).
    """
    terms = _terms(arrays, index)
    groups = arrays.get("point_groups")
    m = arrays["coordinates"].shape[1] if groups is None else int(groups)
    mean = jnp.asarray(arrays["loss_variance"][index])
    error = jnp.asarray(arrays["loss_variance_sem"][index])
    points = Terms(jnp.asarray(m), m * mean, m * mean**2 + m * (m - 1) * error**2)
    found = terms_of(terms)
    interval = mean_interval(found, terms.max(), points, level=LEVEL)
    return jax.tree.map(float, interval), float(found.effective)


def sizes_of(
    arrays: dict[str, np.ndarray], index: int, tolerances: Sequence[float]
) -> list[dict[str, Any]]:
    """Per tolerance, K of this order, with its interval over orders, of Δ and of centered delta.

    Of Δ also K of the order law, and the K_ε with ε² the tolerance: to the landscape of the
    population, and to that of all samples of the run.
    """
    wanted = np.asarray(tolerances, np.float32)
    n, epsilons = len(arrays["k"]) + 1, np.sqrt(wanted)
    sizes, intervals = {}, {}
    for name, part in (("", "delta"), ("centered_", "delta_centered")):
        sizes[f"{name}k"] = js.sufficient_size(arrays[part][index], wanted)
        orders = js.exceedance_size(_terms(arrays, index, part), n - 1, wanted, level=LEVEL)
        intervals[f"{name}ci"] = orders.low, orders.high
    variance, _ = level_of(arrays, index)
    for name, size in (
        ("law", lambda v: js.increment_size(v, wanted)),
        ("distance", lambda v: js.distance_size(v, epsilons)),
        ("distance_full", lambda v: js.distance_size(v, epsilons, n)),
    ):
        sizes[f"{name}_k"] = size(variance.value)
        intervals[f"{name}_ci"] = size(variance.low), size(variance.high)
    return [
        {"tolerance": tolerance, "reached": bool(sizes["k"].reached[row])}
        | {name: _k(size, row) for name, size in sizes.items()}
        | {name: [_k(low, row), _k(high, row)] for name, (low, high) in intervals.items()}
        for row, tolerance in enumerate(tolerances)
    ]


def _terms(arrays: dict[str, np.ndarray], index: int, part: str = "delta") -> np.ndarray:
    k = arrays["k"].astype(np.float64)
    return (k * (k + 1) * arrays[part][index]).astype(np.float32)


def _k(size: SufficientSize, row: int) -> int | None:
    """K, or None where it exceeds every number considered."""
    return int(size.k[row]) if bool(size.reached[row]) else None
