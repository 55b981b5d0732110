"""A network that is trained while its samples arrive, until the monitor says that they suffice."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import collect_monitor, collect_training, say
from experiments.collect_monitor import Look
from experiments.collect_training import Train
from experiments.problem import Problem
from experiments.progress import progress
from jaxscape.lab import checkpoint
from jaxscape.lab.train import State
from jaxscape.types import Params

Arrays = dict[str, np.ndarray]
Test = Callable[[Params], dict[str, float]]


class Stop(NamedTuple):
    """The first look at which the monitor said stop."""

    number: int  #: of the arrival, from 0 on
    state: State  #: the network at that time


def measure(problem: Problem, config: Any, store: Path) -> Arrays:
    """The arrays of results.npz: A arrivals, C looks, n test samples; accuracies only of classes.

    ``k`` [A], ``test_loss``, ``test_accuracy`` [A] after each arrival; those of
    ``collect_monitor.Look`` [C, ...]; ``order`` [k_max]; ``final_test_loss``,
    ``final_test_accuracy`` [n] of the last network on each test sample. Where it stopped, ``k`` and
    all of the tests once more with ``stopped_`` before the name, from the stop on: of the network
    that trained on without new samples.
    """
    counts = collect_training.arrivals(len(problem.order), config.arrivals)
    metrics = collect_training.metrics(problem)
    train = collect_training.trainer(problem, config)
    test = collect_training.tester(problem, metrics)
    look = collect_monitor.watcher(problem, config)
    at = collect_monitor.looks(counts, config.growth)
    started = time.monotonic()
    state = collect_training.start(problem, config)
    arrays, last, stop = _collect(counts, at, state, train, test, look)
    what = f"{len(counts)} arrivals, {len(at)} looks of the monitor"
    say.stage("collected", what, time.monotonic() - started)
    arrays |= {"order": problem.order, **collect_training.final(problem, metrics, last)}
    networks = {"all": last}
    if stop is not None:
        started = time.monotonic()
        found, networks["stopped"] = _go_on(counts, stop, train, test)
        found |= collect_training.final(problem, metrics, networks["stopped"])
        arrays |= {f"stopped_{name}": values for name, values in found.items()}
        what = f"on {counts[stop.number]:,} samples, the steps that were left"
        say.stage("trained", what, time.monotonic() - started)
    checkpoint.save(store, "collected", networks)
    return arrays


def _collect(
    counts: np.ndarray,
    at: np.ndarray,
    state: State,
    train: Train,
    test: Test,
    look: Callable[[Params, int], Look],
) -> tuple[Arrays, Params, Stop | None]:
    """Train on all that arrive. The monitor looks on after its stop: would it stand by it?"""
    stop, tested, said = None, [], []
    with progress("collecting", len(counts), "arrivals") as advance:
        for number, k in enumerate(counts.tolist()):
            state = train(state, number, k)
            tested.append(test(state.params))
            if k in at:
                said.append(look(state.params, k))
                if said[-1].stop and stop is None:
                    stop = Stop(number, state)
            advance(1)
    looks = _columns([seen._asdict() for seen in said])
    return {"k": counts, **_columns(tested), **looks}, state.params, stop


def _go_on(counts: np.ndarray, stop: Stop, train: Train, test: Test) -> tuple[Arrays, Params]:
    """Train the network of the stop on what it has met, while the other's samples arrive."""
    k, state = int(counts[stop.number]), stop.state
    tested = [test(state.params)]
    for number in range(stop.number + 1, len(counts)):
        state = train(state, number, k)
        tested.append(test(state.params))
    return {"k": counts[stop.number :], **_columns(tested)}, state.params


def _columns(rows: Sequence[dict[str, Any]]) -> Arrays:
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}
