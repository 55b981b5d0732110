"""What the published bounds bound, measured on a trained network, and the bounds' values there."""

import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

import jaxscape as js
from experiments.bounds import published
from experiments.bounds.published import Bound, NetworkConstants, SampleConstants
from experiments.common import console, devices, segments
from experiments.common.console import progress
from experiments.common.problem import Problem
from jaxscape import batching, losses
from jaxscape.lanczos import dot
from jaxscape.prefix import Steps
from jaxscape.trees import check_floating, working
from jaxscape.types import Batch, Params

SEGMENT = 1000
"""Gauss-Newton norms between two signs of progress."""


def gauss_newton_norms(
    model: Callable[[Params, Batch], Any],
    output_loss: Callable[[Any, Batch], Float[Array, "n"]],
    params: Params,
    data: Batch,
    *,
    batch_size: int | None = None,
) -> Float[Array, "n"]:
    """‖G_i‖ = ‖J_iᵀ H_i J_i‖ of every sample, J_i the Jacobian [S, P] of its S outputs.

    The eigenvalues of the [P, P] matrix that are not zero are those of K^½ H_i K^½ with
    K = J_i J_iᵀ, both [S, S], whether or not H_i, the Hessian of the loss in the outputs, is
    positive. ``model`` and ``output_loss`` are as for ``ggn_operator``; the outputs may be any
    pytree.

    Column s of K is J_i (J_iᵀ e_s), a backward then a forward pass along its result, so no Jacobian
    is kept: S passes each way per sample, P numbers of memory for each of ``batch_size`` samples
    taken together (by default 1 on a CPU, where a gradient then stays in the cache, else 64).

    Raises:
        InputError: losses that are not one per sample, parameters that are not floating point, or
            a batch_size below 1.
    """

    def loss(weights: Params, batch: Batch) -> Float[Array, "n"]:
        return output_loss(model(weights, batch), batch)

    if batch_size is None:
        batch_size = 1 if jax.default_backend() == "cpu" else 64
    check_floating(params)
    batching.cut(losses.check(loss, params, data), batch_size)
    params, data = jax.tree.map(jnp.asarray, (working(params), data))
    return _norms(losses.bind(model), losses.bind(output_loss), params, data, batch_size)


@functools.partial(jax.jit, static_argnums=4)
def _norms(model, output_loss, params, data, batch_size):
    cut = batching.cut(batching.length_of(data), batch_size)

    def one(sample: Batch) -> Float[Array, ""]:
        batch = jax.tree.map(lambda leaf: leaf[None], sample)
        shapes = jax.eval_shape(model, params, batch)
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        restore = ravel_pytree(zeros)[1]
        outputs, push = jax.linearize(lambda w: ravel_pytree(model(w, batch))[0], params)
        pull = jax.linear_transpose(push, params)
        unit = jnp.eye(outputs.size, dtype=outputs.dtype)
        kernel = jax.lax.map(lambda row: push(pull(row)[0]), unit)
        hessian = jax.hessian(lambda z: output_loss(restore(z), batch)[0])(outputs)
        values, vectors = jnp.linalg.eigh((kernel + kernel.T) / 2)
        root = vectors * jnp.sqrt(jnp.maximum(values, 0))
        return jnp.max(jnp.abs(jnp.linalg.eigvalsh(dot(root.T, dot(hessian, root)))))

    def chunk(start: Array) -> Float[Array, "b"]:
        return jax.vmap(one)(batching.take(data, start, cut.size))

    with jax.default_matmul_precision("highest"):
        return batching.join(cut, jax.lax.map(chunk, jnp.asarray(cut.starts)))


def steps(
    problem: Problem, space: js.Subspace, points: int, sigma: float, store: Path
) -> tuple[dict[str, Any], float]:
    """The increments at w* and over the points, and the largest distance of a point from w*."""
    probe = js.gaussian(problem.keys["probe"], space, points, sigma)
    mesh = devices.mesh(None, points)
    (curve,), _ = segments.run(
        problem, [probe], store, checkpoint_every=float("inf"), precision="highest", mesh=mesh
    )
    with console.timed("largest steps", f"at w*, and over {points} points at σ = {sigma:g}"):
        largest = [
            np.asarray(js.evaluate(problem.loss, where, problem.samples, _LARGEST))
            for where in (js.single(space.origin), probe)
        ]
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
    cut = batching.cut(len(chosen), SEGMENT)
    functions = (
        lambda weights, batch: problem.model.apply(weights, batch["inputs"]),
        lambda outputs, batch: losses.cross_entropy(outputs, batch["targets"]),
    )
    started = time.monotonic()
    rows = []
    with progress("Gauss-Newton norms", len(chosen), "samples") as advance:
        for start, fresh in zip(cut.starts, cut.fresh, strict=True):
            at = chosen[start : start + cut.size]
            batch = jax.tree.map(lambda leaf, at=at: leaf[at], problem.samples)
            rows.append(np.asarray(gauss_newton_norms(*functions, params, batch)))
            advance(int(fresh.sum()))
    what = f"exact, of {len(chosen):,} of {len(problem.order):,} samples"
    console.stage("Gauss-Newton norms", what, time.monotonic() - started)
    return {"norm_samples": chosen, "gauss_newton_norms": batching.join(cut, np.stack(rows))}


def layers_of(params: Params) -> list[tuple[Array, Array]]:
    """Weight and bias of each dense layer of an mlp of ``models.build``, first to last."""
    layers = [params[f"Dense_{index}"] for index in range(len(params))]
    return [(layer["kernel"], layer["bias"]) for layer in layers]


def bounds_of(
    k: Array, network: NetworkConstants, sample: SampleConstants, radius: float, sigma: float
) -> dict[str, np.ndarray]:
    """log10 of each bound, published then corrected: [2], and [2, n-1] where it depends on k."""
    norm = published.log_hessian_norm(network)
    # within R of w* a layer's spectral norm is at most M_W + R, and the curvature off kinks with it
    wider = dataclasses.replace(network, weight_norm=network.weight_norm + radius)
    over_ball = Bound(norm.published, published.log_hessian_norm(wider).corrected)
    found = {
        "bound_norm": np.stack(norm),
        "bound_step_at_origin": _steps_within(k, sample, norm, 0.0),
        "bound_step_in_probe": _steps_within(k, sample, over_ball, radius),
        "bound_rate": np.log(np.stack(published.rate(k, sigma, sample))),
    }
    return {name: values / np.log(10) for name, values in found.items()}


def _steps_within(k: Array, sample: SampleConstants, log_norms: Bound, radius: float) -> np.ndarray:
    forms = [published.log_loss_step(k, sample.loss, norm, radius) for norm in log_norms]
    return np.stack(forms)
