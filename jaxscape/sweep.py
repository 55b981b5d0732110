"""The one loop: per-sample losses at many points, reduced over every prefix of the samples."""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from jaxscape import batching, devices, first_layer, losses, prefix, reductions
from jaxscape.prefix import Prefix
from jaxscape.probes import Probe, SubspaceProbe, single
from jaxscape.reductions import Delta, Reduction, Surface
from jaxscape.types import Batch, InputError, Params, PerSampleLoss

PIECES = 8
"""Batches that a point meets before the next is made: to make one takes time too."""


_NOTHING: Any = None
"""Stands for an array that is not to be mapped over."""


Look = Callable[[Int[Array, ""]], Float[Array, "b"]]


class Carry(NamedTuple):
    """A sweep after some samples; both entries are cut into blocks of points, ``[c, t, ...]``."""

    prefix: Prefix
    by_point: Any


def evaluate(
    loss: PerSampleLoss,
    probe: Probe,
    data: Batch | Iterator[Batch],
    reduction: Reduction,
    *,
    batch_size: int | None = None,
    point_batch: int | None = None,
    precision: str = "highest",
    mesh: Mesh | None = None,
) -> Any:
    """Reduce the losses ℓ_i(w) of all n samples at all m points over every prefix, in one pass.

    One compiled program scans chunks of samples and, within each, blocks of ``point_batch`` points,
    which are evaluated together under ``vmap``, at ``batch_size`` samples at a time. Memory beyond
    the data holds one chunk's losses, the state per point and the curves. The result depends on
    neither size beyond rounding. Without a ``batch_size`` it is 1,000; on a CPU 1,500, or fewer
    for a network of many rows a sample (``tuning``). ``precision`` is that of matrix products which
    do not name their own.
    With a ``mesh`` (``sharding.mesh``) the points of a block and the samples of a chunk are spread
    over its devices, each of which then holds ``point_batch`` points and ``batch_size`` samples.

    ``data`` that does not fit comes as an iterator of batches; batches of equal length share one
    compiled program.

    Raises:
        InputError: a loss that is not one value per sample, no samples, a size below 1, or points
            on several devices for a reduction without ``merge``.
    """
    blocks: dict[str, Any] = {"point_batch": point_batch, "mesh": mesh}
    options = {"batch_size": batch_size, "precision": precision, **blocks}
    segments = data if isinstance(data, Iterator) else (data,)
    carry, rows = begin(probe, reduction, **blocks), []
    for segment in segments:
        carry, row = advance(loss, probe, segment, carry, reduction, **options)
        rows.append(row)
        jax.block_until_ready(rows[-2:-1])  # or batches would be read faster than they are used
    if not rows:
        raise InputError("expected at least one batch of samples, found none; check the iterator")
    by_sample = rows[0] if len(rows) == 1 else jax.tree.map(lambda *x: jnp.concatenate(x), *rows)
    return finish(probe, carry, by_sample, reduction, **blocks)


def begin(
    probe: Probe,
    reduction: Reduction,
    *,
    point_batch: int | None = None,
    mesh: Mesh | None = None,
) -> Carry:
    """The carry of a sweep that has met no sample yet."""
    blocks = _blocks(probe, point_batch, mesh)
    count = len(blocks.starts)
    by_point, by_sample = reduction.init(blocks.size, 1)
    devices.check(reduction, by_sample, mesh)
    state = (prefix.start(blocks.size), by_point)
    return Carry(*jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), state))


def advance(
    loss: PerSampleLoss,
    probe: Probe,
    data: Batch,
    carry: Carry,
    reduction: Reduction,
    *,
    skip: int = 0,
    batch_size: int | None = None,
    point_batch: int | None = None,
    precision: str = "highest",
    mesh: Mesh | None = None,
) -> tuple[Carry, Any]:
    """Carry a sweep on over the n samples of ``data``; also what was kept of each, ``[n, ...]``.

    The first ``skip`` samples have been met already: they change nothing, and their rows mean
    nothing. With it, segments of one length, and so one compiled program, cover any number.
    """
    params = jax.eval_shape(probe.at, jnp.zeros((), jnp.int32))
    n = losses.check(loss, params, data)
    if batch_size is None:
        batch_size = batching.batch_size(loss, params, data)
    program = _program(**batching.compiler_options(loss, params, data))
    loss, met = losses.bind(loss), jnp.asarray(skip)
    if mesh is not None:
        data = devices.deal(data, _chunks(probe, n, batch_size, mesh), mesh)
        loss, probe, carry, met = devices.place((loss, probe, carry, met), mesh)
    options = (n, reduction, batch_size, point_batch, precision, mesh)
    found = program(loss, probe, data, carry, met, *options)
    return found if mesh is None else devices.local(found)


