"""Training of a network on the samples met so far, while more arrive."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxscape as js
from experiments.problem import Problem
from jaxscape import InputError
from jaxscape.lab import refit
from jaxscape.lab.train import State, correct, mean_loss
from jaxscape.types import Batch, Params, PerSampleLoss

Train = Callable[[State, int, int], State]


def arrivals(n: int, size: int) -> np.ndarray:
    """Samples met after each arrival of ``size``; the last brings what is left of n."""
    return np.minimum(np.arange(1, -(-n // size) + 1) * size, n)


def steps(problem: Problem, config: Any) -> int:
    """Optimiser steps per arrival: all together, as many as ``epochs`` passes over k_max take."""
    n = len(problem.order)
    return -(-config.epochs * n // (config.batch_size * len(arrivals(n, config.arrivals))))


def start(problem: Problem, config: Any) -> State:
    """The network as initialised."""
    return State(problem.initial, optax.adam(config.learning_rate).init(problem.initial))


def trainer(problem: Problem, config: Any) -> Train:
    """``train(state, number, k)``: the steps after arrival ``number``, on the first k samples.

    One compiled program for every number and k: see ``jaxscape.lab.refit.epoch``. Of two networks,
    the steps after the same arrival have the same keys, whatever their k.
    """
    optimizer = optax.adam(config.learning_rate)
    each = steps(problem, config)
    run = jax.jit(refit.epoch(problem.loss, optimizer, steps=each, batch_size=config.batch_size))
    order = jnp.arange(len(problem.order))

    def train(state: State, number: int, k: int) -> State:
        key = jax.random.fold_in(problem.keys["train"], number)
        return run(state, key, jnp.asarray(k, jnp.int32), problem.samples, order)

    return train


def metrics(problem: Problem) -> dict[str, PerSampleLoss]:
    """What is measured on each test sample: the loss; of classes, 1 where it is told right."""

    def right(params: Params, batch: Batch) -> jax.Array:
        return correct(problem.apply(params, batch["inputs"]), batch["targets"])

    found = {"test_loss": problem.loss}
    return found | {"test_accuracy": right} if problem.dataset.num_classes else found


def tester(
    problem: Problem, measured: dict[str, PerSampleLoss]
) -> Callable[[Params], dict[str, float]]:
    """``test(params)``: the means over the test split of what is ``measured``.

    Raises:
        InputError: a loss that is not finite, as that of a network which diverged.
    """
    samples = _split(problem)

    def test(params: Params) -> dict[str, float]:
        found = {
            name: float(mean_loss(metric, params, samples, batch_size=refit.TEST_BATCH))
            for name, metric in measured.items()
        }
        if not np.isfinite(found["test_loss"]):
            raise InputError(
                f"expected a finite test loss, found {found['test_loss']}; lower --learning-rate, "
                "or look for NaN in the inputs"
            )
        return found

    return test


def final(
    problem: Problem, measured: dict[str, PerSampleLoss], params: Params
) -> dict[str, np.ndarray]:
    """What is ``measured`` of each sample of the test split, under its name after ``final_``."""
    return {
        f"final_{name}": np.asarray(js.per_sample_losses(metric, params, _split(problem)))
        for name, metric in measured.items()
    }


def _split(problem: Problem) -> Batch:
    data = problem.dataset
    return {"inputs": jnp.asarray(data.test_inputs), "targets": jnp.asarray(data.test_targets)}
