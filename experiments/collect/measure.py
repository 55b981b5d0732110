"""Networks of the samples met at each look, and what each rule makes of the next arrival."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

import jaxscape as js
from experiments.common import prepare, refits
from experiments.common.console import progress
from experiments.common.problem import Problem, tests_of
from experiments.common.tables import LEVEL, Arrays, stacked, theorem1
from jaxscape.lab import learning_curve
from jaxscape.sample_size import Monitor
from jaxscape.types import Matvec, Params

HESSIAN = 2000  # samples, of those met, whose Hessian the monitor's eigenvectors are of
TOL = 1e-2  # relative residual of the eigenpairs, which only their span is wanted of
PILOTS = 3  # sizes below the first look
NEWEST = 5  # largest k that a curve is fitted to: over more, losses are no single power law
AHEAD = 60  # values of k at which each look's curve is kept


def measure(problem: Problem, config: Any, store: Path) -> Arrays:
    """The arrays of results.npz: S sizes of R networks, J looks, G values of k.

    ``k`` [S], samples trained on: below the first look, at the looks, all; ``test_loss``,
    ``test_accuracy`` [R, S] (no accuracy of a regression); ``orders`` [R, N], positions in the
    order of arrival; ``forecast_k`` [G]; those of ``forecast`` and of ``watch`` [J, ...]. The
    networks are refitted at once, but none depends on samples beyond its k.
    """
    ks = sizes(len(problem.order), config.at_least, config.growth, config.validation)
    shuffles = refits.orders(problem, config.repeats, config.at_least)
    networks, _ = refits.fit(problem, config, ks, shuffles, store)
    metrics, tests = tests_of(problem)
    arrays = {"k": ks, "order": problem.order, "orders": shuffles}
    for name, metric in metrics.items():
        arrays[name] = np.array([refits.means(metric, row, tests) for row in networks])
    monitor = js.monitor(
        num_points=config.points, tolerance=config.tolerance, level=LEVEL, at_least=config.at_least
    )
    arrays["forecast_k"], rows = np.geomspace(ks[0], ks[-1], AHEAD), []
    with progress("looking", len(ks) - 1 - PILOTS, "looks") as advance:
        for index in range(PILOTS, len(ks) - 1):
            found = watch(problem, config, monitor, networks[0][index], int(ks[index]))
            ahead = forecast(problem, config, ks, networks, index, arrays["forecast_k"])
            rows.append(found | ahead)
            advance(1)
    return arrays | stacked(rows)


def sizes(n: int, first: int, growth: float, new: int) -> Int[np.ndarray, "S"]:
    """An eighth, a quarter, a half of ``first``; the looks, each with ``new`` to follow; n."""
    found = [first // 8, first // 4, first // 2]
    k = float(first)
    while round(k) + new <= n:
        found.append(round(k))
        k = max(k * growth, found[-1] + 1)
    return np.array([*found, n])


def forecast(
    problem: Problem, config: Any, ks: np.ndarray, networks: list[list[Params]], index: int,
    ahead: Float[np.ndarray, "G"],
) -> Arrays:  # fmt: skip
    """``validated`` [R, S], mean losses on the arrival after a look, NaN of networks to come.

    Of the curve through those of the largest k ``gain``, E(k) − E(k_max), and ``forecast``, E at
    the k ``ahead``, NaN below those fitted, [3] and [3, G]: low, value, high; and its ``misfit``.
    """
    k, few = int(ks[index]), slice(max(0, index + 1 - NEWEST), index + 1)
    new = problem.read(slice(k, k + config.validation))
    validated = np.full((len(networks), len(ks)), np.nan)
    for row, those in enumerate(networks):
        validated[row, : index + 1] = refits.means(problem.loss, those[: index + 1], new)
    key = jax.random.fold_in(problem.keys["probe"], index)
    curve = learning_curve.fit(key, ks[few], validated[:, few], level=LEVEL)
    return {
        "validated": validated, "gain": np.array(curve.gain(k, ks[-1])),
        "forecast": np.where(ahead >= ks[few][0], curve.at(ahead), np.nan),
        "misfit": np.array(curve.misfit),
    }  # fmt: skip


def watch(problem: Problem, config: Any, monitor: Monitor, params: Params, seen: int) -> Arrays:
    """Whether one more sample would reshape the landscape around ``params``, trained on ``seen``.

    That is told by the losses of the samples that arrive next, at points along the top eigenvectors
    of the Hessian of samples seen: ``look_k``, the samples met by then; ``loss_variance`` [3],
    E_q S² of the new ones, and its ``effective``; ``law`` and ``exceedance`` [3], K of the order
    law and of Definition 4 over orders, infinite beyond all numbers; ``monitor_stop``;
    ``eigenvalues`` [d]; ``theorem1`` (see ``moved``). [3] is low, value, high. Losses that are not
    finite, or whose squares are not, are an ``InputError``.
    """
    met = seen + config.validation
    space, values = directions(problem, config, params, seen)
    probe = prepare.probe(problem, params, space, config.points, config.sigma)
    keep = js.reductions.losses(config.points)
    losses = js.evaluate(problem.loss, probe, problem.read(slice(seen, met)), keep)
    said = monitor.decide(monitor.update(monitor.init(), losses), met)
    if np.isnan(said.loss_variance.interval.value):
        raise js.InputError(
            "expected losses around the network whose squares fit float32, found "
            f"{int(said.nonfinite)} of {config.validation} samples with NaN or infinity, or losses "
            "above 1e18; lower --sigma"
        )
    ks = lambda sizes: np.array([float(s.k) if s.reached else np.inf for s in sizes])  # noqa: E731
    return {
        "look_k": np.asarray(met), "eigenvalues": np.asarray(values),
        "loss_variance": np.asarray(said.loss_variance.interval),
        "effective": np.asarray(said.loss_variance.effective),
        "law": ks(said.law), "exceedance": ks(said.exceedance),
        "monitor_stop": np.asarray(said.stop),
        "theorem1": moved(problem, config.sigma, space, seen, met),
    }  # fmt: skip


def moved(
    problem: Problem, sigma: float, space: js.Subspace, seen: int, met: int
) -> Float[np.ndarray, ""]:
    """Theorem 1 for the samples that have just arrived: the stopping rule of Nikitin et al.

    Their Algorithm 1 takes the eigenvalues before and after an arrival at the same network. To
    first order these move by Δλ_j = (1 − seen/met) v_jᵀ(H_new − H_seen)v_j, of the arrival alone
    and of all samples before it.
    """
    vectors = [jax.tree.map(lambda x, j=j: x[j], space.basis) for j in range(space.dim)]

    def curvature(operator: Matvec) -> Float[Array, "d"]:
        products = [jax.tree.map(jnp.vdot, v, operator(v)) for v in vectors]
        return jnp.stack([jnp.stack(jax.tree.leaves(each)).sum() for each in products])

    old = js.hessian_operator(problem.loss, space.origin, problem.samples, count=seen)
    new = js.hessian_operator(problem.loss, space.origin, problem.read(slice(seen, met)))
    return np.asarray(theorem1((1 - seen / met) * (curvature(new) - curvature(old)), sigma))


def directions(
    problem: Problem, config: Any, params: Params, k: int
) -> tuple[js.Subspace, Float[Array, "d"]]:
    """Top eigenvectors and eigenvalues of the Hessian of samples spread evenly over the first k."""
    size = min(HESSIAN, len(problem.order))
    few = problem.read(np.arange(size) * max(k, size) // size)
    operator = js.hessian_operator(problem.loss, params, few, count=min(k, size))
    key = problem.keys["subspace"]
    pairs = js.top_eigenpairs(key, operator, params, config.dim, tol=TOL, find_repeated=False)
    return js.Subspace(params, pairs.vectors), pairs.values
