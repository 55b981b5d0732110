"""What the published bounds bound, measured on a trained network."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxscape as js
from experiments.common import console, devices, segments
from experiments.common.bounds import gauss_newton_norms
from experiments.common.console import progress
from experiments.common.problem import Problem
from jaxscape import batching, losses
from jaxscape.types import Params

SEGMENT = 1000
"""Gauss-Newton norms between two signs of progress."""


def steps(
    problem: Problem, space: js.Subspace, points: int, sigma: float, store: Path
) -> tuple[dict[str, Any], float]:
    """The increments at w* and over the points, and the largest distance of a point from w*."""
    probe = js.gaussian(problem.keys["probe"], space, points, sigma)
    mesh = devices.mesh(None, points)
    (curve,), _ = segments.run(
        problem, [probe], store, checkpoint_every=float("inf"), precision="highest", mesh=mesh
    )
    found: dict[str, Any] = {"k": curve.k, "delta": curve.mean, "delta_sem": curve.sem}
    found["coordinates"] = probe.coordinates
    places: dict[str, Any] = {"step_at_origin": js.single(space.origin), "step_in_probe": probe}
    with console.timed("largest steps", f"at w*, and over {points} points at σ = {sigma:g}"):
        for name, where in places.items():
            found[name] = np.asarray(js.evaluate(problem.loss, where, problem.samples, _LARGEST))
    # the basis is orthonormal, so ‖w − w*‖ = ‖θ‖
    distances = np.linalg.norm(np.asarray(probe.coordinates, np.float64), axis=1)
    return found, float(np.max(distances))


_LARGEST = js.Reduction(  # whatever the weights: points met twice do not change a maximum
    lambda t, b: ((), jnp.zeros(b)),
    lambda state, steps, *_: ((), jnp.maximum(state[1], jnp.abs(steps.innovation).max(0))),
    lambda by_point, by_sample, prefix: by_sample[1:] / jnp.arange(2, len(by_sample) + 1),
)
"""The largest |δ_k| over the points, for every k = 1..n−1."""


def norms(problem: Problem, params: Params, num: int) -> dict[str, np.ndarray]:
    """Exact Gauss-Newton norms of samples drawn without replacement."""
    key = jax.random.fold_in(problem.keys["probe"], 1)
    chosen = np.sort(jax.random.permutation(key, len(problem.order))[:num])
    cut = batching.cut(len(chosen), SEGMENT)
    model = lambda weights, batch: problem.model.apply(weights, batch["inputs"])  # noqa: E731
    output_loss = lambda outputs, batch: losses.cross_entropy(outputs, batch["targets"])  # noqa: E731
    name, rows = "Gauss-Newton norms", []
    what = f"exact, of {len(chosen):,} of {len(problem.order):,} samples"
    with console.timed(name, what), progress(name, len(chosen), "samples") as advance:
        for start, fresh in zip(cut.starts, cut.fresh, strict=True):
            at = chosen[start : start + cut.size]
            batch = jax.tree.map(lambda leaf, at=at: leaf[at], problem.samples)
            rows.append(np.asarray(gauss_newton_norms(model, output_loss, params, batch)))
            advance(int(fresh.sum()))
    return {"norm_samples": chosen, "gauss_newton_norms": batching.join(cut, np.stack(rows))}