def finish(
    probe: Probe,
    carry: Carry,
    by_sample: Any,
    reduction: Reduction,
    *,
    point_batch: int | None = None,
    mesh: Mesh | None = None,
) -> Any:
    """The reduction's result, from the final carry and the rows of all samples in order."""
    whole = by_point(probe, carry, point_batch=point_batch, mesh=mesh)
    return reduction.finalize(whole.by_point, by_sample, whole.prefix)


def by_point(
    probe: Probe, carry: Carry, *, point_batch: int | None = None, mesh: Mesh | None = None
) -> Carry:
    """The carry with its m points in order, whatever the blocks: the form in which to save it."""
    blocks = _blocks(probe, point_batch, mesh)
    count = carry.prefix.num_samples[0]
    whole = batching.join(
        blocks, carry._replace(prefix=carry.prefix._replace(num_samples=_NOTHING))
    )
    return whole._replace(prefix=whole.prefix._replace(num_samples=count))


def in_blocks(
    probe: Probe, carry: Carry, *, point_batch: int | None = None, mesh: Mesh | None = None
) -> Carry:
    """Undo ``by_point``, perhaps for another number of devices."""
    blocks = _blocks(probe, point_batch, mesh)
    index = blocks.starts[:, None] + np.arange(blocks.size)
    count = jnp.broadcast_to(carry.prefix.num_samples, len(blocks.starts))
    prefix = carry.prefix._replace(num_samples=_NOTHING)
    cut = jax.tree.map(lambda leaf: jnp.asarray(leaf)[index], carry._replace(prefix=prefix))
    return cut._replace(prefix=cut.prefix._replace(num_samples=count))


@functools.cache
def _program(**compiler_options: str) -> Callable:
    """The one compiled program."""
    return jax.jit(
        _advance, static_argnums=(5, 6, 7, 8, 9, 10), compiler_options=compiler_options or None
    )


def _advance(
    loss, probe, data, carry, skip, n, reduction, batch_size, point_batch, precision, mesh
):
    samples = _chunks(probe, n, batch_size, mesh)
    blocks = _blocks(probe, point_batch, mesh)
    walk: Callable = functools.partial(_walk, reduction, batch_size, precision, mesh)
    if mesh is not None:
        walk = devices.over(walk, samples, mesh)
    cut = (samples.starts, samples.fresh & (samples.positions >= skip))
    carry, rows = walk(loss, probe, data, carry, cut, (blocks.starts, blocks.fresh))
    return carry, batching.join(samples, rows)


def _walk(reduction, batch_size, precision, mesh, loss, probe, data, carry, samples, points):
    """What one device does: its chunks of samples, each at its blocks of points."""
    size, here = samples[1].shape[1], points[1].shape[1]
    look_at = _share if _shares(probe, mesh) else functools.partial(_look, batch_size)
    axis, update = devices.axis(mesh), devices.update(reduction, mesh)

    def at_points(look: Look, index: Array) -> Float[Array, "t b"]:
        with jax.default_matmul_precision(precision):
            return jax.vmap(look)(index).astype(jnp.float32)

    def chunk(carry: Carry, cut: tuple[Array, Array]) -> tuple[Carry, Any]:
        start, fresh = cut
        batch = batching.take(data, start, size)
        with jax.default_matmul_precision(precision):
            look = look_at(loss, probe, batch)

        def block(by_sample: Any, points: tuple) -> tuple[Any, Carry]:
            first, unmet, old, by_point = points
            index = first + jnp.arange(here)
            new, steps = prefix.extend(old, at_points(look, index), fresh, axis=axis)
            state = (by_point, by_sample)
            by_point, by_sample = update(state, steps, index, unmet.astype(jnp.float32))
            return by_sample, Carry(new, by_point)

        by_sample = reduction.init(here, size)[1]
        by_sample, carry = jax.lax.scan(block, by_sample, (*points, carry.prefix, carry.by_point))
        return carry, by_sample

    carry, rows = jax.lax.scan(chunk, carry, samples)
    return carry, devices.merge(reduction, rows, mesh)


def _look(batch_size: int, loss: PerSampleLoss, probe: Probe, batch: Batch) -> Look:
    """The losses of a batch as a function of the point's index, ``batch_size`` at a time."""
    pieces = batching.cut(batching.length_of(batch), batch_size)

    def look(index: Int[Array, ""]) -> Float[Array, "b"]:
        params = probe.at(index)
        piece = lambda start: loss(params, batching.take(batch, start, pieces.size))  # noqa: E731
        return batching.join(pieces, jax.lax.map(piece, jnp.asarray(pieces.starts)))

    return look


def _share(loss: PerSampleLoss, probe: SubspaceProbe, batch: Batch) -> Look:
    """The same, with what all points share computed first; see ``affine``."""
    at = first_layer.share(loss, probe.space, batch)
    return lambda index: at(probe.coordinates[index])


