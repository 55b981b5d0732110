"""The leading eigenpairs of H_k, the Hessian of the mean loss over the first k samples, along k."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, Key, Real

from jaxscape import losses, prefix
from jaxscape.arguments import explained
from jaxscape.batching import length_of
from jaxscape.curvature import hessian_operator
from jaxscape.lanczos import dot, top_eigenpairs
from jaxscape.trees import automatic, check_like
from jaxscape.types import Batch, InputError, Params, PerSampleLoss, Scalar


class PrefixSpectra(NamedTuple):
    """The d leading eigenpairs of H_k for each of K values of k, in the order of ``which``."""

    k: Int[Array, "K"]
    values: Float[Array, "K d"]
    residuals: Float[Array, "K d"]
    """‖H_k v − λ v‖."""
    converged: Bool[Array, "K d"]
    matvecs: Int[Array, "K"]
    """Products with H_k, each over k samples."""
    overlap: Float[Array, "K"] | None
    """With the reference, where one was given."""
    vectors: Params | None
    """Leaves [K, d, ...], where they were asked for."""


def geometric(first: int, last: int, num: int = 24) -> Int[np.ndarray, "K"]:
    """At most ``num`` ≥ 2 whole numbers from ``first`` ≥ 1 to ``last`` in geometric steps."""
    if not (1 <= first <= last and num >= 2):
        found = first, last, num
        raise InputError(f"expected 1 <= first <= last and num >= 2, found {found}; change them")
    return np.unique(np.rint(np.geomspace(first, last, num)).astype(int))


@explained
def prefix_spectra(
    key: Key[Array, ""],
    loss: PerSampleLoss,
    params: Params,
    data: Batch,
    num: int,
    *,
    ks: Sequence[int | float] | Real[np.ndarray, "K"] | None = None,
    reference: Params | None = None,
    keep_vectors: bool = False,
    which: str = "largest",
    tol: Scalar = 1e-4,
    batch_size: int = 1000,
) -> PrefixSpectra:
    """The ``num`` leading eigenvalues of H_k = ∇²L_k(w) for each k in ``ks``, at the same w.

    One compiled program solves for one k after the other with ``top_eigenpairs``.

    Args:
        key: Of the random starting vectors, the same for every k.
        loss, params, data, batch_size: As for ``hessian_operator``, with its errors; n samples in
            order, no batches.
        num: d.
        ks: Whole numbers in 1..n, else an ``InputError``; by default ``geometric(min(n, 10), n)``.
        reference: Orthonormal leaves ``[d', ...]``, for ``overlap``; others: an ``InputError``.
        keep_vectors: Also return the eigenvectors, K·d·P numbers.
        which, tol: As for ``top_eigenpairs``, with its errors.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> loss = lambda w, batch: 0.5 * (batch @ w) ** 2    # H_k is the mean of x xᵀ
        >>> data = jnp.array([[2.0, 0.0, 0.0], [0.0, 4.0, 0.0]])
        >>> found = prefix_spectra(jax.random.key(0), loss, jnp.zeros(3), data, 2, ks=[1, 2])
        >>> found.values.round(3).tolist()
        [[4.0, 0.0], [8.0, 2.0]]
    """
    params, data, reference = automatic((params, data, reference))
    n = length_of(data)
    wanted = geometric(min(n, 10), n) if ks is None else np.asarray(ks)
    if wanted.ndim != 1 or not wanted.size or not np.isin(wanted, np.arange(1, n + 1)).all():
        found = wanted.tolist()
        raise InputError(f"expected whole values of k from 1 to {n}, found {found}; change ks")
    if reference is not None:
        first = jax.tree.map(lambda leaf: leaf[0], reference)
        check_like(first, params, "each direction of the reference")
    _, bound = losses.ready(loss, params, data)
    arrays = bound, params, data, jnp.asarray(wanted, jnp.int32), key, reference
    return _solve_each(*arrays, num, keep_vectors, which, tol, batch_size)


@functools.partial(jax.jit, static_argnums=(6, 7, 8, 9, 10))
def _solve_each(loss, params, data, ks, key, reference, num, keep_vectors, which, tol, batch_size):
    def one(k: Int[Array, ""]) -> PrefixSpectra:
        operator = hessian_operator(loss, params, data, batch_size=batch_size, count=k)
        pairs = top_eigenpairs(key, operator, params, num, which=which, tol=tol)
        along = None if reference is None else overlap(pairs.vectors, reference)
        kept = pairs.vectors if keep_vectors else None
        return PrefixSpectra(k, pairs.values, *pairs[2:], along, kept)

    return jax.lax.map(one, ks)


def overlap(first: Params, second: Params) -> Float[Array, ""]:
    """‖V Wᵀ‖²_F / d of two orthonormal bases, leaves ``[d, ...]`` (the first) and ``[d', ...]``.

    The mean squared cosine of the principal angles: 1 where the span of V lies in that of W, d'/P
    on average for a random V.
    """
    v, w = (jax.vmap(lambda v: ravel_pytree(v)[0])(basis) for basis in (first, second))
    return jnp.sum(dot(v, w.T) ** 2) / len(v)


@explained
@jax.jit
def ritz_values(hessian: Float[Array, "n d d"]) -> Float[Array, "n d"]:
    """The eigenvalues of Λ_k = Vᵀ H_k V for every k = 1..n, descending.

    ``hessian`` holds the per-sample Vᵀ ∇²ℓ_i V of ``project``; Λ_k are their prefix means. By
    Cauchy's interlacing theorem the j-th is at most the j-th eigenvalue of H_k, and equals it
    where V spans the leading eigenvectors.
    """
    means = jnp.moveaxis(prefix.means(jnp.moveaxis(hessian, 0, -1)), -1, 0)
    return jnp.linalg.eigvalsh(means)[:, ::-1]
