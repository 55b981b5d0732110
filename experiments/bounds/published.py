"""The published bounds on one sample's effect, evaluated from measured constants.

Two are given twice: as ``published``, and ``corrected`` where the published one can be exceeded.
Bounds that follow losses away from w* take them to be differentiable, with a gradient that is
Lipschitz. A ReLU network has kinks, across which the gradient jumps: there they are no proof.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxscape.quadratic import Quadratic
from jaxscape.types import InputError


class Bound(NamedTuple):
    """A bound as its paper states it, and in the form that its function shows to hold."""

    published: Float[Array, "*k"]
    corrected: Float[Array, "*k"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NetworkConstants:
    """The constants of a network of L dense layers."""

    layers: int = dataclasses.field(metadata={"static": True})  #: L
    input_norm: Float[Array, ""]  #: M_x, the largest ‖x_i‖
    weight_norm: Float[Array, ""]  #: M_W, the largest spectral norm of a layer


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SampleConstants:
    """The largest loss, gradient and Hessian norm of a sample in a subspace."""

    dim: int = dataclasses.field(metadata={"static": True})  #: D
    loss: Float[Array, ""]  #: M_ℓ = max |ℓ_i(w*)|
    gradient: Float[Array, ""]  #: M_g = max ‖Vᵀ∇ℓ_i‖
    hessian: Float[Array, ""]  #: M_H = max ‖Vᵀ∇²ℓ_iV‖, the spectral norm


def network_constants(
    layers: Sequence[tuple[Float[Array, "a b"], Float[Array, "b"]]], inputs: Float[Array, "n ..."]
) -> NetworkConstants:
    """L, M_x and M_W of a dense network x ↦ … relu(x W_1 + b_1) W_2 + b_2 …, biases included.

    The theorem knows no biases. A network with them is one without, in inputs (x, 1) and weights
    [[W, 0], [b, 1]] (the last layer without its last column), some of them constant: its curvature
    is a submatrix of that network's, on which M_x and M_W are therefore measured.
    """
    norms = []
    for index, (weight, bias) in enumerate(layers):
        matrix = jnp.vstack([weight, bias])
        if index < len(layers) - 1:
            matrix = jnp.hstack([matrix, jnp.eye(len(matrix))[:, -1:]])
        norms.append(jnp.linalg.norm(matrix, ord=2))
    rows = inputs.reshape(inputs.shape[0], -1)
    input_norm = jnp.sqrt(1 + jnp.max(jnp.sum(rows**2, 1)))
    return NetworkConstants(len(layers), input_norm, jnp.max(jnp.stack(norms)))


def sample_constants(model: Quadratic) -> SampleConstants:
    """M_ℓ, M_g and M_H over the samples of a projected model."""
    return SampleConstants(
        model.gradient.shape[1],
        jnp.max(jnp.abs(model.value)),
        jnp.max(jnp.linalg.norm(model.gradient, axis=1)),
        jnp.max(jnp.abs(jnp.linalg.eigvalsh(model.hessian))),
    )


def log_hessian_norm(constants: NetworkConstants) -> Bound:
    """ln of a bound on ‖∇²ℓ_i‖ of a ReLU network under cross-entropy, for every sample.

    Published: L√2·M_x²·M_W^{2L} + √2·M_W²(M_W^{2L} − 1)/(M_W² − 1), Theorem 1 of Kiselev and
    Grabovoy 2024, "Unraveling the Hessian", its fraction summed as the geometric series it is.

    Corrected: the published bound over M_W². The proof counts the weights s = p..L in
    ∂z^(L)/∂z^(p), which has s = p+1..L only, so where M_W < 1 the published bound is too small.
    Off the kinks it bounds the Gauss-Newton part, and where M_W ≥ 1 the whole Hessian.

    Raises:
        InputError: no layer.
    """
    if constants.layers < 1:
        found = f"found {constants.layers}; count the output layer"
        raise InputError(f"expected at least 1 layer, {found}")
    square = 2 * jnp.log(constants.weight_norm)
    inputs = 2 * jnp.log(constants.input_norm) + jnp.log(float(constants.layers))
    # M_W^{2p}, p = 0..L−1; as a product with 0, ln 0 would leave NaN for M_W = 0.
    powers = jnp.concatenate([jnp.zeros(1), jnp.arange(1, constants.layers) * square])
    terms = jnp.append(powers, inputs + powers[-1])
    corrected = math.log(2) / 2 + jax.nn.logsumexp(terms)
    return Bound(corrected + square, corrected)


def log_loss_step(
    k: Int[Array, "*k"], largest_loss: Float[Array, ""], log_norm: Float[Array, ""], radius: float
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


def rate(k: Int[Array, "*k"], sigma: float, constants: SampleConstants) -> Bound:
    """A bound on Δ_k of the quadratic model, for θ ~ N(0, σ²I_D) and each k.

    Published: (12M_ℓ² + 3σ²M_g² + 3σ⁴(D² + 2D)M_H²)/(k+1)², Kiselev and Grabovoy 2026,
    "Curvature-Aligned Probing for Local Loss-Landscape Stabilization", Theorem 1, for a w* that is
    a minimum of L_k. Corrected: with 12σ²M_g², for one w* and every k, because ∇L_k(w*) is then not
    zero and two gradients differ by up to 2M_g.
    """
    offset, dim = 12 * constants.loss**2, constants.dim
    gradient = 3 * sigma**2 * constants.gradient**2
    curvature = 3 * sigma**4 * (dim**2 + 2 * dim) * constants.hessian**2
    scale = jnp.asarray(k, jnp.float32) + 1
    parts = (offset + gradient + curvature, offset + 4 * gradient + curvature)
    return Bound(*(part / scale / scale for part in parts))
