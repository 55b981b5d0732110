"""What the monitor makes of the landscape around a network that is still being trained."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxscape as js
from experiments import prepare
from experiments.problem import Problem
from jaxscape import InputError, reductions
from jaxscape.intervals import Interval
from jaxscape.stopping import Decision
from jaxscape.types import Params

LEVEL = 0.9
"""Of every interval."""
TOL = 1e-2
"""Relative residual of the eigenpairs, which only their span is wanted of."""


class Look(NamedTuple):
    """A decision, as numbers: every interval is low, value, high, infinite beyond all numbers."""

    look_k: np.ndarray  #: samples met
    loss_variance: np.ndarray  #: E_q S², ``[3]``
    effective: np.ndarray  #: by how many samples it is carried
    law: np.ndarray  #: K of the order law, ``[3]``
    exceedance: np.ndarray  #: K of Definition 4 over orders, ``[3]``
    stop: np.ndarray


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


def watcher(problem: Problem, config: Any) -> Callable[[Params, int], Look]:
    """``look(params, k)``: whether sample k + 1 would still reshape the landscape around them.

    A monitor's evidence belongs to fixed points, so it starts from nothing at each look: the
    directions through ``params`` are found, and all k samples met are streamed through it at new
    points, ``arrivals`` at a time. No sample from position k on is read.

    Raises:
        InputError: losses that are not finite, or whose squares are not.
    """
    keep = reductions.losses(config.points)
    monitor = js.monitor(
        num_points=config.points,
        tolerance=config.tolerance,
        level=LEVEL,
        at_least=config.at_least,
    )

    def look(params: Params, k: int) -> Look:
        space = _space(problem, config, params, k)
        probe = prepare.probe(problem, params, space, config.points, config.sigma)
        state = monitor.init()
        for first in range(0, k, config.arrivals):
            met = slice(first, min(first + config.arrivals, k))
            segment = jax.tree.map(lambda leaf, met=met: leaf[met], problem.samples)
            state = monitor.update(state, js.evaluate(problem.loss, probe, segment, keep))
        return _numbers(monitor.decide(state))

    return look


def _space(problem: Problem, config: Any, params: Params, k: int) -> js.Subspace:
    """The directions of the settings' kind through ``params``, from the first k samples alone.

    The Hessian is that of samples spread evenly over them, whatever the order."""
    key = problem.keys["subspace"]
    if config.subspace == "hessian":
        rows, count = spread(k, min(config.hessian_samples, len(problem.order)))
        few = jax.tree.map(lambda leaf: leaf[rows], problem.samples)
        operator = js.hvp(problem.loss, params, few, count=count)
        pairs = js.top_eigenpairs(operator, params, config.dim, key=key, tol=TOL)
        return js.Subspace(params, pairs.vectors)
    return js.random_subspace(
        key, params, config.dim, normalization="filter" if config.subspace == "filter" else "unit"
    )


def _numbers(said: Decision) -> Look:
    bad = int(said.nonfinite)
    if bad:
        raise InputError(
            f"expected finite losses around the network, found NaN or infinity for {bad} of "
            f"{int(said.count)} samples; lower --sigma"
        )
    if np.isnan(said.loss_variance.interval.value):
        raise InputError(
            "expected losses around the network whose squares fit float32, found losses above "
            "1e18; lower --sigma"
        )
    return Look(
        np.asarray(said.count),
        np.asarray(said.loss_variance.interval),
        np.asarray(said.loss_variance.effective),
        _sizes(said.law),
        _sizes(said.exceedance),
        np.asarray(said.stop),
    )


def _sizes(interval: Interval) -> np.ndarray:
    return np.array([float(size.k) if size.reached else np.inf for size in interval])
