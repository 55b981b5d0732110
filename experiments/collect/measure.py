"""Networks of the samples met at each look, and what each rule makes of the next arrival."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

import jaxscape as js
from experiments.common import console, prepare
from experiments.common.bounds import theorem1
from experiments.common.console import progress
from experiments.common.problem import Problem, tests_of
from experiments.common.tables import stacked
from jaxscape import InputError, reductions
from jaxscape.lab import checkpoint, learning_curve, train
from jaxscape.loss_variance import Interval
from jaxscape.sample_size import Decision
from jaxscape.types import Batch, Matvec, Params

Arrays = dict[str, np.ndarray]

BATCH = 1000
"""Samples per chunk of a mean loss."""

LEVEL = 0.9
"""Of every interval."""

HESSIAN = 2000
"""Samples, of those met, whose Hessian the monitor's eigenvectors are of."""

TOL = 1e-2
"""Relative residual of the eigenpairs, which only their span is wanted of."""

PILOTS = 3
"""Sizes below the first look."""

NEWEST = 5
"""Largest k that a curve is fitted to: over more, losses are no single power law."""

AHEAD = 60
"""Values of k at which each look's curve is kept."""


def measure(problem: Problem, config: Any, store: Path) -> Arrays:
    """The arrays of results.npz: S sizes of R networks, J looks, G values of k.

    ``k`` [S], samples trained on: below the first look, at the looks, all. ``look_k`` [J], samples
    met at each look, with the arrival that validates. ``test_loss``, ``test_accuracy`` [R, S] (no
    accuracy of a regression); ``orders`` [R, N], positions in the order of arrival; those of
    ``forecasts`` and of ``watcher`` [J, ...]. The networks are refitted at once, but none depends
    on samples beyond its k.
    """
    ks = sizes(len(problem.order), config.at_least, config.growth, config.validation)
    shuffles = orders(problem, config)
    with console.timed("refitted", f"{len(ks)} networks, {config.repeats} times"):
        networks = _networks(problem, config, ks, shuffles)
    first = jax.tree.map(lambda *leaves: jnp.stack(leaves), *networks[0])
    checkpoint.save(store, "refitted", {"params": first})
    metrics, tests = tests_of(problem)
    arrays = {name: means(metric, networks, tests) for name, metric in metrics.items()}
    look, rows = watcher(problem, config), []
    at = ks[PILOTS:-1]
    with progress("looking", len(at), "looks") as advance:
        for k, params in zip(at.tolist(), networks[0][PILOTS:-1], strict=True):
            rows.append(look(params, k, k + config.validation))
            advance(1)
    arrays |= {"k": ks, "order": problem.order, "orders": shuffles, **stacked(rows)}
    return arrays | forecasts(problem, config, ks, networks)


