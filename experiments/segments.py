"""The samples of a problem in segments of equal length, so that one compiled program serves all."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.problem import Problem
from jaxscape.chunks import cut
from jaxscape.lab import stream
from jaxscape.types import Batch

SIZE = 4000
"""Samples between two chances to report, save or stop."""


class Segment(NamedTuple):
    """Samples ``start`` to ``stop``, of which the first ``skip`` have been met before."""

    start: int
    stop: int
    skip: int
    samples: Batch


def of(problem: Problem, size: int, met: int = 0) -> Iterator[Segment]:
    """What is left of the samples after ``met`` of them, each read when it is asked for."""
    total = len(problem.order)
    length = cut(total, size).size
    while met < total:
        start = min(met, total - length)
        stop = start + length
        samples = jax.device_put(problem.read(slice(start, stop)))
        yield Segment(start, stop, met - start, samples)
        met = stop


def rows(problem: Problem, function: Callable[[Batch], Any]) -> Any:
    """What ``function`` gives of each sample, leaves [k_max, ...] in memory."""
    found = []
    for segment in of(problem, SIZE):
        kept = function(segment.samples)
        stream.wait(kept)
        found.append(jax.tree.map(lambda leaf, skip=segment.skip: np.asarray(leaf)[skip:], kept))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *found)
