"""What the experiments of "Curvature-Aligned Probing" (2026) share."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

import jaxscape as js
from experiments import run_folder, summary
from experiments.paper import bench as benches
from experiments.paper.bench import Bench
from jaxscape import prefix
from jaxscape.quadratic import Quadratic

DIM = benches.TOP
"""Directions of the largest subspace; smaller ones take its leading eigenvectors."""


def space(bench: Bench) -> js.Subspace:
    """The top eigenvectors of the Hessian over all samples."""
    return benches.directions(bench, "hessian", DIM)


def project(bench: Bench) -> Quadratic:
    """Every sample's quadratic model in that subspace."""
    kept = bench.store / "project.npz"
    if not kept.exists():
        model = js.project(bench.problem.loss, space(bench), bench.problem.samples)
        run_folder.write_arrays(kept, jax.tree.map(np.asarray, model)._asdict())
    with np.load(kept) as arrays:
        return Quadratic(*(jnp.asarray(arrays[name]) for name in Quadratic._fields))


def leading(model: Quadratic, dim: int) -> Quadratic:
    """The model in the span of the first ``dim`` directions."""
    gradient, hessian = np.asarray(model.gradient), np.asarray(model.hessian)
    parts = gradient[:, :dim], hessian[:, :dim, :dim]
    return Quadratic(model.value, *map(jnp.asarray, parts))


def within(model: Quadratic, used: Bool[np.ndarray, "d"]) -> Quadratic:
    """The same, by derivatives of 0 along the others: one shape, and program, for every span."""
    return Quadratic(model.value, model.gradient * used, model.hessian * (used & used[:, None]))


@jax.jit
def modelled(model: Quadratic, coordinates: Float[Array, "m d"]) -> Float[Array, "m n"]:
    """ℓ_i(w(θ)) by the quadratic model: c_i + g_iᵀθ + ½ θᵀH_iθ."""
    with jax.default_matmul_precision("highest"):
        bent = jnp.einsum("nij,mi,mj->mn", model.hessian, coordinates, coordinates)
        return model.value + coordinates @ model.gradient.T + bent / 2


@jax.jit
def increments(losses: Float[Array, "m n"]) -> Float[Array, "m n-1"]:
    """k δ_k at every point, k = 1..n−1: of one size at all k, by the order law."""
    return prefix.increments(losses) * jnp.arange(1, losses.shape[1])


def levels(scaled: Float[ArrayLike, "m n-1"]) -> Float[np.ndarray, "m"]:
    """The mean over k ≥ 100 of k²δ_k² at each point."""
    values = np.asarray(scaled)
    late = summary.late(np.arange(1, values.shape[1] + 1))
    return np.mean(np.square(values[:, late], dtype=np.float64), axis=1)


def law_levels(model: Quadratic, sigmas: Sequence[float]) -> Float[np.ndarray, "s"]:
    """The mean over k ≥ 100 of k²Δ_k in closed form, at each σ."""
    laws = np.asarray(js.quadratic_delta(model, np.asarray(sigmas)).total)
    return np.asarray([summary.level(np.arange(1, len(law) + 1), law) for law in laws])
