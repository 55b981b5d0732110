"""Eigenpairs of H_k on a grid of k, Ritz values and the law of every k, and Theorem 1."""

import jax
import numpy as np
from jaxtyping import Array, Float, Int

import jaxscape as js
from experiments.common import console
from experiments.common.bounds import theorem1
from experiments.common.problem import Problem
from jaxscape.prefix_spectra import PrefixSpectra, geometric
from jaxscape.types import InputError

BATCH_SIZE = 1000
"""Samples per chunk of a Hessian product."""


def grid(k_max: int, num_ks: int) -> Int[np.ndarray, "K"]:
    """The increasing values of k to solve for: a geometric grid, and four successors."""
    ks = geometric(max(1, min(10, k_max // 2)), k_max, num_ks)
    chosen = np.rint(np.linspace(0, len(ks) - 2, 4)).astype(int)
    return np.union1d(ks, ks[chosen] + 1)


def arrays_of(
    problem: Problem, space: js.Subspace, ks: Int[np.ndarray, "K"], sigma: float
) -> dict[str, np.ndarray]:
    """``PrefixSpectra`` [K, ...], Ritz values [n, d], Theorem 1 [c], the quadratic law [n-1]."""
    with console.timed("spectra", f"eigenpairs of H_k at {len(ks)} values of k"):
        spectra = js.prefix_spectra(
            problem.keys["subspace"], problem.loss, space.origin, problem.samples, space.dim,
            ks=ks, batch_size=BATCH_SIZE, reference=space.basis,
        )  # fmt: skip
        jax.block_until_ready(spectra)
    with console.timed("theory", "Ritz values and the law of every k"):
        model = js.project(problem.loss, space, problem.samples)
        law = js.quadratic_delta(model, sigma)
        pair_k, theorem = eigenvalue_delta(spectra, sigma)
        arrays = {
            "order": problem.order,
            **{name: x for name, x in spectra._asdict().items() if x is not None},
            "ritz_values": js.ritz_values(model.hessian),
            "pair_k": pair_k,
            "theorem1": theorem,
            "theorem1_error": theorem_error(spectra, theorem, sigma),
            **{f"law_{name}": getattr(law, name) for name in ("curvature", "diagonal", "total")},
        }
        return {name: np.asarray(values) for name, values in arrays.items()}


def eigenvalue_delta(
    spectra: PrefixSpectra, sigma: float
) -> tuple[Int[np.ndarray, "c"], Float[Array, "c"]]:
    """The ``theorem1`` form of Δ_k at each k whose successor was solved for too.

    Nikitin et al. 2025, Theorem 1, with the σ⁴ that its code leaves out: Δλ_j is the difference
    of the j-th eigenvalues of H_{k+1} and H_k, paired by index as if they shared eigenvectors, and
    offset and gradient are left out. It is the diagonal form of ``quadratic_delta`` where the
    eigenvectors are those of H_N. Δλ_j is of size λ_j/k, so few digits are left where k is large.

    Raises:
        InputError: no two consecutive k.
    """
    ks = np.asarray(spectra.k)
    at = np.flatnonzero(np.diff(ks) == 1)
    if not at.size:
        wanted = "some k followed by k + 1"
        raise InputError(f"expected {wanted}, found {ks.tolist()}; add successors to ks")
    return ks[at], theorem1(spectra.values[at + 1] - spectra.values[at], sigma)


def theorem_error(
    spectra: PrefixSpectra, theorem: Float[Array, "c"], sigma: float
) -> Float[np.ndarray, "c"]:
    """How far the errors of eigenvalues that differ by ~λ/k may move Theorem 1, their difference.

    Its square root is a norm of the steps Δλ, so steps that are off by h move Δ by at most
    2√(Δ·f) + f, with f that of h: here the sum of ``eigenvalue_errors`` at k and k + 1.
    """
    errors = eigenvalue_errors(spectra)
    at = np.flatnonzero(np.diff(np.asarray(spectra.k)) == 1)
    own = theorem1(errors[at] + errors[at + 1], sigma)
    return 2 * np.sqrt(np.asarray(theorem, np.float64) * own) + own


def eigenvalue_errors(spectra: PrefixSpectra) -> Float[np.ndarray, "K d"]:
    """The 10 ε λ_1 that Lanczos takes for rounding, and min(r, r²/gap) of the residual r.

    The gap is that to the nearest other eigenvalue that was solved for.
    """
    values, residuals = (np.asarray(x, np.float64) for x in (spectra.values, spectra.residuals))
    apart = np.abs(values[:, :, None] - values[:, None, :])
    apart[:, np.eye(values.shape[1], dtype=bool)] = np.inf
    gap = apart.min(2) if values.shape[1] > 1 else np.zeros_like(values)
    least = np.finfo(np.float64).tiny  # 0/0 of a double eigenvalue solved for exactly
    rounding = 10 * np.finfo(np.float32).eps * np.abs(values).max(1, keepdims=True)
    return rounding + residuals**2 / np.maximum(np.maximum(gap, residuals), least)
