"""How many points an estimator of a mean needs, from a pool of points drawn its way.

A pool holds the values whose mean is wanted, ``[groups, size, q]``. Groups are independent of each
other; the points of a group are not. 2^j of its points in a row, from a multiple of 2^j on, are as
good as its first 2^j.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from scipy.stats import t

import jaxscape as js
from experiments.common.problem import Problem
from jaxscape import InputError, reductions
from jaxscape.probes import RANDOMISATIONS
from jaxscape.quadratic import Quadratic
from jaxscape.types import Batch, PerSampleLoss, Probe

ERROR = 0.01
"""Standard error that is asked for, as a share of the mean."""
LEVEL = 0.9
"""Of the intervals whose coverage is counted."""
FEW = 64
"""Points from which such an interval is formed."""

NETS = 16
"""Sobol' nets of the pool."""


class Estimator(NamedTuple):
    """A way to draw points, perhaps with the quadratic model as a control variate."""

    name: str
    draw: str  #: which pool
    least: int  #: points of the smallest group
    group: int  #: points of a group where there are ``FEW`` in all
    control: bool


ESTIMATORS = tuple(
    Estimator(name + ", control" * control, draw, least, group, control)
    for control in (False, True)
    for name, draw, least, group in (
        ("independent", "gaussian", 1, 1),
        ("antithetic pairs", "pairs", 2, 2),
        ("Sobol'", "sobol", 1, FEW // RANDOMISATIONS),
    )
)


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


def share_held(
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
    if not enough.size or enough[0] == 0:
        return needed[0 if enough.size else -1]
    at = enough[0]
    gap = (needed - have)[at - 1 : at + 1]
    return have[at - 1] + (have[at] - have[at - 1]) * gap[0] / (gap[0] - gap[1])


def measure(
    problem: Problem,
    space: js.Subspace,
    model: Quadratic,
    k: Int[np.ndarray, "K"],
    sigma: float,
    num_points: int,
) -> dict[str, np.ndarray]:
    """The arrays of results.npz at one sigma, in the order of ``ESTIMATORS``.

    ``needed_delta``, ``needed_centered`` [e, K] and ``needed_level`` [e] are numbers of points;
    ``held_*`` alike how often intervals held the mean.

    Raises:
        InputError: a loss that is NaN or infinite, or that is the same for all samples.
    """
    for_pairs, for_nets = jax.random.split(problem.keys["probe"])
    half = js.gaussian(for_pairs, space, num_points // 2, sigma).coordinates
    pairs = jnp.stack([half, -half], 1).reshape(num_points, space.dim)
    nets = js.sobol(for_nets, space, num_points, sigma, randomisations=NETS).coordinates
    flat = js.Subspace(jnp.zeros(space.dim), jnp.eye(space.dim))
    pools, models = {}, {}
    centre = model_centre = None
    for name, theta, groups in (("sobol", nets, NETS), ("pairs", pairs, num_points // 2)):
        seen, centre = _squares(problem.loss, js.points(space, theta), problem.samples, k, centre)
        like, model_centre = _squares(_modelled, js.points(flat, theta), model, k, model_centre)
        pools[name] = seen.reshape(groups, num_points // groups, -1)
        models[name] = like.reshape(pools[name].shape)
    if not all(np.isfinite(pool).all() for pool in pools.values()):
        raise InputError("expected finite losses, found NaN or infinity; lower --sigmas")
    if not all(pool.any((0, 1)).all() for pool in pools.values()):
        raise InputError(
            "expected losses that differ between samples and points, found a Δ_k of 0; raise "
            "--sigmas, or change --dataset"
        )
    for each in (pools, models):
        each["gaussian"] = each["pairs"][:, :1]
    return _ask(pools, models, _expected(model, k, sigma))


def _ask(
    pools: Mapping[str, np.ndarray],
    models: Mapping[str, np.ndarray],
    expected: Float[np.ndarray, "q"],
) -> dict[str, np.ndarray]:
    values = [
        controlled(pools[e.draw], models[e.draw], expected, e.least) if e.control else pools[e.draw]
        for e in ESTIMATORS
    ]
    mean = values[-1].mean((0, 1))  # of all it has the smallest error, or nearly so
    pairs = list(zip(ESTIMATORS, values, strict=True))
    needed = [points_needed(v, mean, e.least) for e, v in pairs]
    held = [share_held(v, mean, e.group).mean(0) for e, v in pairs]
    size = (len(expected) - 1) // 2
    places: dict[str, Any] = {"delta": slice(size), "centered": slice(size, 2 * size), "level": -1}
    return {
        f"{name}_{part}": np.stack(rows)[:, place]
        for name, rows in (("needed", needed), ("held", held))
        for part, place in places.items()
    }


def _modelled(theta: Float[Array, "d"], batch: Quadratic) -> Float[Array, "n"]:
    bent = jnp.einsum("nij,i,j->n", batch.hessian, theta, theta)
    return batch.value + batch.gradient @ theta + bent / 2


def _expected(model: Quadratic, k: Int[np.ndarray, "K"], sigma: float) -> Float[np.ndarray, "q"]:
    """What the means of the model's squares are, exactly."""
    law = js.quadratic_delta(model, sigma)
    total, centered = (np.asarray(part, np.float64) for part in (law.total, law.centered))
    every = np.arange(1.0, len(total) + 1)
    # Σ k(k+1) δ_k² over all k is (n − 1) S², see ``loss_variance``
    return np.concatenate([total[k - 1], centered[k - 1], [np.mean(every * (every + 1) * total)]])


def _squares(
    loss: PerSampleLoss,
    probe: Probe,
    data: Batch,
    k: Int[np.ndarray, "K"],
    centre: Float[np.ndarray, "K"] | None,
) -> tuple[Float[np.ndarray, "m q"], Float[np.ndarray, "K"]]:
    """δ_k², (δ_k − centre)² and S² at every point; the centre, by default the mean of δ_k."""
    found = js.evaluate(loss, probe, data, _kept(tuple(k.tolist())))
    steps, level = (np.asarray(x.T, np.float64) for x in found)
    centre = steps.mean(0) if centre is None else centre
    return np.concatenate([steps**2, (steps - centre) ** 2, level[:, None]], axis=1), centre


@functools.lru_cache
def _kept(ks: tuple[int, ...]) -> js.Reduction:
    """The increments at ``ks``, and S²(w)."""
    rows = reductions.surface(ks)
    return rows._replace(
        finalize=lambda by_point, by_sample, prefix: (
            rows.finalize(by_point, by_sample, prefix).increment,
            prefix.variance,
        )
    )
