"""The samples segment by segment: the sweep, which can be resumed, and the quadratic law.

Segments have equal length, so that one compiled program serves all.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
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
from experiments.common.problem import Problem
from jaxscape import InputError, quadratic, reductions, sweep
from jaxscape.batching import cut, host
from jaxscape.lab import checkpoint, stream
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
    """ℓ_i(w) of every sample at every point, in memory; an ``InputError`` unless all are finite."""
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
    """The state of a sweep at the points of one probe."""

    done: np.ndarray  #: number of samples done [1]
    carry: sweep.Carry
    rows: Any  #: what is kept of each sample, [k_max]


def run(
    problem: Problem,
    probes: Sequence[Probe],
    store: Path,
    name: str = "sweep",
    *,
    length: int | None = None,
    checkpoint_every: float = math.inf,
    precision: str = "highest",
    mesh: Mesh | None = None,
) -> reductions.Delta:
    """The curve of every probe over the problem's samples, leaves [s, ...].

    The state of each is saved in ``store``, every ``checkpoint_every`` seconds and at the end, and
    restored from there. Segments of the ``length`` of another problem's share its program, which
    saves time unless they are many.
    """
    started, curves = time.monotonic(), []
    for number, probe in enumerate(probes, start=1):
        own = length_of(problem, probe.num_points)
        own = length if length and len(problem.order) <= 16 * length else own
        forward = partial(sweep.advance, problem.loss, probe, precision=precision, mesh=mesh)
        item = store, f"{name}-{number}"
        curves.append(_curve(problem, probe, own, forward, item, checkpoint_every))
    problem.seconds[name] = time.monotonic() - started
    what = f"{len(problem.order):,} samples at {len(probes)} σ, {probe.num_points} points at each"
    console.stage(name, what, problem.seconds[name])
    return jax.tree.map(lambda *leaves: np.stack(leaves), *curves)


def _curve(
    problem: Problem, probe: Probe, length: int, forward: Callable, item: tuple[Path, str],
    every: float,
) -> reductions.Delta:  # fmt: skip
    """The curve of one probe, by ``forward`` through each segment; saved as ``item``."""
    keep, total = reductions.delta_of(probe), len(problem.order)
    rows = jax.eval_shape(lambda: keep.init(1, total)[1])
    rows = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), rows)
    with host():
        state = Sweep(np.zeros(1, np.int32), sweep.begin(probe, keep), rows)
    if checkpoint.exists(*item):
        state = checkpoint.restore(*item, state)
        state = state._replace(rows=jax.tree.map(np.array, state.rows))  # written in place
    saved, done = time.monotonic(), int(state.done[0])
    left = of(problem, length, done)
    segment = next(left, None)
    try:
        with console.progress(item[1], total, "samples", done) as advance:
            while segment is not None:
                carry, new = forward(segment.samples, state.carry, keep, skip=segment.skip)
                coming = next(left, None)  # read while the device computes
                stream.wait((carry, new))
                fresh = slice(segment.start + segment.skip, segment.stop)
                for part, whole in zip(*map(jax.tree.leaves, (new, state.rows)), strict=True):
                    whole[fresh] = np.asarray(part)[segment.skip :]
                # one assignment: an interruption never separates the position from the carry
                state = state._replace(done=np.array([segment.stop], np.int32), carry=carry)
                advance(fresh.stop - fresh.start)
                due = np.int32(time.monotonic() - saved >= every)
                if multihost_utils.broadcast_one_to_all(due):  # all processes save together
                    checkpoint.save(*item, state)
                    saved = time.monotonic()
                segment = coming
    except KeyboardInterrupt:
        if jax.process_count() == 1:
            with contextlib.suppress(OSError):  # the last good save is kept
                checkpoint.save(*item, state)
        raise
    if done < total:
        checkpoint.save(*item, state)
    with host():
        carry = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), state.carry)
        curve = keep.finalize(carry.by_point, state.rows, carry.prefix)
    sweep.check_delta(curve, probe.num_points)
    return jax.tree.map(np.asarray, curve)
