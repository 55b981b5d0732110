"""Whether K, from the landscape, predicts where refitted networks stop gaining from more data.

Both sides are in units of the loss. The landscape's is the root mean square distance of L_k from
L_N, √(E_qS² (1/k − 1/N)). The networks' is the excess test loss of w*_k over w*_N, which a
distance that held for all w at once would bound by its double. With ε a share of the test loss of
w*_N, the k from which on the excess is below ε is compared with K_ε. That both fall with k is no
evidence, as any two falling curves do. The evidence is the size: do the two agree at every ε?
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

import jaxscape as js
from experiments.common import tables
from experiments.common.run_folder import plain

FACTOR = 2.0
"""How far K_ε may lie from the grid values of k between which the networks stop gaining."""


class Bracket(NamedTuple):
    """The last k of the grid that exceeds, 0 where none does, and the one after it."""

    low: int
    high: int


def distances(
    losses: Float[np.ndarray, "m n"], order: Int[np.ndarray, "n"], ks: Int[np.ndarray, "K"]
) -> dict[str, Float[np.ndarray, "K"]]:
    """E_q[(L_n(w) − L_k(w))²] over the m points for each k, with L_k of the samples ``order[:k]``.

    ``distance``: the mean of the square, ``distance_sem`` its standard error over the points,
    ``distance_centered``: the variance over the points (m − 1 below), which a shift of the whole
    surface by a constant leaves alone. In float64, from ℓ_i(w) of all samples.
    """
    sums = np.cumsum(np.asarray(losses, np.float64)[:, order], axis=1)
    gap = sums[:, -1:] / len(order) - sums[:, ks - 1] / ks
    return {
        "distance": np.mean(gap**2, 0),
        "distance_sem": np.std(gap**2, 0, ddof=1) / np.sqrt(len(gap)),
        "distance_centered": np.var(gap, 0, ddof=1),
    }


def bracket(k: Int[np.ndarray, "K"], excess: Float[np.ndarray, "K"], epsilon: float) -> Bracket:
    """Between which values of k the excess falls below ε, to stay there; it is 0 at the last.

    Raises:
        InputError: an excess that is NaN, or one at the last k that is not below ε.
    """
    if np.isnan(excess).any():
        raise js.InputError(
            f"expected test losses that are numbers, found an excess of NaN at k = "
            f"{k[np.isnan(excess)].tolist()}; lower --learning-rate, or mend the test split"
        )
    if excess[-1] >= epsilon:
        raise js.InputError(
            f"expected an ε above the excess of the last k, {excess[-1]:g}, found {epsilon:g}; "
            "take a loss above 0"
        )
    last = np.flatnonzero(~(excess < epsilon))
    if not last.size:
        return Bracket(0, int(k[0]))
    return Bracket(int(k[last[-1]]), int(k[last[-1] + 1]))


def factor(size: int, where: Bracket) -> float:
    """By what ``size`` misses the bracket: 1 inside, above 1 beyond it, below 1 before it."""
    if where.low < size <= where.high:
        return 1.0
    return size / (where.high if size > where.high else where.low)


def per_sigma(arrays: dict[str, np.ndarray], shares: Sequence[float]) -> list[dict[str, Any]]:
    """One entry per sigma, from the arrays of results.npz; ``predicts`` is the verdict.

    It is whether K_ε is right to ``FACTOR`` at every ε; None where no ε lies within the grid.
    """
    excess, n = excess_of(arrays), int(arrays["k"][-1])
    epsilons = np.asarray(shares) * float(arrays["test_loss"][:, -1, -1].mean())
    limits = k_epsilon(arrays["loss_variance"], epsilons, n)
    centered = k_epsilon(arrays["centered_variance"], epsilons, n)
    entries = []
    for row, sigma in enumerate(arrays["sigma"]):
        sizes = [
            {"share": share, "epsilon": float(epsilon)}
            | _networks(arrays["k"], excess, epsilon, int(value))
            | {"k_epsilon": int(value), "k_epsilon_ci": [int(low), int(high)]}
            | {"k_epsilon_centered": int(own)}
            for share, epsilon, (low, value, high), own in zip(
                shares, epsilons, limits[row], centered[row, :, 1], strict=True
            )
        ]
        known = [size["factor"] for size in sizes if size["factor"] is not None]
        names = ("loss_variance", "centered_variance", "effective_samples")
        entries.append(
            {"sigma": tables.short(sigma)}
            | {name: plain(arrays[name][row]) for name in names}
            | {"sizes": sizes}
            | {"predicts": all(1 / FACTOR <= x <= FACTOR for x in known) if known else None}
        )
    return entries


def k_epsilon(
    variance: Float[np.ndarray, "s 3"], epsilons: Float[np.ndarray, "t"], n: int
) -> Int[np.ndarray, "s t 3"]:
    """K_ε to all n samples, for the value of E_q S² between its limits; n for one not finite."""
    wanted = jnp.asarray(epsilons, jnp.float32)[None, :, None]
    found = js.distance_size(jnp.asarray(variance)[:, None], wanted, to=n)
    return np.where(found.reached, found.k, n)


def excess_of(arrays: Mapping[str, np.ndarray]) -> Float[np.ndarray, "R K"]:
    """The test loss of each repeat's networks over that of its network of all samples."""
    loss = arrays["test_loss"][:, -1].astype(np.float64)
    return loss - loss[:, -1:]


def _networks(k: np.ndarray, excess: np.ndarray, epsilon: float, size: int) -> dict[str, Any]:
    """Where the networks stop gaining ε, on average and in single repeats; the miss of K_ε.

    No miss is counted where the bracket touches an end of the grid: below the first k nothing is
    known, and at k = N both sides are 0 by definition.
    """
    where = bracket(k, excess.mean(0), epsilon)
    single = [bracket(k, one, epsilon).high for one in excess]
    return {
        "networks": list(where),
        "networks_single": [min(single), max(single)],
        "factor": factor(size, where) if where.low and where.high < k[-1] else None,
    }
