"""The published bounds on one sample's effect, evaluated from measured constants.

They are of Kiselev and Grabovoy 2024, "Unraveling the Hessian" (U), and 2026, "Curvature-Aligned
Probing" (C). Each is given as published, and corrected where the published one can be exceeded.
Bounds that follow losses away from w* take them to be differentiable, with a gradient that is
Lipschitz. A ReLU network has kinks, across which the gradient jumps: there they are no proof.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from matplotlib.figure import Figure

import jaxscape as js
from experiments.common.run_folder import Record
from experiments.paper.bench import SIGMAS, Bench, increments
from experiments.paper.curvature_aligned import along, project
from experiments.paper.nikitin import DIM
from jaxscape.lab.models import Model
from jaxscape.lab.style import Keywords, canvas, curve, legend
from jaxscape.lanczos import dot
from jaxscape.quadratic import Quadratic
from jaxscape.types import Batch, InputError, Params, Scalar

BOUNDS = (
    ("norm of a sample's Hessian", "U, theorem 1", "gauss_newton_norms", "bound_norm", 0),
    ("norm, from the largest weight", "U, lemma 1", "gauss_newton_norms", "bound_norm_entries", 0),
    ("(k+1)·|δ_k| at w*", "U, lemma 2", "step_at_origin", "bound_step_at_origin", 1),
    ("(k+1)·|δ_k| within R", "U, lemma 2", "step_in_probe", "bound_step_in_probe", 1),
    ("(k+1)²·Δ_k, quadratic law", "C, theorem 1", "law_total", "bound_rate", 2),
    ("(k+1)²·Δ_k, Monte-Carlo", "C, theorem 1", "delta", "bound_rate", 2),
)
"""What each is on, where it stands, the arrays of what it bounds and of it, the power of k + 1."""

Layers = Sequence[tuple[Float[Array, "a b"], Float[Array, "b"]]]
"""Weight and bias of each dense layer."""


class Bound(NamedTuple):
    """A bound as its paper states it, and in the form that its function shows to hold."""

    published: Float[Array, "*k"]
    corrected: Float[Array, "*k"]


def bounds(bench: Bench) -> Record:
    """How loose the published bounds on one sample's effect are, σ = 0.01, top ten eigenvectors."""
    losses = bench.losses(bench.directions("hessian", DIM), SIGMAS[0])
    model = along(project(bench), slice(DIM))
    arrays, constants = measure(bench, bench.trained, model, losses)
    entries = compare(arrays)
    rows = [["log10 of the bound on", "measured, largest", "median", "published", "looseness"]]
    rows[0] += ["corrected", "looseness"]
    for entry in entries:
        name, *numbers = entry.values()
        rows.append([name, *("-" if x is None else f"{x:.2f}" for x in numbers)])
    notes = [
        "looseness: bound over measured, where it is smallest; below 0 the bound is exceeded",
        "of a Hessian its Gauss-Newton part; within R no proof where a ReLU network has kinks",
        *bench.inexact(),
    ]
    measured = [[*constants], [f"{value:.4g}" for value in constants.values()]]
    summary = {"tables": [rows, measured], "notes": notes, "bounds": entries}
    return Record(arrays, summary | {"constants": constants}, {"looseness": _draw(entries)})


