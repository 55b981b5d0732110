"""experiments.spectra.measure."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxscape.prefix_spectra import PrefixSpectra
from jaxscape.types import InputError


def eigenvalue_delta(
    spectra: PrefixSpectra, sigma: float
) -> tuple[Int[np.ndarray, "c"], Float[Array, "c"]]:
    """Δ_k ≈ (σ⁴/4)(2 Σ_j(Δλ_j)² + (Σ_j Δλ_j)²) at each k whose successor was solved for too.

    Nikitin et al. 2025, Theorem 1, with the σ⁴ that its code leaves out: Δλ_j is the difference
    of the j-th eigenvalues of H_{k+1} and H_k, paired by index as if they shared eigenvectors, and
    offset and gradient are left out. It is the diagonal form of ``quadratic_delta`` where the
    eigenvectors are those of H_N. Δλ_j is of size λ_j/k, so float32 and ``tol`` leave it few digits
    where k is large. Not for use under ``jit``: which k are consecutive decides the shapes.

    Raises:
        InputError: no two consecutive k.
    """
    ks = np.asarray(spectra.k)
    at = np.flatnonzero(np.diff(ks) == 1)
    if not at.size:
        raise InputError(
            f"expected some k followed by k + 1, found {ks.tolist()}; add successors to ks"
        )
    steps = spectra.values[at + 1] - spectra.values[at]
    return ks[at], sigma**4 / 4 * (2 * jnp.sum(steps**2, 1) + jnp.sum(steps, 1) ** 2)
