"""The sweep over all samples at every sigma, segment by segment, so that it can be resumed."""

import contextlib
import functools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from experiments import hosts, segments
from experiments.problem import Problem
from experiments.progress import progress
from experiments.segments import Segment
from jaxscape import grouped, landscape
from jaxscape.lab import checkpoint, stream
from jaxscape.probes import Probe
from jaxscape.reductions import Delta

SEGMENT = segments.SIZE
"""Samples between two chances to report, save or stop."""


class Sweep(NamedTuple):
    """How far a sweep has come: for each of s sigmas."""

    done: list[tuple[np.ndarray, landscape.Carry]]  #: samples met [1], what is carried on [m]
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
    if hosts.decide(lambda: checkpoint.exists(store, "sweep")):
        state = hosts.from_first(lambda: checkpoint.restore(store, "sweep", state), state)
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
                    if hosts.decide(lambda: due):  # noqa: B023
                        seconds = before + time.monotonic() - started
                        hosts.together(functools.partial(_save, store, state, seconds))
                        saved = time.monotonic()
                carry = landscape.in_blocks(probe, state.done[index][1], mesh=mesh)
                keep = grouped.delta_of(probe)
                curve = landscape.finish(probe, carry, state.rows[index], keep, mesh=mesh)
                landscape.check_delta(curve, probe.num_points)
                curves.append(jax.tree.map(np.asarray, curve))
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):  # the last good save is kept
            _save(store, state, before + time.monotonic() - started)
        raise
    seconds = before + time.monotonic() - started
    hosts.together(lambda: _save(store, state, seconds))
    return curves, seconds


def _begin(problem: Problem, probes: Sequence[Probe], mesh: Mesh | None) -> Sweep:
    """The sweep before its first sample."""
    rows, carries = [], []
    for probe in probes:
        keep = grouped.delta_of(probe)
        row = jax.eval_shape(lambda keep=keep: keep.init(1, len(problem.order))[1])
        rows.append(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), row))
        carry = landscape.begin(probe, keep, mesh=mesh)
        carries.append(landscape.by_point(probe, carry, mesh=mesh))
    return Sweep([(np.zeros(1, np.int32), carry) for carry in carries], rows, _seconds(0))


def _segments(
    problem: Problem, probe: Probe, state: Sweep, index: int, options: dict[str, Any]
) -> Iterator[int]:
    """Carry ``state`` on over what is left at one sigma; of each segment how many were new."""
    left = segments.of(problem, SEGMENT, int(state.done[index][0][0]))
    coming, keep = next(left, None), grouped.delta_of(probe)
    while coming is not None:
        segment = coming
        carry = landscape.in_blocks(probe, state.done[index][1], mesh=options["mesh"])
        carry, rows = landscape.advance(
            problem.loss, probe, segment.samples, carry, keep, skip=segment.skip, **options
        )
        coming = next(left, None)  # read while the device is at work
        stream.wait((carry, rows))
        _write(state.rows[index], rows, segment)
        points = landscape.by_point(probe, carry, mesh=options["mesh"])
        # one assignment, so that an interruption never parts the position from the carry
        state.done[index] = (np.array([segment.stop], np.int32), points)
        yield segment.stop - segment.start - segment.skip


def _write(whole: Any, rows: Any, segment: Segment) -> None:
    """Put the rows of a segment's new samples in their place."""

    def write(leaf: np.ndarray, part: jax.Array) -> None:
        leaf[segment.start + segment.skip : segment.stop] = np.asarray(part)[segment.skip :]

    jax.tree.map(write, whole, rows)


def _save(store: Path, state: Sweep, seconds: float) -> None:
    if hosts.first():
        checkpoint.save(store, "sweep", state._replace(seconds=_seconds(seconds)))


def _seconds(value: float) -> np.ndarray:
    return np.array([value], np.float32)
