"""What the published bounds bound, measured on a trained network, and the bounds' values there."""

import dataclasses
import functools
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
    positive. ``model`` and ``output_loss`` are as for ``ggn_operator``.

    Column s of K is J_i (J_iᵀ e_s), a backward then a forward pass, so memory is P numbers for each
    of ``batch_size`` samples (by default 1 on a CPU, where a gradient stays in the cache, else 64).

    Raises:
        InputError: losses not one per sample, parameters not floating point, a batch_size below 1.
    """
    if batch_size is None:
        batch_size = 1 if jax.default_backend() == "cpu" else 64
    check_floating(params)
    loss = lambda weights, batch: output_loss(model(weights, batch), batch)  # noqa: E731
    batching.cut(losses.check(loss, params, data), batch_size)
    params, data = jax.tree.map(jnp.asarray, (working(params), data))
    return _norms(losses.bind(model), losses.bind(output_loss), params, data, batch_size)


@functools.partial(jax.jit, static_argnums=4)
def _norms(model, output_loss, params, data, batch_size):
    cut = batching.cut(batching.length_of(data), batch_size)

    def one(sample: Batch) -> Float[Array, ""]:
        batch = jax.tree.map(lambda leaf: leaf[None], sample)
        zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(model, params, batch))
        restore = ravel_pytree(zeros)[1]
        outputs, push = jax.linearize(lambda w: ravel_pytree(model(w, batch))[0], params)
        pull = jax.linear_transpose(push, params)
        unit = jnp.eye(outputs.size, dtype=outputs.dtype)
        kernel = jax.lax.map(lambda row: push(pull(row)[0]), unit)
        hessian = jax.hessian(lambda z: output_loss(restore(z), batch)[0])(outputs)
        values, vectors = jnp.linalg.eigh((kernel + kernel.T) / 2)
        root = vectors * jnp.sqrt(jnp.maximum(values, 0))
        return jnp.max(jnp.abs(jnp.linalg.eigvalsh(dot(root.T, dot(hessian, root)))))

    chunk = lambda start: jax.vmap(one)(batching.take(data, start, cut.size))  # noqa: E731
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
    within = lambda norms, r: [published.log_loss_step(k, sample.loss, x, r) for x in norms]  # noqa: E731
    found = {
        "bound_norm": np.stack(norm),
        "bound_step_at_origin": np.stack(within(norm, 0.0)),
        "bound_step_in_probe": np.stack(within(over_ball, radius)),
        "bound_rate": np.log(np.stack(published.rate(k, sigma, sample))),
    }
    return {name: values / np.log(10) for name, values in found.items()}