def _shares(probe: Probe, mesh: Mesh | None) -> bool:
    """Whether there are at least twice as many points as the d + 1 products that sharing costs."""
    here = math.ceil(probe.num_points / devices.sizes(mesh)[0])
    return isinstance(probe, SubspaceProbe) and here >= 2 * (probe.space.dim + 1)


def delta(
    loss: PerSampleLoss,
    probe: Probe,
    data: Batch,
    *,
    batch_size: int | None = None,
    point_batch: int | None = None,
    precision: str = "highest",
    mesh: Mesh | None = None,
) -> Delta:
    """Δ_k = E_q[(L_{k+1}(w) − L_k(w))²] for every k = 1..n−1, by Monte-Carlo over the probe.

    Equation (8) of Nikitin et al. 2025, without the shortcuts of its published code: k counts
    samples, all directions of the probe's subspace are applied, and every point sees the samples
    in the same order. Units: those of the loss, squared (nats² for cross-entropy).

    Raises:
        InputError: fewer than two samples; a loss that is not one value per sample; a loss that
            is NaN or infinite somewhere (only where the result is concrete, otherwise look at
            ``nonfinite``).
    """
    curve = evaluate(
        loss,
        probe,
        data,
        reductions.delta_of(probe),
        batch_size=batch_size,
        point_batch=point_batch,
        precision=precision,
        mesh=mesh,
    )
    check_delta(curve, probe.num_points)
    return curve


def check_delta(curve: Delta, num_points: int) -> None:
    """Raise an ``InputError`` for a curve of no k, or of losses that are not finite."""
    n = curve.nonfinite.shape[0]
    if n < 2:
        raise InputError(f"expected at least 2 samples for an increment, found {n}; give more")
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(curve)):
        return
    bad = np.flatnonzero(curve.nonfinite)
    if bad.size:
        names = ", ".join(map(str, bad[:5])) + (", ..." if bad.size > 5 else "")
        worst = int(np.max(curve.nonfinite))
        raise InputError(
            f"expected finite losses, found NaN or infinity for {bad.size} of {n} samples (at "
            f"positions {names}), at up to {worst} of {num_points} points; lower sigma, or check "
            "those samples and the parameters"
        )
    if not np.isfinite(curve.mean).all() or not np.isfinite(curve.loss_variance).all():
        raise InputError(
            "expected losses whose squares fit float32, found losses above 1e18; lower sigma"
        )


def surface(
    loss: PerSampleLoss,
    probe: Probe,
    data: Batch,
    ks: Sequence[int],
    *,
    batch_size: int | None = None,
    point_batch: int | None = None,
    precision: str = "highest",
    mesh: Mesh | None = None,
) -> Surface:
    """L_k and δ_k = L_{k+1} − L_k at every point of the probe, for each k in ``ks``.

    At k = n, after which no sample comes, δ_k is NaN.

    Raises:
        InputError: a k outside 1..n; a loss that is NaN or infinite (only where the result is
            concrete); what ``evaluate`` raises.
    """
    wanted = tuple(int(k) for k in ks)
    streamed = isinstance(data, Iterator)
    n = np.inf if streamed else batching.length_of(data)
    if not wanted or not all(1 <= k <= n for k in wanted):
        raise InputError(f"expected values of k from 1 to {n}, found {wanted}; change ks")
    sheet = evaluate(
        loss,
        probe,
        data,
        reductions.surface(wanted),
        batch_size=batch_size,
        point_batch=point_batch,
        precision=precision,
        mesh=mesh,
    )
    if not isinstance(sheet.loss, jax.core.Tracer) and not np.isfinite(sheet.loss).all():
        short = " or fewer samples than the largest k" if streamed else ""
        raise InputError(
            f"expected finite losses at every point, found NaN or infinity{short}; shrink the "
            "probe, or check the samples and the parameters"
        )
    return sheet


def per_sample_losses(
    loss: PerSampleLoss, params: Params, data: Batch, *, batch_size: int | None = None
) -> Float[Array, "n"]:
    """ℓ_i(w) of every sample at one point."""
    return evaluate(loss, single(params), data, reductions.losses(1), batch_size=batch_size)[0]


def _chunks(probe: Probe, n: int, batch_size: int, mesh: Mesh | None) -> batching.Chunks:
    batches = 1 if batch_size < 1 or _shares(probe, mesh) else PIECES
    return batching.cut(n, batches * batch_size, devices.sizes(mesh)[1])


def _blocks(probe: Probe, point_batch: int | None, mesh: Mesh | None) -> batching.Chunks:
    default = 8 if jax.default_backend() == "cpu" else 32
    size = default if point_batch is None else point_batch
    return batching.cut(probe.num_points, size, devices.sizes(mesh)[0])