def measure(
    bench: Bench, w: Params, model: Quadratic, losses: Float[Array, "m n"], count: int | None = None
) -> tuple[dict[str, Any], dict[str, float]]:
    """Arrays of what is bounded and log10 of each bound, published then corrected; the constants.

    Around an mlp ``w``, with the samples' ``model`` along orthonormal directions, so that
    ‖w(θ) − w*‖ = ‖θ‖, and their ``losses`` at the bench's points, σ = 0.01. Gauss-Newton norms are
    of the first ``count`` samples.
    """
    sigma, dim = SIGMAS[0], model.gradient.shape[1]
    points = sigma * bench.normals(len(losses), dim)
    layers = [(w[f"Dense_{i}"]["kernel"], w[f"Dense_{i}"]["bias"]) for i in range(len(w))]
    input_norm, weight_norm = network_constants(layers, bench.problem.samples["inputs"])
    hessian_norm = functools.partial(log_hessian_norm, len(layers), input_norm)
    radius = float(np.linalg.norm(np.asarray(points, np.float64), axis=1).max())
    norm, by_entries = hessian_norm(weight_norm), map(hessian_norm, entry_norms(layers))
    # within R of w* a layer's spectral norm is at most M_W + R, and the curvature off kinks with it
    wider, sizes = hessian_norm(weight_norm + radius), sample_constants(model)
    k = jnp.arange(1, losses.shape[1])
    step = functools.partial(log_loss_step, k, sizes[0])
    found = {
        "bound_norm": norm,
        "bound_norm_entries": [own[form] for form, own in enumerate(by_entries)],
        "bound_step_at_origin": [step(x, 0.0) for x in norm],
        "bound_step_in_probe": [step(x, radius) for x in (norm.published, wider.corrected)],
        "bound_rate": np.log(np.stack(rate(k, sigma, model))),
    }
    arrays = {name: np.stack(values) / np.log(10) for name, values in found.items()}
    steps = increments(losses)
    few = jax.tree.map(lambda leaf: leaf[:count], bench.problem.samples)
    arrays |= {
        "k": np.asarray(k),
        "gauss_newton_norms": np.asarray(gauss_newton_norms(bench.problem.model, w, few)),
        "step_at_origin": np.abs(increments(model.value[None])[0]),
        "step_in_probe": np.abs(steps).max(0),
        "law_total": np.asarray(js.quadratic_delta(model, sigma).total),
        "delta": (steps**2).mean(0),
    }
    names = "L", "M_x", "M_W", "M_ℓ", "M_g", "M_H", "D", "R", "σ"
    values = len(layers), input_norm, weight_norm, *sizes, dim, radius, sigma
    return arrays, {name: float(value) for name, value in zip(names, values, strict=True)}


