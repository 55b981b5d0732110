"""What the published bounds bound, measured on a trained network."""

import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import jaxscape as js
from experiments import hosts, monte_carlo, say
from experiments.problem import Problem
from experiments.progress import progress
from jaxscape import chunks, losses
from jaxscape.prefix import Steps
from jaxscape.types import Params

SEGMENT = 1000
"""Gauss-Newton norms between two signs of progress."""


def steps(
    problem: Problem, space: js.Subspace, points: int, sigma: float, store: Path
) -> tuple[dict[str, Any], float]:
    """The increments at w* and over the points, and the largest distance of a point from w*."""
    probe = js.gaussian(problem.keys["probe"], space, points, sigma)
    mesh = hosts.mesh(None, points)
    (curve,), seconds = monte_carlo.run(
        problem, [probe], store, checkpoint_every=float("inf"), precision="highest", mesh=mesh
    )
    started = time.monotonic()
    largest = [
        js.evaluate(problem.loss, where, problem.samples, _LARGEST)
        for where in (js.single(space.origin), probe)
    ]
    jax.block_until_ready(largest)
    seconds += time.monotonic() - started
    say.stage("swept", f"{points} points at σ = {sigma:g}, twice, and w*", seconds)
    names = ("step_at_origin", "step_in_probe")
    found = dict(zip(names, largest, strict=True)) | {
        "k": curve.k,
        "delta": curve.mean,
        "delta_sem": curve.sem,
        "coordinates": probe.coordinates,
    }
    # the basis is orthonormal, so ‖w − w*‖ = ‖θ‖
    distances = np.linalg.norm(np.asarray(probe.coordinates, np.float64), axis=1)
    return found, float(np.max(distances))


def _keep_largest(state: tuple[Any, Array], steps: Steps, index: Array, weight: Array):
    del index, weight  # points met twice do not change a maximum
    return (), jnp.maximum(state[1], jnp.max(jnp.abs(steps.innovation), 0))


def _as_steps(by_point: Any, by_sample: Array, prefix: Any) -> Float[Array, "n-1"]:
    del by_point, prefix
    return by_sample[1:] / jnp.arange(2, len(by_sample) + 1)


_LARGEST = js.Reduction(lambda t, b: ((), jnp.zeros(b)), _keep_largest, _as_steps)
"""The largest |δ_k| over the points, for every k = 1..n−1."""


def norms(problem: Problem, params: Params, num: int) -> dict[str, np.ndarray]:
    """Exact Gauss-Newton norms of samples drawn without replacement."""
    key = jax.random.fold_in(problem.keys["probe"], 1)
    chosen = np.sort(jax.random.permutation(key, len(problem.order))[:num])
    cut = chunks.cut(len(chosen), SEGMENT)
    functions = (
        lambda weights, batch: problem.apply(weights, batch["inputs"]),
        lambda outputs, batch: losses.cross_entropy(outputs, batch["targets"]),
    )
    started = time.monotonic()
    rows = []
    with progress("Gauss-Newton norms", len(chosen), "samples") as advance:
        for start, fresh in zip(cut.starts, cut.fresh, strict=True):
            at = chosen[start : start + cut.size]
            batch = jax.tree.map(lambda leaf, at=at: leaf[at], problem.samples)
            rows.append(np.asarray(js.gauss_newton_norms(*functions, params, batch)))
            advance(int(fresh.sum()))
    what = f"exact, of {len(chosen):,} of {len(problem.order):,} samples"
    say.stage("Gauss-Newton norms", what, time.monotonic() - started)
    return {"norm_samples": chosen, "gauss_newton_norms": chunks.join(cut, np.stack(rows))}
