"""The published computations, flaws included, to be laid over the corrected ones.

Only the first direction is ever applied; the data loader shuffles, so that every draw of a point
has an order of its own; k counts batches of 64, the loss of a batch being its mean; means over the
first k batches are subtracted from each other in float32.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from experiments.common.bounds import theorem1
from jaxscape.batching import length_of
from jaxscape.probes import SubspaceProbe
from jaxscape.types import Batch, PerSampleLoss

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


@partial(jax.jit, static_argnums=(0, 4))
def sheets(
    loss: PerSampleLoss, probe: SubspaceProbe, data: Batch, key: Key[Array, ""], k: int
) -> tuple[Float[Array, "m"], Float[Array, "m"], Float[Array, "m 2"]]:
    """L_k and L_{k+1} − L_k, k in batches drawn anew for each point; means of two last batches."""
    n = length_of(data)

    def at(index: Array) -> tuple[Array, Array, Array]:
        rows = jax.random.permutation(jax.random.fold_in(key, index), n)[: (k + 1) * BATCH]
        batch = jax.tree.map(lambda leaf: leaf[rows], data)
        losses = loss(probe.at(index), batch)
        means = losses.reshape(k + 1, BATCH).mean(-1)
        left = n - BATCH * (-(-n // BATCH) - 1)  # samples of the last of ⌈n/64⌉ batches
        last = jnp.stack([losses[:BATCH].mean(), losses[-left:].mean()])
        return means[:-1].mean(), means.mean() - means[:-1].mean(), last

    return jax.lax.map(at, jnp.arange(probe.num_points), batch_size=4)


def last_step(
    whole: Float[np.ndarray, "m"], last: Float[np.ndarray, "m 2"], n: int
) -> tuple[Float[np.ndarray, "m"], Float[np.ndarray, "m"]]:
    """L_{K−2} and L_{K−1} − L_{K−2} of K batches, from means over all samples and the last two."""
    count = -(-n // BATCH)
    left = n - BATCH * (count - 1)
    before = (n * whole - left * last[:, 1] - BATCH * last[:, 0]) / (BATCH * (count - 2))
    return before, (last[:, 0] - before) / (count - 1)


def sliding(values: Float[np.ndarray, "K"], reach: int = 5) -> Float[np.ndarray, "K"]:
    """The mean over 2·reach + 1 neighbouring k, the first and last value repeated at the ends."""
    padded = np.pad(values, reach, mode="edge")
    return np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1).mean(1)


def sharp(values: Float[np.ndarray, "... d"]) -> Float[np.ndarray, "... d"]:
    """Eigenvalues as ‖Hv‖, in descending order: never negative."""
    return np.sort(np.abs(values), -1)[..., ::-1]


def theorem(
    values: Float[np.ndarray, "*k d"], after: Float[np.ndarray, "*k d"]
) -> Float[np.ndarray, "*k"]:
    """¼(2 Σ_j(Δλ_j)² + (Σ_j Δλ_j)²), magnitudes paired by index; σ⁴ is left out."""
    change = sharp(after).astype(np.float64) - sharp(values)
    return theorem1(change, 1.0)