def compare(arrays: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Each bound beside what it bounds, in log10, times its power of k + 1.

    The looseness is that at the sample or k where the bound comes closest.
    """
    entries = []
    for name, _, measured, bound, power in BOUNDS:
        factor = (arrays["k"] + 1.0) ** power if power else 1.0
        values = arrays[measured].astype(np.float64) * factor
        if not np.max(values) > 0:
            still = f"found {measured} = 0 throughout; no ratio to it is defined"
            raise InputError(f"expected losses that differ between samples, {still}")
        limits = arrays[bound].astype(np.float64).reshape(2, -1) + np.log10(factor)
        gaps = limits - np.log10(np.where(values > 0, values, np.nan))
        entry: dict[str, Any] = {"name": name, "largest": np.log10(np.max(values))}
        entry["median"] = np.log10(np.median(values)) if np.median(values) > 0 else None
        for form, limit, gap in zip(Bound._fields, limits, gaps, strict=True):
            entry |= {form: limit.max(), f"{form}_looseness": np.nanmin(gap)}
        entries.append(entry)
    return entries


def _draw(entries: Sequence[Mapping[str, Any]]) -> Figure:
    """One row per bound: published, corrected and median measured over the largest measured."""
    xlabel = r"$\log_{10}$ of the value over the largest measured"
    figure, (axes,) = canvas("How loose the bounds are", xlabel, "")
    place = -np.arange(len(entries))
    for row, field in enumerate(("median", *Bound._fields[::-1])):
        found = [np.nan if entry[field] is None else entry[field] for entry in entries]
        shift = np.array(found) - [entry["largest"] for entry in entries]
        # the published bound, drawn hollow and larger, shows around the corrected one
        look: Keywords = {"mfc": "none", "mew": 2, "ms": 13} if field == "published" else {"ms": 8}
        label = f"bound, {field}" if field in Bound._fields else "median measured"
        axes.plot(shift, place, label=label, **curve(row, lw=0, **look))
    axes.axvline(0, color="0.2", lw=1.5, label="largest measured")
    names = "\n".join(entry["name"] for entry in entries)
    for plain, symbol in (("δ_k", r"$\delta_k$"), ("Δ_k", r"$\Delta_k$"), ("w*", "$w^*$")):
        names = names.replace(plain, symbol)
    axes.set_yticks(place, names.splitlines())
    axes.margins(x=0.06, y=0.1)
    return legend(figure, "a bound left of the line is exceeded")


def network_constants(layers: Layers, inputs: Float[Array, "n ..."]) -> tuple[Scalar, Scalar]:
    """M_x, the largest ‖x_i‖, and M_W, the largest spectral norm of a layer, biases included.

    The theorem is of x ↦ … relu(x W_1) W_2 …, which knows no biases. A network with them is one
    without, in inputs (x, 1) and weights [[W, 0], [b, 1]] (the last layer without its last column),
    some of them constant: its curvature is a submatrix of that network's, on which M_x and M_W are
    therefore measured.
    """
    matrices = [jnp.vstack(layer) for layer in layers]
    inner = [jnp.hstack([x, jnp.eye(len(x))[:, -1:]]) for x in matrices[:-1]]
    norms = [jnp.linalg.norm(matrix, ord=2) for matrix in (*inner, matrices[-1])]
    rows = inputs.reshape(inputs.shape[0], -1)
    return jnp.sqrt(1 + jnp.max(jnp.sum(rows**2, 1))), jnp.max(jnp.stack(norms))


def entry_norms(layers: Layers) -> Bound:
    """hM, a bound on M_W from h units and |w_ij| ≤ M: Kiselev and Grabovoy 2024, Lemma 1.

    The lemma is of layers of h inputs and h units; h is here the most units of a layer. Corrected:
    a layer of a inputs and b units has at most √((a+1)(b+1)) times its largest entry, which
    the constants that stand for biases make 1 or more.
    """
    most = jnp.stack([jnp.abs(weight).max() for weight, _ in layers]).max()
    units = max(weight.shape[1] for weight, _ in layers)
    every = [
        math.sqrt((len(w) + 1) * (len(b) + 1)) * jnp.maximum(1, jnp.abs(jnp.vstack((w, b))).max())
        for w, b in layers
    ]
    return Bound(units * most, jnp.max(jnp.stack(every)))


def sample_constants(model: Quadratic) -> list[Scalar]:
    """M_ℓ = max |ℓ_i(w*)|, M_g = max ‖Vᵀ∇ℓ_i‖ and M_H = max ‖Vᵀ∇²ℓ_iV‖, the spectral norm."""
    slopes, bends = jnp.linalg.norm(model.gradient, axis=1), jnp.linalg.eigvalsh(model.hessian)
    return [jnp.max(jnp.abs(x)) for x in (model.value, slopes, bends)]


def log_hessian_norm(layers: int, input_norm: Scalar, weight_norm: Scalar) -> Bound:
    """ln of a bound on ‖∇²ℓ_i‖ of a ReLU network under cross-entropy, for every sample.

    Published: L√2·M_x²·M_W^{2L} + √2·M_W²(M_W^{2L} − 1)/(M_W² − 1), Theorem 1 of Kiselev and
    Grabovoy 2024, its fraction summed as the geometric series it is.

    Corrected: the published bound over M_W². The proof counts the weights s = p..L in
    ∂z^(L)/∂z^(p), which has s = p+1..L only, so where M_W < 1 the published bound is too small.
    Off the kinks it bounds the Gauss-Newton part, and where M_W ≥ 1 the whole Hessian.
    """
    square = 2 * jnp.log(weight_norm)
    inputs = 2 * jnp.log(input_norm) + jnp.log(float(layers))
    # M_W^{2p}, p = 0..L−1; as a product with 0, ln 0 would leave NaN for M_W = 0.
    powers = jnp.concatenate([jnp.zeros(1), jnp.arange(1, layers) * square])
    terms = jnp.append(powers, inputs + powers[-1])
    corrected = math.log(2) / 2 + jax.nn.logsumexp(terms)
    return Bound(corrected + square, corrected)


def log_loss_step(
    k: Int[Array, "*k"], largest_loss: Scalar, log_norm: Scalar, radius: float
) -> Float[Array, "*k"]:
    """ln of 2/(k+1)·(M_ℓ + M_H R²), a bound on |L_{k+1}(w) − L_k(w)| where ‖w − w*‖ ≤ R.

    Kiselev and Grabovoy 2024, Lemma 2, with M_ℓ = max |ℓ_i(w*)| and ``log_norm`` = ln M_H. The
    paper's proof is for minima w* of both L_k and L_{k+1}. At any w* it holds for losses that are
    not negative, and differentiable all over the ball with a gradient of Lipschitz constant M_H:
    then ‖∇ℓ_i‖R ≤ ℓ_i + M_H R²/2, so ℓ_i(w) ≤ 2M_ℓ + M_H R², and |ℓ_{k+1} − L_k| is no larger.

    Losses below zero or with kinks can exceed it: |w| has the bound 0 at w* = 0, yet rises to R.
    """
    ball = log_norm + 2 * jnp.log(radius)
    return math.log(2) - jnp.log1p(k) + jnp.logaddexp(jnp.log(largest_loss), ball)


def rate(k: Int[Array, "*k"], sigma: float, model: Quadratic) -> Bound:
    """A bound on Δ_k of the quadratic model, for θ ~ N(0, σ²I_D) and each k.

    Published: (12M_ℓ² + 3σ²M_g² + 3σ⁴(D² + 2D)M_H²)/(k+1)², Theorem 1 of Kiselev and Grabovoy 2026,
    for a w* that is a minimum of L_k. Corrected: with 12σ²M_g², for one w* and every k, because
    ∇L_k(w*) is then not zero and two gradients differ by up to 2M_g.
    """
    (loss, slope, bend), dim = sample_constants(model), model.gradient.shape[1]
    offset, gradient = 12 * loss**2, 3 * sigma**2 * slope**2
    curvature = 3 * sigma**4 * (dim**2 + 2 * dim) * bend**2
    scale = jnp.asarray(k, jnp.float32) + 1
    parts = (offset + gradient + curvature, offset + 4 * gradient + curvature)
    return Bound(*(part / scale / scale for part in parts))


@functools.partial(jax.jit, static_argnums=0)
def gauss_newton_norms(model: Model, params: Params, data: Batch) -> Float[Array, "n"]:
    """‖G_i‖ = ‖J_iᵀ H_i J_i‖ of every sample under cross-entropy, J_i the Jacobian [S, P].

    The eigenvalues of the [P, P] matrix that are not zero are those of K^½ H_i K^½ with
    K = J_i J_iᵀ, both [S, S], H_i the Hessian of the loss in the S outputs. Column s of K is
    J_i (J_iᵀ e_s), a backward then a forward pass, so memory is P numbers for each sample at work:
    1 on a CPU, where a gradient stays in the cache, else 64.
    """

    def one(sample: Batch) -> Float[Array, ""]:
        inputs, targets = sample["inputs"][None], sample["targets"][None]
        outputs, push = jax.linearize(lambda w: model.apply(w, inputs)[0], params)
        pull = jax.linear_transpose(push, params)
        unit = jnp.eye(outputs.size, dtype=outputs.dtype)
        kernel = jax.lax.map(lambda row: push(pull(row)[0]), unit)
        hessian = jax.hessian(lambda z: js.losses.cross_entropy(z[None], targets)[0])(outputs)
        values, vectors = jnp.linalg.eigh((kernel + kernel.T) / 2)
        root = vectors * jnp.sqrt(jnp.maximum(values, 0))
        return jnp.max(jnp.abs(jnp.linalg.eigvalsh(dot(root.T, dot(hessian, root)))))

    batch_size = 1 if jax.default_backend() == "cpu" else 64
    with jax.default_matmul_precision("highest"):
        return jax.lax.map(one, data, batch_size=batch_size)
