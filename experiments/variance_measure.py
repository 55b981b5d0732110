"""The squares whose means are Δ_k and its kin, at every point of each kind, and their model's."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

import jaxscape as js
from experiments import estimators
from experiments.estimators import ESTIMATORS, GROUP, LEAST, Estimator
from experiments.problem import Problem
from jaxscape import InputError, reductions
from jaxscape.quadratic import Quadratic
from jaxscape.types import Batch, PerSampleLoss

NETS = 16
"""Sobol' nets of the pool."""


class Seen(NamedTuple):
    """What was seen at m points."""

    steps: Float[np.ndarray, "m K"]  #: δ_k
    level: Float[np.ndarray, "m"]  #: S²(w)

    def squares(self, centre: Float[np.ndarray, "K"]) -> Float[np.ndarray, "m q"]:
        """δ_k², (δ_k − centre)² and S², in this order."""
        return np.concatenate(
            [self.steps**2, (self.steps - centre) ** 2, self.level[:, None]], axis=1
        )


def measure(
    problem: Problem,
    space: js.Subspace,
    model: Quadratic,
    k: Int[np.ndarray, "K"],
    sigma: float,
    num_points: int,
) -> dict[str, np.ndarray]:
    """The arrays of results.npz at one sigma, in the order of ``ESTIMATORS``.

    ``needed_delta``, ``needed_shape`` [e, K] and ``needed_level`` [e] are numbers of points;
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
    for name, theta, groups in (("sobol", nets, NETS), ("pairs", pairs, num_points // 2)):
        seen = _see(problem.loss, js.points(space, theta), problem.samples, k)
        like = _see(_modelled, js.points(flat, theta), model, k)
        if name == "sobol":
            centre, model_centre = seen.steps.mean(0), like.steps.mean(0)
        pools[name] = seen.squares(centre).reshape(groups, num_points // groups, -1)
        models[name] = like.squares(model_centre).reshape(pools[name].shape)
    _check(pools)
    for each in (pools, models):
        each["gaussian"] = each["pairs"][:, :1]
    return _ask(pools, models, _expected(model, k, sigma))


def _ask(
    pools: Mapping[str, np.ndarray],
    models: Mapping[str, np.ndarray],
    expected: Float[np.ndarray, "q"],
) -> dict[str, np.ndarray]:
    def values_of(e: Estimator) -> Float[np.ndarray, "g size q"]:
        if not e.control:
            return pools[e.draw]
        return estimators.controlled(pools[e.draw], models[e.draw], expected, LEAST[e.draw])

    values = {e: values_of(e) for e in ESTIMATORS}
    mean = values[ESTIMATORS[-1]].mean((0, 1))  # of all it has the smallest error, or nearly so
    needed = [estimators.points_needed(v, mean, LEAST[e.draw]) for e, v in values.items()]
    held = [estimators.held(v, mean, GROUP[e.draw]).mean(0) for e, v in values.items()]
    size = (len(expected) - 1) // 2
    places: dict[str, Any] = {"delta": slice(size), "shape": slice(size, 2 * size), "level": -1}
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
    total, shape = (np.asarray(part, np.float64) for part in (law.total, law.shape))
    every = np.arange(1.0, len(total) + 1)
    # Σ k(k+1) δ_k² over all k is (n − 1) S², see ``evidence``
    return np.concatenate([total[k - 1], shape[k - 1], [np.mean(every * (every + 1) * total)]])


def _see(loss: PerSampleLoss, probe: Any, data: Batch, k: Int[np.ndarray, "K"]) -> Seen:
    steps, level = js.evaluate(loss, probe, data, _kept(tuple(map(int, k))))
    return Seen(np.asarray(steps.T, np.float64), np.asarray(level, np.float64))


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


def _check(pools: Mapping[str, np.ndarray]) -> None:
    if not all(np.isfinite(pool).all() for pool in pools.values()):
        raise InputError("expected finite losses, found NaN or infinity; lower --sigmas")
    if not all(pool.any((0, 1)).all() for pool in pools.values()):
        raise InputError(
            "expected losses that differ between samples and points, found a Δ_k of 0; no share "
            "of it is defined"
        )