def sizes(n: int, first: int, growth: float, new: int) -> Int[np.ndarray, "S"]:
    """An eighth, a quarter, a half of ``first``; the looks, each with ``new`` to follow; n."""
    found = [first // 8, first // 4, first // 2]
    k = float(first)
    while round(k) + new <= n:
        found.append(round(k))
        k = max(k * growth, found[-1] + 1)
    return np.array([*found, n])


def orders(problem: Problem, config: Any) -> Int[np.ndarray, "R n"]:
    """The order of the samples in each repeat: those of the first look in another order."""
    rows = np.tile(np.arange(len(problem.order), dtype=np.int32), (config.repeats, 1))
    for r in range(1, config.repeats):
        key = jax.random.fold_in(problem.keys["order"], r)
        rows[r, : config.at_least] = jax.random.permutation(key, config.at_least)
    return rows


def _networks(
    problem: Problem, config: Any, ks: np.ndarray, shuffles: np.ndarray
) -> list[list[Params]]:
    """Of each repeat, a network on the first k samples of its order for each k."""
    num, networks = len(ks), []
    alike = lambda tree: jax.tree.map(lambda x: jnp.stack([x] * num), tree)  # noqa: E731
    visits = config.repeats * config.visits
    with progress("refitting", visits, f"epochs of {num} networks") as advance:
        for repeat, order in enumerate(shuffles):
            fitted = train.fit(
                alike(jax.random.fold_in(problem.keys["train"], repeat)), problem.loss,
                alike(problem.initial), jax.tree.map(lambda x, at=order: x[at], problem.samples),
                ks=ks, on_epoch=lambda number, params: advance(1), **config.training(),
            )  # fmt: skip
            networks.append([jax.tree.map(lambda x, i=i: x[i], fitted.params) for i in range(num)])
    return networks


def means(metric: Any, networks: list[list[Params]], samples: Batch) -> Float[np.ndarray, "R S"]:
    """The mean of ``metric`` over the samples, of every network."""
    of = lambda w: float(train.mean_loss(metric, w, samples, batch_size=BATCH))  # noqa: E731
    return np.array([[of(w) for w in row] for row in networks])


def forecasts(
    problem: Problem, config: Any, ks: np.ndarray, networks: list[list[Params]]
) -> Arrays:
    """What the learning curve through the losses of the largest k says at each look.

    ``validated`` [J, R, S], mean losses on the arrival that follows the look, NaN of networks still
    to come; ``gain`` [J, 3], E(k) − E(k_max) as forecast: low, value, high; ``forecast`` [J, 3, G],
    E at ``forecast_k`` [G], NaN below the k it was fitted to; ``misfit`` [J] of ``LearningCurve``.
    """
    at = np.geomspace(ks[0], ks[-1], AHEAD)
    rows = []
    for index in range(PILOTS, len(ks) - 1):
        k, upto, few = int(ks[index]), index + 1, slice(max(0, index + 1 - NEWEST), index + 1)
        new = jax.tree.map(lambda x, k=k: x[k : k + config.validation], problem.samples)
        validated = np.full((len(networks), len(ks)), np.nan)
        validated[:, :upto] = means(problem.loss, [row[:upto] for row in networks], new)
        key = jax.random.fold_in(problem.keys["probe"], index)
        curve = learning_curve.fit(key, ks[few], validated[:, few], level=LEVEL)
        rows.append({
            "validated": validated, "gain": np.array(curve.gain(k, ks[-1])),
            "forecast": np.where(at >= ks[few][0], curve.at(at), np.nan),
            "misfit": np.array(curve.misfit),
        })  # fmt: skip
    return {"forecast_k": at, **stacked(rows)}


def watcher(problem: Problem, config: Any) -> Callable[[Params, int, int], Arrays]:
    """``look(params, seen, met)``: whether one more sample would reshape the landscape.

    ``params`` have been trained on the first ``seen`` samples; those up to ``met`` have just
    arrived, and what is said of new samples is from their losses, at points along the top
    eigenvectors of the Hessian of samples seen. No sample from position ``met`` on is read.

    ``look_k`` are the samples met, ``loss_variance`` [3] is E_q S² of the new ones, ``effective``
    as of ``LossVariance``, ``law`` [3] K of the order law, ``exceedance`` [3] K of Definition 4
    over orders, ``monitor_stop`` the decision. [3] is low, value, high, infinite beyond all
    numbers. ``eigenvalues`` [d], and ``theorem1`` (see ``moved``).

    Raises:
        InputError: losses that are not finite, or whose squares are not.
    """
    keep = reductions.losses(config.points)
    asked = {"tolerance": config.tolerance, "at_least": config.at_least}
    monitor = js.monitor(num_points=config.points, level=LEVEL, **asked)

    def look(params: Params, seen: int, met: int) -> Arrays:
        space, values = directions(problem, config, params, seen)
        probe = prepare.probe(problem, params, space, config.points, config.sigma)
        new = jax.tree.map(lambda leaf: leaf[seen:met], problem.samples)
        state = monitor.update(monitor.init(), js.evaluate(problem.loss, probe, new, keep))
        found = _numbers(monitor.decide(state, met)) | {"look_k": np.asarray(met)}
        found["eigenvalues"] = np.asarray(values)
        return found | {"theorem1": moved(problem, config.sigma, space, seen, met)}

    return look


def moved(
    problem: Problem, sigma: float, space: js.Subspace, seen: int, met: int
) -> Float[np.ndarray, ""]:
    """Theorem 1 for the samples that have just arrived: the stopping rule of Nikitin et al.

    Their Algorithm 1 takes the eigenvalues before and after an arrival at the same network. To
    first order these move by Δλ_j = (1 − seen/met) v_jᵀ(H_new − H_seen)v_j, of the arrival alone
    and of all samples before it.
    """
    new = jax.tree.map(lambda leaf: leaf[seen:met], problem.samples)
    vectors = [jax.tree.map(lambda x, j=j: x[j], space.basis) for j in range(space.dim)]

    def curvature(operator: Matvec) -> Float[Array, "d"]:
        products = [jax.tree.map(jnp.vdot, v, operator(v)) for v in vectors]
        return jnp.stack([jnp.stack(jax.tree.leaves(each)).sum() for each in products])

    old = js.hessian_operator(problem.loss, space.origin, problem.samples, count=seen)
    fresh = js.hessian_operator(problem.loss, space.origin, new)
    return np.asarray(theorem1((1 - seen / met) * (curvature(fresh) - curvature(old)), sigma))


def directions(
    problem: Problem, config: Any, params: Params, k: int
) -> tuple[js.Subspace, Float[Array, "d"]]:
    """The top eigenvectors through ``params`` and their eigenvalues.

    Of the Hessian of samples spread evenly over the first k, whatever their order.
    """
    size = min(HESSIAN, len(problem.order))
    rows = np.arange(size) * max(k, size) // size
    few = jax.tree.map(lambda leaf: leaf[rows], problem.samples)
    operator = js.hessian_operator(problem.loss, params, few, count=min(k, size))
    key = problem.keys["subspace"]
    pairs = js.top_eigenpairs(key, operator, params, config.dim, tol=TOL, find_repeated=False)
    return js.Subspace(params, pairs.vectors), pairs.values


def _numbers(said: Decision) -> Arrays:
    bad, variance = int(said.nonfinite), said.loss_variance
    if bad:
        raise InputError(
            f"expected finite losses around the network, found NaN or infinity for {bad} of "
            f"{int(said.num_samples)} samples; lower --sigma"
        )
    if np.isnan(variance.interval.value):
        raise InputError(
            "expected losses around the network whose squares fit float32, found losses above "
            "1e18; lower --sigma"
        )
    return {
        "loss_variance": np.asarray(variance.interval),
        "effective": np.asarray(variance.effective),
        "law": _sizes(said.law),
        "exceedance": _sizes(said.exceedance),
        "monitor_stop": np.asarray(said.stop),
    }


def _sizes(interval: Interval) -> np.ndarray:
    return np.array([float(size.k) if size.reached else np.inf for size in interval])
