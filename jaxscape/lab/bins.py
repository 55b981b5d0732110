"""Averages of a curve over bins of equal width in log k."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class Bins(NamedTuple):
    """Per non-empty bin: geometric mean of k, mean, its standard error, least and largest value."""

    k: Float[np.ndarray, "b"]
    mean: Float[np.ndarray, "b"]
    error: Float[np.ndarray, "b"]
    low: Float[np.ndarray, "b"]
    high: Float[np.ndarray, "b"]


def log_bins(
    k: Int[np.ndarray, "K"],
    values: Float[np.ndarray, "K"],
    sem: Float[np.ndarray, "K"] | float = 0.0,
    *,
    num: int = 60,
) -> Bins:
    """Average ``values`` over ``num`` bins between the first and the last of increasing ``k``.

    error² = s²/count + (mean of ``sem``)², with s² the variance over the values of the bin
    (count − 1 in the denominator; 0 for a single value, which stands for itself alone). ``sem`` is
    the Monte-Carlo error: all k share their points, so averaging over k does not lessen it.
    """
    edges = np.geomspace(k[0], k[-1], num + 1)
    bins = np.minimum(np.searchsorted(edges, k, side="right") - 1, num - 1)
    starts, count = np.unique(bins, return_index=True, return_counts=True)[1:]

    def mean(array: np.ndarray) -> np.ndarray:
        return np.add.reduceat(np.asarray(array, np.float64), starts) / count

    middle = mean(values)
    scatter = mean((values - np.repeat(middle, count)) ** 2) / np.maximum(count - 1, 1)
    return Bins(
        k=np.exp(mean(np.log(k))),
        mean=middle,
        error=np.sqrt(scatter + mean(np.broadcast_to(sem, np.shape(values))) ** 2),
        low=np.minimum.reduceat(values, starts),
        high=np.maximum.reduceat(values, starts),
    )
