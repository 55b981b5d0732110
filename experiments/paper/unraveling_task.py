"""What the networks of several widths and depths are given: inputs from −1 to 1, targets."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.problem import Problem
from jaxscape import InputError
from jaxscape.types import Batch


class Task(NamedTuple):
    """What the networks are given: inputs from −1 to 1, targets."""

    samples: Batch
    tests: Batch | None
    num_outputs: int


def of(problem: Problem) -> Task:
    """The problem's data, its inputs scaled so that the training samples' span −1 to 1.

    Images, whose values go from 0 to 1, become 2x − 1.

    Raises:
        InputError: inputs that are all equal.
    """
    inputs = problem.samples["inputs"]
    num_outputs = jax.eval_shape(problem.apply, problem.initial, inputs[:1]).shape[-1]
    low, high = float(jnp.min(inputs)), float(jnp.max(inputs))
    if not low < high:
        raise InputError(
            f"expected inputs that differ, to be scaled to [-1, 1], found {low} everywhere; "
            "look at the data"
        )

    def ready(inputs: Any, targets: Any) -> Batch:
        targets = jnp.asarray(targets)
        if not jnp.issubdtype(targets.dtype, jnp.integer):
            targets = targets.reshape(-1, num_outputs)
        return {"inputs": 2 * (jnp.asarray(inputs) - low) / (high - low) - 1, "targets": targets}

    dataset = problem.dataset
    tests = None
    if dataset.test_inputs is not None:
        tests = ready(dataset.test_inputs, dataset.test_targets)
    return Task(ready(inputs, problem.samples["targets"]), tests, num_outputs)
