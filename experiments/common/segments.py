"""The samples of a problem in segments of equal length, so that one compiled program serves all.

The sweep over all samples at every sigma, segment by segment, so that it can be resumed.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from experiments.common import devices
from experiments.common.console import progress
from experiments.common.problem import Problem
from jaxscape import reductions, sweep
from jaxscape.batching import cut
from jaxscape.lab import checkpoint, stream
from jaxscape.probes import Probe
from jaxscape.reductions import Delta
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


SEGMENT = SIZE
"""Samples between two chances to report, save or stop."""


class Sweep(NamedTuple):
    """How far a sweep has come: for each of s sigmas."""

    done: list[tuple[np.ndarray, sweep.Carry]]  #: samples met [1], what is carried on [m]
    rows: list[Any]  #: what is kept of each sample, [k_max]
    seconds: np.ndarray  #: [1] spent so far


def run(
    problem: Problem,
    probes: Sequence[Probe],
    store: Path,
    *,
    checkpoint_every: float,
    precision: str,
    mesh: Mesh | None,
) -> tuple[list[Delta], float]:
    """The curve of every probe over the problem's samples, and the seconds it took."""
    options = {"precision": precision, "mesh": mesh}
    state = _begin(problem, probes, mesh)
    if devices.decide(lambda: checkpoint.exists(store, "sweep")):
        state = devices.from_first(lambda: checkpoint.restore(store, "sweep", state), state)
        state = state._replace(rows=jax.tree.map(np.array, state.rows))  # written in place
    length = len(problem.order)
    started = saved = time.monotonic()
    before = float(state.seconds[0])
    curves = []
    try:
        met = sum(int(position[0]) for position, _ in state.done)
        with progress("sweep", length * len(probes), f"samples at {len(probes)} σ", met) as advance:
            for index, probe in enumerate(probes):
                for count in _segments(problem, probe, state, index, options):
                    advance(count)
                    due = time.monotonic() - saved >= checkpoint_every
                    if devices.decide(lambda: due):  # noqa: B023
                        seconds = before + time.monotonic() - started
                        devices.together(functools.partial(_save, store, state, seconds))
                        saved = time.monotonic()
                carry = sweep.in_blocks(probe, state.done[index][1], mesh=mesh)
                keep = reductions.delta_of(probe)
                curve = sweep.finish(probe, carry, state.rows[index], keep, mesh=mesh)
                sweep.check_delta(curve, probe.num_points)
                curves.append(jax.tree.map(np.asarray, curve))
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):  # the last good save is kept
            _save(store, state, before + time.monotonic() - started)
        raise
    seconds = before + time.monotonic() - started
    devices.together(lambda: _save(store, state, seconds))
    return curves, seconds


def _begin(problem: Problem, probes: Sequence[Probe], mesh: Mesh | None) -> Sweep:
    """The sweep before its first sample."""
    rows, carries = [], []
    for probe in probes:
        keep = reductions.delta_of(probe)
        row = jax.eval_shape(lambda keep=keep: keep.init(1, len(problem.order))[1])
        rows.append(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), row))
        carry = sweep.begin(probe, keep, mesh=mesh)
        carries.append(sweep.by_point(probe, carry, mesh=mesh))
    return Sweep([(np.zeros(1, np.int32), carry) for carry in carries], rows, _seconds(0))


def _segments(
    problem: Problem, probe: Probe, state: Sweep, index: int, options: dict[str, Any]
) -> Iterator[int]:
    """Carry ``state`` on over what is left at one sigma; of each segment how many were new."""
    left = of(problem, SEGMENT, int(state.done[index][0][0]))
    coming, keep = next(left, None), reductions.delta_of(probe)
    while coming is not None:
        segment = coming
        carry = sweep.in_blocks(probe, state.done[index][1], mesh=options["mesh"])
        carry, rows = sweep.advance(
            problem.loss, probe, segment.samples, carry, keep, skip=segment.skip, **options
        )
        coming = next(left, None)  # read while the device is at work
        stream.wait((carry, rows))
        _write(state.rows[index], rows, segment)
        points = sweep.by_point(probe, carry, mesh=options["mesh"])
        # one assignment, so that an interruption never parts the position from the carry
        state.done[index] = (np.array([segment.stop], np.int32), points)
        yield segment.stop - segment.start - segment.skip


def _write(whole: Any, rows: Any, segment: Segment) -> None:
    """Put the rows of a segment's new samples in their place."""

    def write(leaf: np.ndarray, part: jax.Array) -> None:
        leaf[segment.start + segment.skip : segment.stop] = np.asarray(part)[segment.skip :]

    jax.tree.map(write, whole, rows)


def _save(store: Path, state: Sweep, seconds: float) -> None:
    if devices.first():
        checkpoint.save(store, "sweep", state._replace(seconds=_seconds(seconds)))


def _seconds(value: float) -> np.ndarray:
    return np.array([value], np.float32)
