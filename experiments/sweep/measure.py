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
from experiments.common.tables import LEVEL, Arrays
from jaxscape.batching import host
from jaxscape.lab import train
from jaxscape.lanczos import Eigenpairs
from jaxscape.loss_variance import Interval, Terms, mean_interval, terms_of, trend_of, two_sided
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
    swept: Delta,
    fresh: Delta | None,
) -> Arrays:
    """The arrays of results.npz that experiments/README.md lists, but for the law's.

    ``pairs`` are of a Hessian's directions. A standard error is over the points, or over
    ``point_groups`` of them.
    """
    none = np.zeros((probes[0].num_points, 0))  # an isotropic probe has no coordinates
    at_origin = functools.partial(js.per_sample_losses, problem.loss, params)
    arrays = {
        "k": swept.k[0],
        "order": problem.order.astype(np.int32),
        "sigma": np.asarray(sigmas, np.float32),
        "delta_sem": swept.sem,
        "delta_centered": swept.centered,
        "delta_first_order": swept.first_order,
        "mean_loss": swept.mean_loss.mean(1),
        "eigenvalues": np.asarray(pairs.values if pairs else []),
        "eigenvalue_residuals": np.asarray(pairs.residuals if pairs else []),
        "loss_at_origin": segments.rows(problem, at_origin),
        "coordinates": np.stack([getattr(probe, "coordinates", none) for probe in probes]),
    }
    groups = getattr(probes[0], "groups", None)
    if groups:
        arrays["point_groups"] = np.asarray(groups)
    for end, curves in (("", swept), ("_fresh", fresh)):
        if curves is not None:
            variance = curves.loss_variance  # [s, m]
            means = variance.reshape(len(variance), groups or variance.shape[1], -1).mean(2)
            arrays[f"delta{end}"] = curves.mean
            arrays[f"loss_variance{end}"] = variance.mean(1)
            arrays[f"loss_variance{end}_sem"] = means.std(1, ddof=1) / np.sqrt(means.shape[1])
    return arrays


RISE = 0.1
"""Of the mean loss over the loss at w*, at the σ that is told as ``near_sigma``."""


def summary_of(
    problem: Problem,
    params: Params,
    pairs: Eigenpairs | None,
    arrays: Arrays,
    tolerances: Sequence[float],
) -> dict[str, Any]:
    """The content of summary.json, from the ``arrays`` of results.npz."""
    dataset, new = problem.dataset, problem.fresh
    tests: dict[str, float | None] = {"test_loss": None, "test_accuracy": None}
    if dataset.test_inputs is not None:
        metrics, samples = tests_of(problem)
        for name, metric in metrics.items():
            tests[name] = float(train.mean_loss(metric, params, samples, batch_size=1000))
    kind = "held out" if len(problem.held_out) else "of the test split"
    # by the quadratic model E L_N(w* + Vθ) = L_N(w*) + σ²/2 Σ_j λ_j
    trace = float(np.sum(arrays["eigenvalues"], dtype=np.float64))
    loss = float(arrays["loss_at_origin"].mean(dtype=np.float64))
    with host():
        entries = [sigma_entry(arrays, index, tolerances) for index in range(len(arrays["sigma"]))]
        trend = float(trend_of(arrays["loss_at_origin"]))
    return {
        "dataset": dataset.name,
        "dataset_title": dataset.title,
        "dataset_note": dataset.note,
        "num_samples": len(problem.order),
        "num_parameters": num_parameters(params),
        "train_loss": loss,
        **tests,
        "near_sigma": math.sqrt(2 * RISE * loss / trace) if trace > 0 and loss > 0 else None,
        "trend": trend,
        "fresh": f"{len(new.order):,} {kind}" if new else "",
        "unit": f"{problem.unit}²",
        "eigenvalues": arrays["eigenvalues"].astype(float).tolist(),
        "eigenvalues_converged": np.asarray(pairs.converged).tolist() if pairs else [],
        "hessian_products": int(pairs.matvecs) if pairs else 0,
        "sigmas": entries,
        "seconds": {stage: round(value, 2) for stage, value in problem.seconds.items()},
    }


