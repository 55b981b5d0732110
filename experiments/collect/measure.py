"""A network that is trained while its samples arrive, and what the monitor says meanwhile."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import jaxscape as js
from experiments.common import console, prepare
from experiments.common.bounds import theorem1
from experiments.common.console import progress
from experiments.common.problem import Problem, tests_of
from experiments.common.tables import stacked
from jaxscape import InputError, reductions
from jaxscape.lab import checkpoint
from jaxscape.lab.train import State, adam, descend, drawn, mean_loss
from jaxscape.loss_variance import Interval
from jaxscape.monitor import Decision
from jaxscape.types import Batch, Matvec, Params, PerSampleLoss, Probe

Arrays = dict[str, np.ndarray]
Train = Callable[[State, int, int], State]
Tests = tuple[dict[str, PerSampleLoss], Batch]

TEST_BATCH = 1000
"""Test samples per chunk."""

LEVEL = 0.9
"""Of every interval."""

TOL = 1e-2
"""Relative residual of the eigenpairs, which only their span is wanted of."""


def measure(problem: Problem, config: Any, store: Path) -> Arrays:
    """The arrays of results.npz: A arrivals, C looks, n test samples; accuracies only of classes.

    ``k`` [A], ``test_loss``, ``test_accuracy`` [A] after each arrival; those of ``watcher``
    [C, ...]; ``order`` [k_max]; ``final_test_loss``, ``final_test_accuracy`` [n] of the last
    network on each test sample. Where it stopped, ``k`` and all of the tests once more with
    ``stopped_`` before the name, from the stop on: of the network that trained on without new
    samples.
    """
    counts = arrivals(len(problem.order), config.arrivals)
    at = looks(counts, config.growth)
    state, train = trainer(problem, config)
    look, tests = watcher(problem, config), tests_of(problem)
    stops: list[tuple[int, State]] = []
    tested, said = [], []
    what = f"{len(counts)} arrivals, {len(at)} looks of the monitor"
    counted = progress("collecting", len(counts), "arrivals")
    with console.timed("collected", what), counted as advance:
        for number, k in enumerate(counts.tolist()):
            if k in at:  # also after the first stop; before it trains on what has just arrived
                said.append(look(state.params, int(counts[number - 1]) if number else 0, k))
            state = train(state, number, k)
            tested.append(scores(*tests, state.params))
            if k in at and said[-1]["stop"] and not stops:
                stops.append((number, state))
            advance(1)
    networks = {"all": state.params}
    arrays = {"k": counts, "order": problem.order, **stacked(tested), **stacked(said)}
    arrays |= final(*tests, state.params)
    if stops:
        stop, state = stops[0]
        with console.timed("trained", f"on {counts[stop]:,} samples, the steps that were left"):
            found, networks["stopped"] = _go_on(counts, stop, state, train, tests)
        arrays |= {f"stopped_{name}": values for name, values in found.items()}
    checkpoint.save(store, "collected", networks)
    return arrays


def _go_on(
    counts: np.ndarray, stop: int, state: State, train: Train, tests: Tests
) -> tuple[Arrays, Params]:
    """Train the network of arrival ``stop`` on what it has met, as many steps as the other."""
    tested = [scores(*tests, state.params)]
    for number in range(stop + 1, len(counts)):
        state = train(state, number, int(counts[stop]))
        tested.append(scores(*tests, state.params))
    found = {"k": counts[stop:], **stacked(tested), **final(*tests, state.params)}
    return found, state.params


def arrivals(n: int, size: int) -> np.ndarray:
    """Samples met after each arrival of ``size``; the last brings two or more of what is left."""
    counts = np.minimum(np.arange(1, -(-n // size) + 1) * size, n)
    return np.delete(counts, -2) if len(counts) > 1 and counts[-1] - counts[-2] < 2 else counts


def steps(problem: Problem, config: Any) -> int:
    """Optimiser steps per arrival: all together, as many as ``epochs`` passes over k_max take."""
    n = len(problem.order)
    return -(-config.epochs * n // (config.batch_size * len(arrivals(n, config.arrivals))))


def trainer(problem: Problem, config: Any) -> tuple[State, Train]:
    """The network as initialised; ``train(state, number, k)``: the steps after arrival ``number``.

    They are taken on the first k samples. One compiled program serves every number and k: see
    ``jaxscape.lab.train.drawn``. Of two networks, the steps after the same arrival have the same
    keys, whatever their k.
    """
    optimizer = adam(config.learning_rate, config.weight_decay)
    each = steps(problem, config)

    @jax.jit
    def run(state: State, key: jax.Array, k: jax.Array, samples: Batch) -> State:
        batches = drawn(key, k, steps=each, batch_size=config.batch_size)
        return descend(problem.loss, optimizer, state, samples, batches)[0]

    def train(state: State, number: int, k: int) -> State:
        key = jax.random.fold_in(problem.keys["train"], number)
        return run(state, key, jnp.asarray(k, jnp.int32), problem.samples)

    return State(problem.initial, optimizer.init(problem.initial)), train


def scores(metrics: dict[str, PerSampleLoss], samples: Batch, params: Params) -> dict[str, float]:
    """The means of ``metrics`` over the test samples.

    Raises:
        InputError: a loss that is not finite, as that of a network which diverged.
    """
    found = {
        name: float(mean_loss(metric, params, samples, batch_size=TEST_BATCH))
        for name, metric in metrics.items()
    }
    if not np.isfinite(found["test_loss"]):
        raise InputError(
            f"expected a finite test loss, found {found['test_loss']}; lower --learning-rate, "
            "or look for NaN in the inputs"
        )
    return found


def final(metrics: dict[str, PerSampleLoss], samples: Batch, params: Params) -> Arrays:
    """The ``metrics`` of each test sample, under their names after ``final_``."""
    return {
        f"final_{name}": np.asarray(js.per_sample_losses(metric, params, samples))
        for name, metric in metrics.items()
    }


def looks(counts: np.ndarray, growth: float) -> np.ndarray:
    """Where among ``counts`` the monitor looks: at the first, then from ``growth`` times the last
    look on, and at the end.
    """
    chosen = [counts[0]]
    for k in counts[1:]:
        if k >= growth * chosen[-1] or k == counts[-1]:
            chosen.append(k)
    return np.array(chosen)


def spread(k: int, size: int) -> tuple[np.ndarray, int]:
    """``size`` positions and how many of them count: evenly spaced below k, or the first k."""
    return np.arange(size) * max(k, size) // size, min(k, size)


def watcher(problem: Problem, config: Any) -> Callable[[Params, int, int], Arrays]:
    """``look(params, seen, met)``: whether one more sample would reshape the landscape.

    ``params`` have been trained on the first ``seen`` samples; those up to ``met`` have just
    arrived, and what is said of new samples is from their losses.

    ``look_k`` are the samples met, ``loss_variance`` [3] is E_q S² of the new ones, ``effective``
    and ``trend`` as of ``LossVariance``, ``law`` [3] K of the order law, ``exceedance`` [3] K of
    Definition 4 over orders, ``stop`` the decision. ``loss_variance_seen`` is E_q S² of the samples
    that the network has been trained on, NaN before it is. [3] is low, value, high, infinite beyond
    all numbers. Along eigenvectors there are ``eigenvalues`` [d] and ``theorem1`` (see ``moved``).

    A monitor's evidence belongs to fixed points, so it starts from nothing at each look: the
    directions through ``params`` are found, and the samples are streamed through it at new points,
    ``arrivals`` at a time. No sample from position ``met`` on is read.

    Raises:
        InputError: losses that are not finite, or whose squares are not.
    """
    keep = reductions.losses(config.points)
    asked = {"tolerance": config.tolerance, "at_least": config.at_least}
    monitor = js.monitor(num_points=config.points, level=LEVEL, **asked)

    def of(probe: Probe, start: int, stop: int) -> Decision:
        state = monitor.init()
        for first in range(start, stop, config.arrivals):
            rows = slice(first, min(first + config.arrivals, stop))
            segment = jax.tree.map(lambda leaf, rows=rows: leaf[rows], problem.samples)
            state = monitor.update(state, js.evaluate(problem.loss, probe, segment, keep))
        return monitor.decide(state, stop)

    def look(params: Params, seen: int, met: int) -> Arrays:
        space, values = directions(problem, config, params, seen or met)
        probe = prepare.probe(problem, params, space, config.points, config.sigma)
        found = _numbers(of(probe, seen, met)) | {"look_k": np.asarray(met)}
        own = _numbers(of(probe, 0, seen))["loss_variance"][1] if seen > 1 else np.nan
        found["loss_variance_seen"] = np.asarray(own)
        if values is not None:
            found["eigenvalues"] = np.asarray(values)
            found["theorem1"] = moved(problem, config.sigma, space, seen, met)
        return found

    return look


def moved(
    problem: Problem, sigma: float, space: js.Subspace, seen: int, met: int
) -> Float[np.ndarray, ""]:
    """Theorem 1 for the samples that have just arrived: the stopping rule of Nikitin et al.

    Their Algorithm 1 takes the eigenvalues before and after an arrival at the same network. To
    first order these move by Δλ_j = (1 − seen/met) v_jᵀ(H_new − H_seen)v_j, of the arrival alone
    and of all samples before it. NaN where there is nothing before.
    """
    if not seen:
        return np.asarray(np.nan, np.float32)
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
) -> tuple[js.Subspace, Float[Array, "d"] | None]:
    """The directions of the settings' kind through ``params``, and their eigenvalues, if any.

    From the first k samples alone. The Hessian is that of samples spread evenly over them, whatever
    the order.
    """
    if config.subspace != "hessian":
        return prepare.at_random(problem, params, config.subspace, config.dim), None
    rows, count = spread(k, min(config.hessian_samples, len(problem.order)))
    few = jax.tree.map(lambda leaf: leaf[rows], problem.samples)
    operator = js.hessian_operator(problem.loss, params, few, count=count)
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
        "trend": np.asarray(variance.trend),
        "law": _sizes(said.law),
        "exceedance": _sizes(said.exceedance),
        "stop": np.asarray(said.stop),
    }


def _sizes(interval: Interval) -> np.ndarray:
    return np.array([float(size.k) if size.reached else np.inf for size in interval])
