"""The samples segment by segment: the sweep, which can be resumed, and the quadratic law.

Segments have equal length, so that one compiled program serves all.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

import jaxscape as js
from experiments.common.console import progress
from experiments.common.problem import Problem
from jaxscape import quadratic, reductions, sweep
from jaxscape.batching import cut
from jaxscape.lab import checkpoint, stream
from jaxscape.reductions import Delta
from jaxscape.types import Batch, Probe

SIZE = 4000
"""Samples between two chances to report, save or stop."""

MAX_LAW_DIM = 32
"""Second derivatives cost d² forward passes; for a larger subspace the law is left out."""


class Segment(NamedTuple):
    """Samples ``start`` to ``stop``, of which an earlier segment held the first ``skip``."""

    start: int
    stop: int
    skip: int
    samples: Batch


def of(problem: Problem, size: int, done: int = 0) -> Iterator[Segment]:
    """The samples after the first ``done``, each segment read when it is asked for."""
    total = len(problem.order)
    length = cut(total, size).size
    while done < total:
        start = min(done, total - length)
        stop = start + length
        samples = jax.device_put(problem.read(slice(start, stop)))
        yield Segment(start, stop, done - start, samples)
        done = stop


def rows(problem: Problem, function: Callable[[Batch], Any]) -> Any:
    """What ``function`` gives for each sample, leaves [k_max, ...] in memory."""
    found = []
    for segment in of(problem, SIZE):
        kept = function(segment.samples)
        stream.wait(kept)
        found.append(jax.tree.map(lambda leaf, skip=segment.skip: np.asarray(leaf)[skip:], kept))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *found)


def law(
    problem: Problem,
    space: js.Subspace | None,
    sigmas: Sequence[float],
    mesh: Mesh | None = None,
) -> dict[str, np.ndarray]:
    """The quadratic law of every k, ``law_*`` [s, K].

    Empty for all parameters at once and for more than ``MAX_LAW_DIM`` directions.
    """
    if space is None or space.dim > MAX_LAW_DIM:
        return {}
    wanted, carry, found = np.asarray(sigmas, np.float32), quadratic.begin(space.dim), []
    for segment in of(problem, SIZE):
        model = js.project(problem.loss, space, segment.samples, mesh=mesh)
        carry, laws = quadratic.advance(carry, model, wanted, segment.skip)
        stream.wait(laws)
        found.append(jax.tree.map(lambda x, skip=segment.skip: np.asarray(x)[:, skip:], laws))
    whole = jax.tree.map(lambda *parts: np.concatenate(parts, 1)[:, 1:], *found)
    return {f"law_{name}": values for name, values in whole._asdict().items()}


class Sweep(NamedTuple):
    """The state of a sweep, for each of s sigmas."""

    done: list[tuple[np.ndarray, sweep.Carry]]  #: number of samples done [1], carry [m]
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
    """The curve of every probe over the problem's samples, and the seconds it took.

    Args:
        problem: the samples and the loss.
        probes: the points at each sigma.
        store: where the state is saved, and restored from if it is there.
        checkpoint_every: seconds between two saves.
        precision: of matrix products.
        mesh: the devices that share the work.
    """
    state = _begin(problem, probes)
    if checkpoint.exists(store, "sweep"):
        state = checkpoint.restore(store, "sweep", state)
        state = state._replace(rows=jax.tree.map(np.array, state.rows))  # written in place
    started = saved = time.monotonic()
    before = float(state.seconds[0])

    def save() -> None:
        spent = before + time.monotonic() - started
        checkpoint.save(store, "sweep", state._replace(seconds=_seconds(spent)))

    done = sum(int(position[0]) for position, _ in state.done)
    total = len(problem.order) * len(probes)
    curves = []
    try:
        with progress("sweep", total, f"samples at {len(probes)} σ", done) as advance:
            for index, probe in enumerate(probes):
                for count in _segments(problem, probe, state, index, precision, mesh):
                    advance(count)
                    due = np.int32(time.monotonic() - saved >= checkpoint_every)
                    if multihost_utils.broadcast_one_to_all(due):  # all processes save together
                        save()
                        saved = time.monotonic()
                curves.append(_finish(probe, state, index))
    except KeyboardInterrupt:
        if jax.process_count() == 1:
            with contextlib.suppress(OSError):  # the last good save is kept
                save()
        raise
    save()
    return curves, before + time.monotonic() - started


def _begin(problem: Problem, probes: Sequence[Probe]) -> Sweep:
    """The state before the first sample."""
    rows, carries = [], []
    for probe in probes:
        keep = reductions.delta_of(probe)
        row = jax.eval_shape(lambda keep=keep: keep.init(1, len(problem.order))[1])
        rows.append(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), row))
        carries.append(sweep.begin(probe, keep))
    return Sweep([(np.zeros(1, np.int32), carry) for carry in carries], rows, _seconds(0))


def _segments(
    problem: Problem, probe: Probe, state: Sweep, index: int, precision: str, mesh: Mesh | None
) -> Iterator[int]:
    """Advance ``state`` over the samples left at one sigma; yield how many each segment added."""
    left = of(problem, SIZE, int(state.done[index][0][0]))
    coming, keep = next(left, None), reductions.delta_of(probe)
    while coming is not None:
        segment = coming
        carry, rows = sweep.advance(
            problem.loss, probe, segment.samples, state.done[index][1], keep,
            skip=segment.skip, precision=precision, mesh=mesh,
        )  # fmt: skip
        coming = next(left, None)  # read while the device computes
        stream.wait((carry, rows))
        _write(state.rows[index], rows, segment)
        # one assignment, so that an interruption never separates the position from the carry
        state.done[index] = (np.array([segment.stop], np.int32), carry)
        yield segment.stop - segment.start - segment.skip


def _finish(probe: Probe, state: Sweep, index: int) -> Delta:
    """The curve of one sigma from its final state."""
    keep = reductions.delta_of(probe)
    curve = sweep.finish(state.done[index][1], state.rows[index], keep)
    sweep.check_delta(curve, probe.num_points)
    return jax.tree.map(np.asarray, curve)


def _write(whole: Any, rows: Any, segment: Segment) -> None:
    """Put the rows of a segment's new samples in their place."""

    def write(leaf: np.ndarray, part: jax.Array) -> None:
        leaf[segment.start + segment.skip : segment.stop] = np.asarray(part)[segment.skip :]

    jax.tree.map(write, whole, rows)


def _seconds(value: float) -> np.ndarray:
    return np.array([value], np.float32)
