"""The published computations, flaws included, to be laid over the corrected ones.

Only the first direction is ever applied; the data loader shuffles, so that every draw of a point
has an order of its own; k counts batches of 64, the loss of a batch being its mean; means over the
first k batches are subtracted from each other in float32.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

import jaxscape as js
from experiments.common.tables import theorem1
from jaxscape.batching import length_of
from jaxscape.probes import SubspaceProbe
from jaxscape.types import Batch, Params, PerSampleLoss

BATCH = 64  # samples per batch of the reference code


@jax.jit
def delta(key: Key[Array, ""], losses: Float[Array, "m n"]) -> Float[Array, "K"]:
    """Mean over points of (L_{k+1} − L_k)², k = 1..K in batches, each point in its own order."""
    m, n = losses.shape
    count = -(-n // BATCH)
    sizes = np.minimum(BATCH, n - BATCH * np.arange(count))

    def squared(total: Array, point: tuple[Array, Array]) -> tuple[Array, None]:
        key, row = point
        shuffled = jnp.pad(jax.random.permutation(key, row), (0, count * BATCH - n))
        batches = shuffled.reshape(count, BATCH).sum(-1) / sizes
        means = jnp.cumsum(batches) / np.arange(1, count + 1)
        return total + jnp.diff(means) ** 2, None

    start = jnp.zeros(count - 1, jnp.float32)
    return jax.lax.scan(squared, start, (jax.random.split(key, m), losses))[0] / m


@partial(jax.jit, static_argnums=0)
def sheets(
    loss: PerSampleLoss, probe: SubspaceProbe, data: Batch, key: Key[Array, ""]
) -> tuple[Float[Array, "m"], ...]:
    """L_1 and L_2 − L_1 in batches drawn anew for each point, and the mean of a last batch."""
    n = length_of(data)
    left = n - BATCH * (-(-n // BATCH) - 1)  # samples of the last of ⌈n/64⌉ batches

    def at(index: Array) -> tuple[Array, Array, Array]:
        rows = jax.random.permutation(jax.random.fold_in(key, index), n)[: 2 * BATCH]
        losses = loss(probe.at(index), jax.tree.map(lambda leaf: leaf[rows], data))
        means = losses.reshape(2, BATCH).mean(-1)
        return means[0], means.mean() - means[0], losses[-left:].mean()

    return jax.lax.map(at, jnp.arange(probe.num_points), batch_size=4)


def sharp(values: Float[np.ndarray, "... d"]) -> Float[np.ndarray, "... d"]:
    """Eigenvalues as ‖Hv‖, in descending order: never negative."""
    return np.sort(np.abs(values), -1)[..., ::-1]


def theorem(values: Float[np.ndarray, "*k d"], after: Float[np.ndarray, "*k d"]) -> np.ndarray:
    """¼(2 Σ_j(Δλ_j)² + (Σ_j Δλ_j)²), magnitudes paired by index; σ⁴ is left out."""
    return theorem1(sharp(after).astype(np.float64) - sharp(values), 1.0)


def theorem_at(
    key: Key[Array, ""], loss: PerSampleLoss, w: Params, data: Batch, dim: int,
    k: Int[np.ndarray, "K"],
) -> list[np.ndarray]:  # fmt: skip
    """``theorem`` at k batches, from ``dim`` magnitudes there and at k + 1; these; converged."""
    every = np.union1d(k, k + 1)
    solved = js.prefix_spectra(key, loss, w, data, dim, ks=every * BATCH, which="magnitude")
    values, row = sharp(np.asarray(solved.values)), np.searchsorted(every, k)
    return [theorem(values[row], values[row + 1]), values, np.asarray(solved.converged)]
