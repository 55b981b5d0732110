"""Δ_k and the losses that the published computation takes it from, in one pass over the samples."""

import functools
from typing import Any

from jaxtyping import Array, Float

import jaxscape as js
from jaxscape import landscape
from jaxscape.prefix import Prefix, Steps
from jaxscape.probes import Probe
from jaxscape.reductions import Delta, Reduction
from jaxscape.types import Batch, PerSampleLoss


def delta_and_losses(
    loss: PerSampleLoss, probe: Probe, data: Batch
) -> tuple[Delta, Float[Array, "m n"]]:
    """What ``js.delta`` gives, and ℓ_i(w) of every sample at every point.

    Raises:
        InputError: see ``js.delta``.
    """
    m = probe.num_points
    curve, losses = js.evaluate(
        loss, probe, data, both(js.reductions.delta, js.reductions.losses(m))
    )
    landscape.check_delta(curve, m)
    return curve, losses


@functools.cache  # the same reduction is the same compiled program
def both(first: Reduction, second: Reduction) -> Reduction:
    """Two reductions side by side; the result is the pair of theirs."""
    pair = (first, second)

    def init(t: int, b: int) -> tuple[Any, Any]:
        return _swapped(each.init(t, b) for each in pair)

    def update(state: tuple[Any, Any], steps: Steps, index: Array, weight: Array):
        each = zip(pair, _swapped(state), strict=True)
        return _swapped(one.update(own, steps, index, weight) for one, own in each)

    def finalize(by_point: Any, by_sample: Any, prefix: Prefix) -> tuple[Any, ...]:
        each = zip(pair, by_point, by_sample, strict=True)
        return tuple(one.finalize(points, samples, prefix) for one, points, samples in each)

    return Reduction(init, update, finalize)


def _swapped(rows: Any) -> tuple[Any, ...]:
    """((a, b), (c, d)) as ((a, c), (b, d))."""
    return tuple(zip(*rows, strict=True))
