"""What a sweep leaves behind: results.npz and summary.json."""

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

import jaxscape as js
from experiments.common import run_folder, segments, tables
from experiments.common.problem import Problem
from jaxscape.lab import train
from jaxscape.lanczos import Eigenpairs
from jaxscape.reductions import Delta
from jaxscape.trees import num_parameters
from jaxscape.types import Params, Probe


class Result(NamedTuple):
    """A run: its folder, the arrays of results.npz, the summary."""

    folder: Path
    arrays: dict[str, np.ndarray]
    summary: dict[str, Any]


def arrays_of(
    problem: Problem,
    params: Params,
    pairs: Eigenpairs | None,
    sigmas: Sequence[float],
    probes: Sequence[Probe],
    curves: Sequence[Delta],
) -> dict[str, np.ndarray]:
    """The arrays of results.npz, see the README."""
    variance = np.stack([curve.loss_variance for curve in curves])
    at_origin = functools.partial(js.per_sample_losses, problem.loss, params)
    groups = getattr(probes[0], "groups", None)
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
        "coordinates": np.stack([_coordinates(probe) for probe in probes]),
    } | ({"point_groups": np.asarray(groups)} if groups else {})


def _coordinates(probe: Probe) -> np.ndarray:
    """θ of every point, [m, d]; an isotropic probe, which has none, gives [m, 0]."""
    return np.asarray(getattr(probe, "coordinates", jnp.zeros((probe.num_points, 0))))


def summary_of(
    problem: Problem,
    params: Params,
    pairs: Eigenpairs | None,
    arrays: dict[str, np.ndarray],
    tolerances: Sequence[float],
    seconds: dict[str, float],
) -> dict[str, Any]:
    """The content of summary.json."""
    dataset = problem.dataset
    return {
        "dataset": dataset.name,
        "dataset_label": dataset.label,
        "dataset_note": dataset.note,
        "num_samples": len(problem.order),
        "num_parameters": num_parameters(params),
        "train_loss": float(arrays["loss_at_origin"].mean(dtype=np.float64)),
        "test_accuracy": _test_accuracy(problem, params),
        "whole_sequences": dataset.has_tokens,
        "unit": "nats²" if dataset.num_classes else "loss²",
        "eigenvalues": [float(value) for value in arrays["eigenvalues"]],
        "eigenvalues_converged": [bool(good) for good in pairs.converged] if pairs else [],
        "hessian_products": int(pairs.matvecs) if pairs else 0,
        "sigmas": tables.per_sigma(arrays, tolerances),
        "seconds": {stage: round(value, 2) for stage, value in seconds.items()},
    }


def _test_accuracy(problem: Problem, params: Params) -> float | None:
    """None for a regression, or where the data set has no test split."""
    dataset = problem.dataset
    if dataset.num_classes == 0 or dataset.test_inputs is None or dataset.test_targets is None:
        return None
    inputs, targets = jnp.asarray(dataset.test_inputs), jnp.asarray(dataset.test_targets)
    return float(train.accuracy(problem.apply, params, inputs, targets, batch_size=1000))


def write(folder: Path, result: Result) -> None:
    """results.npz, without pickles, then summary.json."""
    run_folder.write_arrays(folder / "results.npz", result.arrays)
    run_folder.write_json(folder / "summary.json", result.summary)


def read(folder: Path) -> Result:
    """A finished run."""
    with np.load(folder / "results.npz") as found:
        arrays = dict(found)
    return Result(folder, arrays, json.loads((folder / "summary.json").read_text()))
