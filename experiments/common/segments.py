"""The samples segment by segment: the sweep, which can be resumed, and the quadratic law.

Segments have equal length, so that one compiled program serves all.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import Array, Float

import jaxscape as js
from experiments.common import console
from experiments.common.console import progress
from experiments.common.problem import Problem
from jaxscape import InputError, quadratic, reductions, sweep
from jaxscape.batching import cut, host
from jaxscape.lab import checkpoint, stream
from jaxscape.reductions import Delta
from jaxscape.trees import num_parameters
from jaxscape.types import Batch, Probe

SIZE = 10_000
"""Samples between two chances to report, save or stop, on a CPU a second of work or less."""

WORK, BYTES = 5e13, 2**30
"""Of a longer segment off the CPU: its floating-point operations, a second or so; its size."""

MAX_LAW_DIM = 32
"""Second derivatives cost d² forward passes; for a larger subspace the law is left out."""


class Segment(NamedTuple):
    """Samples ``start`` to ``stop``, of which an earlier segment held the first ``skip``."""

    start: int
    stop: int
    skip: int
    samples: Batch


def length_of(problem: Problem, points: int = 128, backend: str | None = None) -> int:
    """How many samples each segment holds: off the CPU all, where that is a second of work.

    A sample costs 2·P·``points`` operations, times its positions where it is a sequence.
    """
    most = SIZE
    if (backend or jax.default_backend()) != "cpu":
        inputs = problem.dataset.train_inputs
        positions = inputs.shape[1] if problem.dataset.has_tokens else 1
        work = 2 * num_parameters(problem.initial) * positions * points
        size = inputs.dtype.itemsize * int(np.prod(inputs.shape[1:]))
        most = max(SIZE, int(min(WORK / work, BYTES / size)))
    return cut(len(problem.order), most).size


def of(problem: Problem, length: int, done: int = 0) -> Iterator[Segment]:
    """The samples after the first ``done``, each segment read when it is asked for."""
    total = len(problem.order)
    length = min(length, total)
    while done < total:
        start = min(done, total - length)
        stop = start + length
        samples = jax.device_put(problem.read(slice(start, stop)))
        yield Segment(start, stop, done - start, samples)
        done = stop


def rows(problem: Problem, function: Callable[[Batch], Any]) -> Any:
    """What ``function`` gives for each sample, leaves [k_max, ...] in memory."""
    found = []
    for segment in of(problem, length_of(problem)):
        kept = function(segment.samples)
        stream.wait(kept)
        found.append(jax.tree.map(lambda leaf, skip=segment.skip: np.asarray(leaf)[skip:], kept))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *found)


def losses_at(problem: Problem, probe: Probe) -> Float[Array, "m n"]:
    """ℓ_i(w) of every sample at every point, in memory.

    Raises:
        InputError: a loss that is NaN or infinite.
    """
    losses = js.evaluate(problem.loss, probe, problem.samples, reductions.losses(probe.num_points))
    bad = np.flatnonzero(~np.isfinite(losses).all(0))
    if bad.size:
        raise InputError(
            f"expected finite losses, found NaN or infinity for {bad.size} of {losses.shape[1]} "
            f"samples, the first at position {bad[0]}; choose points closer to w*: lower σ"
        )
    return losses


def law(
    problem: Problem, space: js.Subspace | None, sigmas: Sequence[float], mesh: Mesh | None = None
) -> dict[str, np.ndarray]:
    """The quadratic law of every k, ``law_*`` [s, K].

    Empty for all parameters at once and for more than ``MAX_LAW_DIM`` directions.
    """
    if space is None or space.dim > MAX_LAW_DIM:
        return {}
    started = time.monotonic()
    wanted, found = np.asarray(sigmas, np.float32), []
    with host():
        carry = quadratic.begin(space.dim)
    for segment in of(problem, length_of(problem)):
        model = js.project(problem.loss, space, segment.samples, mesh=mesh)
        carry, laws = quadratic.advance(carry, model, wanted, segment.skip)
        stream.wait(laws)
        found.append(jax.tree.map(lambda x, skip=segment.skip: np.asarray(x)[:, skip:], laws))
    whole = jax.tree.map(lambda *parts: np.concatenate(parts, 1)[:, 1:], *found)
    problem.seconds["theory"] = time.monotonic() - started
    console.stage("theory", "the quadratic law of every k", problem.seconds["theory"])
    return {f"law_{name}": values for name, values in whole._asdict().items()}


class Sweep(NamedTuple):
    """The state of a sweep, for each of s sigmas."""

    done: list[tuple[np.ndarray, sweep.Carry]]  #: number of samples done [1], carry [m]
    rows: list[Any]  #: what is kept of each sample, [k_max]
    seconds: np.ndarray  #: [1] spent so far


class Swept(NamedTuple):
    """What a sweep gives, for each of s sigmas."""

    curves: list[Delta]
    mean_loss: np.ndarray  #: [s, m], L_N(w) at every point


def run(
    problem: Problem,
    probes: Sequence[Probe],
    store: Path,
    *,
    checkpoint_every: float,
    precision: str,
    mesh: Mesh | None,
) -> Swept:
    """The curve of every probe over the problem's samples.

    The state is saved in ``store`` every ``checkpoint_every`` seconds, and restored from there.
    """
    state, length = _begin(problem, probes), length_of(problem, probes[0].num_points)
    curves: list[Delta] = []
    if checkpoint.exists(store, "sweep"):
        state = checkpoint.restore(store, "sweep", state)
        state = state._replace(rows=jax.tree.map(np.array, state.rows))  # written in place
    started = saved = time.monotonic()
    before = float(state.seconds[0])

    def save() -> None:
        spent = before + time.monotonic() - started
        seconds = np.array([spent], np.float32)
        checkpoint.save(store, "sweep", state._replace(seconds=seconds))

    done = sum(int(position[0]) for position, _ in state.done)
    total = len(problem.order) * len(probes)
    try:
        with progress("sweep", total, f"samples at {len(probes)} σ", done) as advance:
            for count in _advance(problem, probes, state, curves, length, precision, mesh):
                advance(count)
                due = np.int32(time.monotonic() - saved >= checkpoint_every)
                if multihost_utils.broadcast_one_to_all(due):  # all processes save together
                    save()
                    saved = time.monotonic()
    except KeyboardInterrupt:
        if jax.process_count() == 1:
            with contextlib.suppress(OSError):  # the last good save is kept
                save()
        raise
    save()
    problem.seconds["sweep"] = before + time.monotonic() - started
    what = f"{probes[0].num_points} points at each of {len(probes)} σ"
    console.stage("swept", what, problem.seconds["sweep"])
    return Swept(curves, np.stack([np.asarray(carry.prefix.mean) for _, carry in state.done]))


def fresh(
    problem: Problem, probes: Sequence[Probe], *, precision: str, mesh: Mesh | None
) -> list[Delta]:
    """The curve of every probe over samples that w* has not seen, by the same compiled program."""
    new = problem.fresh
    if new is None:
        return []
    curves: list[Delta] = []
    state, started = _begin(new, probes), time.monotonic()
    length = length_of(problem, probes[0].num_points)
    try:
        for _ in _advance(new, probes, state, curves, length, precision, mesh):
            pass
    except InputError as error:
        raise InputError(f"of the samples that w* has not seen, {error}") from error
    problem.seconds["fresh"] = time.monotonic() - started
    what = f"{len(new.order):,}, at the same points"
    console.stage("fresh samples", what, problem.seconds["fresh"])
    return curves


def _begin(problem: Problem, probes: Sequence[Probe]) -> Sweep:
    """The state before the first sample."""
    rows, carries = [], []
    for probe in probes:
        keep = reductions.delta_of(probe)
        row = jax.eval_shape(lambda keep=keep: keep.init(1, len(problem.order))[1])
        rows.append(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), row))
        with host():
            carries.append(sweep.begin(probe, keep))
    done = [(np.zeros(1, np.int32), carry) for carry in carries]
    return Sweep(done, rows, np.zeros(1, np.float32))


def _advance(
    problem: Problem,
    probes: Sequence[Probe],
    state: Sweep,
    curves: list[Delta],
    length: int,
    precision: str,
    mesh: Mesh | None,
) -> Iterator[int]:
    """Advance ``state`` over the samples left; yield how many each segment added.

    The curve of each sigma joins ``curves`` as soon as it is complete.
    """
    for index, probe in enumerate(probes):
        left = of(problem, length, int(state.done[index][0][0]))
        coming, keep = next(left, None), reductions.delta_of(probe)
        while coming is not None:
            segment = coming
            carry, rows = sweep.advance(
                problem.loss, probe, segment.samples, state.done[index][1], keep,
                skip=segment.skip, precision=precision, mesh=mesh,
            )  # fmt: skip
            coming = next(left, None)  # read while the device computes
            stream.wait((carry, rows))
            new = slice(segment.start + segment.skip, segment.stop)
            for part, whole in zip(*map(jax.tree.leaves, (rows, state.rows[index])), strict=True):
                whole[new] = np.asarray(part)[segment.skip :]
            # one assignment, so that an interruption never separates the position from the carry
            state.done[index] = (np.array([segment.stop], np.int32), carry)
            yield new.stop - new.start
        with host():
            carry = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), state.done[index][1])
            curve = keep.finalize(carry.by_point, state.rows[index], carry.prefix)
        sweep.check_delta(curve, probe.num_points)
        curves.append(jax.tree.map(np.asarray, curve))