def sigma_entry(arrays: Arrays, index: int, tolerances: Sequence[float]) -> dict[str, Any]:
    """The summary of one sigma: the level of Δ_k·k², its decay, the law beside it, and K.

    ``fresh_*`` are of samples that w* has not seen, where there are some.
    """
    k, delta = arrays["k"], arrays["delta"][index]
    chosen = tables.late(k)
    fit = tables.decay_exponent(k[chosen], delta[chosen])
    entry = {
        "sigma": tables.short(arrays["sigma"][index]),
        "mean_loss": float(arrays["mean_loss"][index]),
        "mean_delta_k2": float(tables.level(delta)),
        **tables.agreement(arrays, index, chosen, arrays["coordinates"].shape[1]),
        "decay_exponent": {"value": plain(fit.exponent), "sem": plain(fit.sem)},
    }
    intervals = {}
    for whose, end in (("", ""), ("fresh_", "_fresh")):
        if f"delta{end}" in arrays:
            found, effective = level_of(arrays, index, end)
            intervals[whose] = found
            entry[f"{whose}order_law_k2"] = float(arrays[f"loss_variance{end}"][index])
            entry[f"{whose}order_law_k2_ci"] = plain([found.low, found.high])
            entry[f"{whose}effective_samples"] = plain(effective)
    if "fresh_" in intervals and entry["order_law_k2"] > 0:
        entry["fresh_over_own"] = entry["fresh_order_law_k2"] / entry["order_law_k2"]
    return entry | {"sufficient_size": sizes_of(arrays, index, intervals, tolerances)}


def level_of(arrays: Arrays, index: int, whose: str) -> tuple[Interval, float]:
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
    arrays: Arrays, index: int, intervals: dict[str, Interval], tolerances: Sequence[float]
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
    columns: dict[str, list[Any]] = {"tolerance": list(tolerances)}

    def numbers(size: SufficientSize, most: float = n) -> list[Any]:
        k, reached = map(np.asarray, size)
        return np.where(reached & (k < most), k, np.array(None)).tolist()

    def over_orders(name: str, curve: str, most: float = n) -> None:
        terms = _terms(arrays[curve][index])
        low, _, high = js.exceedance_size(terms, len(terms), wanted, level=LEVEL, within=most)
        columns[f"{name}ci"] = np.transpose([numbers(low, most), numbers(high, most)]).tolist()

    def of_law(name: str, size: SufficientSize, most: float = np.inf) -> None:
        low, columns[f"{name}_k"], high = numbers(size, most)
        columns[f"{name}_ci"] = np.transpose([low, high]).tolist()

    curves = {"": "delta", "centered_": "delta_centered", "theorem1_curvature_": "law_curvature",
              "theorem1_diagonal_": "law_diagonal"}  # fmt: skip
    for name, curve in curves.items():  # Theorem 1 and its published form
        if curve in arrays:
            columns[f"{name}k"] = numbers(js.sufficient_size(arrays[curve][index], wanted))
    columns["reached"] = [k is not None for k in columns["k"]]
    over_orders("", "delta")
    over_orders("centered_", "delta_centered")
    levels = {whose: np.array(level, np.float32)[:, None] for whose, level in intervals.items()}
    of_law("law", js.increment_size(levels[""], wanted), n)
    of_law("distance_full", js.distance_size(levels[""], epsilons, n))
    if "fresh_" in levels:
        over_orders("fresh_", "delta_fresh", np.inf)
        of_law("fresh_law", js.increment_size(levels["fresh_"], wanted))
        of_law("distance", js.distance_size(levels["fresh_"], epsilons))
    rows = zip(*columns.values(), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _terms(delta: Float[np.ndarray, "K"]) -> Float[np.ndarray, "K"]:
    """z = k(k+1) Δ_k."""
    k = np.arange(1, len(delta) + 1, dtype=np.float64)
    return (k * (k + 1) * delta).astype(np.float32)
