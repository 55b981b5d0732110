"""How many points an estimator of a mean needs, from a pool of points drawn its way.

A pool holds the values whose mean is wanted, ``[groups, size, q]``: groups are independent of each
other, the points of a group are not, and 2^j of its points in a row, from a multiple of 2^j on,
are as good as its first 2^j.
"""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import t

from jaxscape.sobol import RANDOMISATIONS

ERROR = 0.01
"""Standard error that is asked for, as a share of the mean."""
LEVEL = 0.9
"""Of the intervals whose coverage is counted."""
FEW = 64
"""Points from which such an interval is formed."""


class Estimator(NamedTuple):
    """A way to draw points, perhaps with the quadratic model as a control variate."""

    name: str
    draw: Literal["gaussian", "pairs", "sobol"]
    control: bool = False


ESTIMATORS = (
    Estimator("independent", "gaussian"),
    Estimator("antithetic pairs", "pairs"),
    Estimator("Sobol'", "sobol"),
    Estimator("independent, control", "gaussian", True),
    Estimator("antithetic pairs, control", "pairs", True),
    Estimator("Sobol', control", "sobol", True),
)
LEAST = {"gaussian": 1, "pairs": 2, "sobol": 1}
"""Points of the smallest group."""
GROUP = {"gaussian": 1, "pairs": 2, "sobol": FEW // RANDOMISATIONS}
"""Points of a group where there are ``FEW`` in all."""


def controlled(
    values: Float[np.ndarray, "g size q"],
    model: Float[np.ndarray, "g size q"],
    expected: Float[np.ndarray, "q"],
    least: int,
) -> Float[np.ndarray, "g size q"]:
    """x − β (y − E y), y the ``model``'s value at the same point, whose mean is ``expected``.

    β, one for each quantity, is fitted to the means over ``least`` points in a row.
    """
    x, y = (_blocks(v, least).reshape(-1, v.shape[-1]) for v in (values, model))
    x, y = x - x.mean(0), y - y.mean(0)
    return values - np.sum(x * y, 0) / np.sum(y**2, 0) * (model - expected)


def points_needed(
    values: Float[np.ndarray, "g size q"], mean: Float[np.ndarray, "q"], least: int
) -> Float[np.ndarray, "q"]:
    """The number of points whose mean has a standard error of ``ERROR`` times ``mean``.

    That of n points has the variance of the mean over a group, divided by the number of groups:
    ``RANDOMISATIONS`` of any size, or as many as it takes where a group has its ``least`` size
    only. Between measured sizes it is interpolated, beyond the largest the error is taken to fall
    as that of independent groups of this size would.
    """
    sizes = least << np.arange((values.shape[1] // least).bit_length())
    needed = np.stack([_variance(values, size) * size for size in sizes]) / (ERROR * mean) ** 2
    if len(sizes) == 1:
        return needed[0]
    have = np.log(RANDOMISATIONS * sizes)
    found = [_crossing(have, np.log(column)) for column in needed.T]
    return np.exp(np.array(found))


def held(
    values: Float[np.ndarray, "g size q"], mean: Float[np.ndarray, "q"], size: int
) -> Bool[np.ndarray, "trials q"]:
    """Whether intervals from ``FEW`` points in groups of ``size`` hold ``mean``."""
    count = FEW // size
    means = np.moveaxis(_blocks(values, size), 1, 0)
    means = means[:, : means.shape[1] // count * count].reshape(-1, count, len(mean))
    half = t.ppf((1 + LEVEL) / 2, count - 1) * means.std(1, ddof=1) / np.sqrt(count)
    return abs(means.mean(1) - mean) < half


def _blocks(values: Float[np.ndarray, "g size q"], size: int) -> Float[np.ndarray, "g blocks q"]:
    """The means over ``size`` points of a group in a row."""
    return values.reshape(len(values), -1, size, values.shape[-1]).mean(2)


def _variance(values: Float[np.ndarray, "g size q"], size: int) -> Float[np.ndarray, "q"]:
    """The variance of the mean over a group of ``size`` points."""
    means, whole = _blocks(values, size), values.mean(1)
    # what the scatter around the mean of all groups leaves out is the variance of that mean
    return means.var((0, 1)) + whole.var(0, ddof=1) / len(whole)


def _crossing(have: Float[np.ndarray, "sizes"], needed: Float[np.ndarray, "sizes"]) -> float:
    """The logarithm of the number of points that is as many as needed."""
    enough = np.flatnonzero(have >= needed)
    if not enough.size:
        return needed[-1]
    at = enough[0]
    if at == 0:
        return needed[0]
    gap = (needed - have)[at - 1 : at + 1]
    return have[at - 1] + (have[at] - have[at - 1]) * gap[0] / (gap[0] - gap[1])
