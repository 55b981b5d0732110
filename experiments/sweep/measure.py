"""What a sweep measures: the arrays of results.npz and the numbers of summary.json."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

import jaxscape as js
from experiments.common import segments, tables
from experiments.common.problem import Problem, tests_of
from experiments.common.run_folder import plain
from experiments.common.segments import Swept
from experiments.common.tables import LEVEL
from jaxscape.lab import train
from jaxscape.lanczos import Eigenpairs
from jaxscape.loss_variance import (
    Interval,
    Terms,
    mean_interval,
    terms_of,
    trend_of,
    two_sided,
)
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
    swept: Swept,
) -> dict[str, np.ndarray]:
    """The arrays of results.npz but for the law's; ``pairs`` of a Hessian's directions.

    ``order`` [k_max], ``k`` [K = k_max − 1], ``sigma`` [s], ``delta*`` [s, K], ``mean_loss`` and
    ``loss_variance*`` [s], ``eigenvalue*`` [d], ``loss_at_origin`` [k_max], ``coordinates``
    [s, m, d].
    """
    curves, mean_loss = swept
    level, error = levels_of(curves, probes)
    at_origin = functools.partial(js.per_sample_losses, problem.loss, params)
    groups = getattr(probes[0], "groups", None)
    # an isotropic probe has none
    coordinates = [getattr(p, "coordinates", np.zeros((p.num_points, 0))) for p in probes]
    return {
        "k": curves[0].k,
        "order": problem.order.astype(np.int32),
        "sigma": np.asarray(sigmas, np.float32),
        "delta": np.stack([curve.mean for curve in curves]),
        "delta_sem": np.stack([curve.sem for curve in curves]),
        "delta_centered": np.stack([curve.centered for curve in curves]),
        "delta_first_order": np.stack([curve.first_order for curve in curves]),
        "mean_loss": mean_loss.mean(1),
        "loss_variance": level,
        "loss_variance_sem": error,
        "eigenvalues": np.asarray(pairs.values if pairs else []),
        "eigenvalue_residuals": np.asarray(pairs.residuals if pairs else []),
        "loss_at_origin": segments.rows(problem, at_origin),
        "coordinates": np.stack([np.asarray(theta) for theta in coordinates]),
    } | ({"point_groups": np.asarray(groups)} if groups else {})


def fresh_of(curves: Sequence[Delta], probes: Sequence[Probe]) -> dict[str, np.ndarray]:
    """The curve and E_q S² of samples that w* has not seen; nothing where there are none.

    ``delta_fresh`` [s, F − 1] of F samples, ``loss_variance_fresh``, ``_fresh_sem`` [s].
    """
    if not curves:
        return {}
    level, error = levels_of(curves, probes)
    fresh = np.stack([curve.mean for curve in curves])
    return {"delta_fresh": fresh, "loss_variance_fresh": level, "loss_variance_fresh_sem": error}


def levels_of(
    curves: Sequence[Delta], probes: Sequence[Probe]
) -> tuple[Float[np.ndarray, "s"], Float[np.ndarray, "s"]]:
    """E_q S² at each sigma, with its standard error over the points, or groups of them."""
    variance = np.stack([curve.loss_variance for curve in curves])
    groups = getattr(probes[0], "groups", None) or variance.shape[1]
    means = variance.reshape(len(curves), groups, -1).mean(2)
    return variance.mean(1), means.std(1, ddof=1) / np.sqrt(groups)


def summary_of(
    problem: Problem,
    params: Params,
    pairs: Eigenpairs | None,
    arrays: dict[str, np.ndarray],
    tests: dict[str, float | None],
    tolerances: Sequence[float],
) -> dict[str, Any]:
    """The content of summary.json, from the ``arrays`` of results.npz and ``tests_at``."""
    dataset = problem.dataset
    return {
        "dataset": dataset.name,
        "dataset_title": dataset.title,
        "dataset_note": dataset.note,
        "num_samples": len(problem.order),
        "num_parameters": num_parameters(params),
        "train_loss": float(arrays["loss_at_origin"].mean(dtype=np.float64)),
        **tests,
        "near_sigma": near_sigma(arrays),
        "trend": float(trend_of(arrays["loss_at_origin"])),
        "fresh": fresh_words(problem),
        "whole_sequences": dataset.has_tokens,
        "unit": f"{problem.unit}²",
        "eigenvalues": [float(value) for value in arrays["eigenvalues"]],
        "eigenvalues_converged": [bool(good) for good in pairs.converged] if pairs else [],
        "hessian_products": int(pairs.matvecs) if pairs else 0,
        "sigmas": [sigma_entry(arrays, index, tolerances) for index in range(len(arrays["sigma"]))],
        "seconds": {stage: round(value, 2) for stage, value in problem.seconds.items()},
    }


def tests_at(problem: Problem, params: Params) -> dict[str, float | None]:
    """The mean loss and the accuracy on the test split; None where there are none."""
    found: dict[str, float | None] = {"test_loss": None, "test_accuracy": None}
    if problem.dataset.test_inputs is not None:
        metrics, samples = tests_of(problem)
        for name, metric in metrics.items():
            found[name] = float(train.mean_loss(metric, params, samples, batch_size=1000))
    return found


RISE = 0.1
"""Of the mean loss over the loss at w*, at the σ that ``near_sigma`` gives."""


def near_sigma(arrays: dict[str, np.ndarray]) -> float | None:
    """The σ at which the mean loss at the points is a tenth above that at w*.

    By the quadratic model, E L_N(w* + Vθ) = L_N(w*) + σ²/2 Σ_j λ_j; None without curvature.
    """
    trace = float(np.sum(arrays["eigenvalues"], dtype=np.float64))
    at_origin = float(arrays["loss_at_origin"].mean(dtype=np.float64))
    return math.sqrt(2 * RISE * at_origin / trace) if trace > 0 and at_origin > 0 else None


def fresh_words(problem: Problem) -> str:
    """What stands for new samples; empty where nothing does."""
    if problem.fresh is None:
        return ""
    kind = "held out" if len(problem.held_out) else "of the test split"
    return f"{len(problem.fresh.order):,} {kind}"


def sigma_entry(
    arrays: dict[str, np.ndarray], index: int, tolerances: Sequence[float]
) -> dict[str, Any]:
    """The summary of one sigma: the level of Δ_k·k², its decay, the law beside it, and K.

    ``fresh_*`` are of samples that w* has not seen, where there are some.
    """
    k, delta = arrays["k"], arrays["delta"][index]
    chosen = tables.late(k)
    fit = tables.decay_exponent(k[chosen], delta[chosen])
    entry = {
        "sigma": tables.short(arrays["sigma"][index]),
        "mean_loss": float(arrays["mean_loss"][index]),
        "mean_delta_k2": tables.level(k, delta),
        "order_law_k2_sem": float(arrays["loss_variance_sem"][index]),
        **_level_entry(arrays, index, ""),
        **tables.agreement(arrays, index, chosen, arrays["coordinates"].shape[1]),
        "decay_exponent": {"value": plain(fit.exponent), "sem": plain(fit.sem)},
        "sufficient_size": sizes_of(arrays, index, tolerances),
    }
    if "delta_fresh" in arrays:
        entry |= {f"fresh_{name}": x for name, x in _level_entry(arrays, index, "_fresh").items()}
        if entry["order_law_k2"] > 0:
            entry["fresh_over_own"] = entry["fresh_order_law_k2"] / entry["order_law_k2"]
    return entry


def _level_entry(arrays: dict[str, np.ndarray], index: int, whose: str) -> dict[str, Any]:
    interval, effective = level_of(arrays, index, whose)
    return {
        "order_law_k2": float(arrays[f"loss_variance{whose}"][index]),
        "order_law_k2_ci": [plain(interval.low), plain(interval.high)],
        "effective_samples": plain(effective),
    }


def level_of(arrays: dict[str, np.ndarray], index: int, whose: str = "") -> tuple[Interval, float]:
    """E_q S² with its interval, and the effective sample size of the terms k(k+1)Δ_k.

    Of the samples of the run, all of which are known, the interval is over the points alone, from
    S²(w). Of those that w* has not seen (``whose`` is "_fresh") it is over samples too, from these
    terms.
    """
    terms = terms_of(z := _terms(arrays[f"delta{whose}"][index]))
    groups = arrays.get("point_groups")
    m = arrays["coordinates"].shape[1] if groups is None else int(groups)
    mean, error = (jnp.asarray(arrays[f"loss_variance{whose}{s}"][index]) for s in ("", "_sem"))
    if whose:
        points = Terms(jnp.asarray(m), m * mean, m * mean**2 + m * (m - 1) * error**2)
        interval = mean_interval(terms, z.max(), points, level=LEVEL)
    else:
        factor = jnp.exp(two_sided(LEVEL, m - 1) * error / jnp.where(mean > 0, mean, 1))
        interval = Interval(mean / factor, mean, mean * factor)
    return jax.tree.map(float, interval), float(terms.effective)


def sizes_of(
    arrays: dict[str, np.ndarray], index: int, tolerances: Sequence[float]
) -> list[dict[str, Any]]:
    """Per tolerance, what these n samples say of K within the run, and new ones of any K.

    Within the run: K of this order, its interval over the orders of these samples (``ci``), K of
    the order law (``law_*``), each of Δ and of centered delta, K of Theorem 1 in place of Δ
    (``theorem1_*``: curvature part, and its diagonal), and the K_ε, ε² the tolerance, to the
    landscape of all n (``distance_full_*``); None is "not by n". Of a stream of new samples,
    where there are some: K over orders (``fresh_ci``), of the order law (``fresh_law_*``), and K_ε
    to the landscape of the population (``distance_*``); None is beyond 2³¹.
    """
    wanted = np.asarray(tolerances, np.float32)
    n, epsilons = len(arrays["k"]) + 1, np.sqrt(wanted)
    own = level_of(arrays, index)[0]
    sizes: dict[str, Any] = {}
    for name, part in (("", "delta"), ("centered_", "delta_centered")):
        sizes[f"{name}k"] = js.sufficient_size(arrays[part][index], wanted), n
        terms = _terms(arrays[part][index])
        orders = js.exceedance_size(terms, n - 1, wanted, level=LEVEL, within=n)
        sizes[f"{name}ci"] = (orders.low, orders.high), n
    for name in ("curvature", "diagonal"):  # Theorem 1 and its published form
        if f"law_{name}" in arrays:
            size = js.sufficient_size(arrays[f"law_{name}"][index], wanted)
            sizes[f"theorem1_{name}_k"] = size, n
    laws: list[tuple[str, Any, Interval, float]] = [
        ("law", lambda v: js.increment_size(v, wanted), own, n),
        ("distance_full", lambda v: js.distance_size(v, epsilons, n), own, np.inf),
    ]
    if "delta_fresh" in arrays:
        fresh, terms = level_of(arrays, index, "_fresh")[0], _terms(arrays["delta_fresh"][index])
        orders = js.exceedance_size(terms, len(terms), wanted, level=LEVEL)
        sizes["fresh_ci"] = (orders.low, orders.high), np.inf
        laws.append(("fresh_law", lambda v: js.increment_size(v, wanted), fresh, np.inf))
        laws.append(("distance", lambda v: js.distance_size(v, epsilons), fresh, np.inf))
    for name, size, level, most in laws:
        sizes[f"{name}_k"] = size(level.value), most
        sizes[f"{name}_ci"] = (size(level.low), size(level.high)), most

    def number(size: Any, row: int, most: float) -> Any:
        if not isinstance(size, SufficientSize):
            return [number(limit, row, most) for limit in size]
        return int(size.k[row]) if bool(size.reached[row]) and size.k[row] < most else None

    return [
        {"tolerance": tolerance, "reached": bool(sizes["k"][0].reached[row])}
        | {name: number(size, row, most) for name, (size, most) in sizes.items()}
        for row, tolerance in enumerate(tolerances)
    ]


def _terms(delta: Float[np.ndarray, "K"]) -> Float[np.ndarray, "K"]:
    """z = k(k+1) Δ_k."""
    k = np.arange(1, len(delta) + 1, dtype=np.float64)
    return (k * (k + 1) * delta).astype(np.float32)
