"""The one loop: per-sample losses at many points, reduced over every prefix of the samples.

``evaluate`` is ``begin``, ``advance`` for each segment of the samples, and the reduction's
``finalize``. One compiled program scans chunks of samples and, within each, blocks of points;
``prefix.extend`` makes innovations of a block's losses, and the reduction keeps what it needs.
"""

import functools
import math
import operator
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from jaxscape import batching, devices, first_layer, losses, prefix, reductions
from jaxscape.arguments import explained
from jaxscape.prefix import Prefix
from jaxscape.probes import SubspaceProbe, single
from jaxscape.reductions import Delta, Reduction, Surface
from jaxscape.trees import automatic, is_traced, short
from jaxscape.types import Batch, InputError, Params, PerSampleLoss, Probe

BATCHES = 16  # batches per chunk: a point's parameters, once made, serve so many
POINTS_ON_CPU, POINTS = 8, 32  # points at a time, on other devices by default
ROUNDING = 8  # losses that spread by fewer units of rounding than this have few digits left

_first_point = operator.methodcaller("at", np.int32(0))


@explained
def delta(
    loss: PerSampleLoss,
    probe: Probe,
    data: Batch | Iterator[Batch],
    *,
    batch_size: int | None = None,
    point_batch: int | None = None,
    precision: str = "highest",
    mesh: Mesh | None = None,
) -> Delta:
    """Δ_k = E_q[(L_{k+1}(w) − L_k(w))²] for every k = 1..n−1, by Monte-Carlo over the probe q.

    Equation (8) of Nikitin et al. 2025; unlike in its published code k counts samples, and every
    point sees them in the same order. Units: those of the loss, squared (nats² for cross-entropy).

    >>> import jax.numpy as jnp, jaxscape as js
    >>> probe = js.single(jnp.ones(()))
    >>> curve = js.delta(lambda w, x: w * x, probe, jnp.array([3.0, 1.0, 2.0]))
    >>> curve.mean.tolist()  # the prefix means are 3, 2, 2
    [1.0, 0.0]

    Args:
        loss: ``loss(params, batch)``, one loss per sample.
        probe: The m points w, for instance ``gaussian(key, space, num_points, sigma)``.
        data: The n samples: arrays with a leading sample axis, or batches of such arrays (an
            iterator, a list, a loader, a function that returns one of these), best of one length.
        batch_size: Samples per call of the loss; by default what suits it (``batching``).
        point_batch: Points evaluated together under ``vmap``; by default 8 on a CPU, else 32.
        precision: Of matrix products which do not name their own.
        mesh: ``devices.mesh(...)``: points and samples are spread over its devices, each of which
            then holds ``point_batch`` and ``batch_size`` of them.

    Raises:
        InputError: fewer than two samples; a loss that is not one value per sample, or is NaN or
            infinite somewhere (only where the result is concrete, else see ``nonfinite``).
    """
    sizes: dict[str, Any] = {"batch_size": batch_size, "point_batch": point_batch}
    keep = reductions.delta_of(probe)
    curve = evaluate(loss, probe, data, keep, precision=precision, mesh=mesh, **sizes)
    check_delta(curve, probe.num_points)
    return curve


def check_delta(curve: Delta, num_points: int) -> None:
    """Raise an ``InputError`` for a curve of no k, or of losses that are not finite."""
    n = curve.nonfinite.shape[0]
    if n < 2:
        raise InputError(f"expected at least 2 samples for an increment, found {n}; give more")
    if is_traced(curve):
        return
    if (bad := np.flatnonzero(curve.nonfinite)).size:
        names = ", ".join(map(str, bad[:5])) + (", ..." if bad.size > 5 else "")
        raise InputError(
            f"expected finite losses, found NaN or infinity for {bad.size} of {n} samples (at "
            f"positions {names}), at up to {int(np.max(curve.nonfinite))} of {num_points} points; "
            "lower sigma, or check those samples and the parameters"
        )
    mean, variance, first = map(np.asarray, (curve.mean, curve.loss_variance, curve.first_order))
    if not (np.isfinite(mean).all() and np.isfinite(variance).all()):
        raise InputError("expected losses whose squares fit float32, found above 1e18; lower sigma")
    if (lost := (mean == 0) & (first > 0)).any():
        said = (
            f"expected increments whose squares fit {mean.dtype}, found {first[lost].max():.2g}, "
            f"whose square is 0, and such at {lost.sum()} of {n - 1} k; multiply the loss by a "
            "constant, or compute in float64"
        )
        if not mean.any():
            raise InputError(said)
        warnings.warn(said, stacklevel=4)
    warn_of_rounding(np.asarray(curve.mean_loss), np.sqrt(variance))


def warn_of_rounding(mean: Float[np.ndarray, "m"], spread: Float[np.ndarray, "m"]) -> None:
    """Warn where the losses at a point spread by few units of the rounding of their mean."""
    rounding = np.finfo(mean.dtype).eps * np.abs(mean)
    few = (spread > 0) & (spread < ROUNDING * rounding)
    if few.any():
        worst = np.argmax(np.where(few, rounding / np.where(few, spread, 1), 0))
        warnings.warn(
            f"losses of {abs(mean[worst]):.3g} differ by {spread[worst]:.2g}, which rounding to "
            f"{mean.dtype} moves by {rounding[worst]:.2g}: their differences have few digits; "
            "subtract a constant from the loss, or compute in float64",
            stacklevel=5,
        )


@explained
def surface(
    loss: PerSampleLoss,
    probe: Probe,
    data: Batch | Iterator[Batch],
    ks: Sequence[int] | int,
    *,
    batch_size: int | None = None,
    point_batch: int | None = None,
    precision: str = "highest",
    mesh: Mesh | None = None,
) -> Surface:
    """L_k and δ_k = L_{k+1} − L_k at every point of the probe, for each k in ``ks``.

    NaN at points, ``nonfinite`` in number, where the loss is not finite; so is δ_k at k = n.

    >>> import jax.numpy as jnp, jaxscape as js
    >>> axes = js.Subspace(jnp.zeros(2), jnp.eye(2))
    >>> data = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    >>> sheet = js.surface(lambda w, x: x @ w, js.grid(axes, radius=1.0, num=2), data, ks=(1, 2))
    >>> sheet.loss.tolist()  # w_1 at the points (−1, −1), (−1, 1), (1, −1), (1, 1), then the mean
    [[-1.0, -1.0, 1.0, 1.0], [-1.0, 0.0, 0.0, 1.0]]

    Args:
        ks: The prefix lengths k to keep.
        loss, probe, data, batch_size, point_batch, precision, mesh: As for ``delta``.

    Raises:
        InputError: a k outside 1..n; a loss that is finite nowhere (not seen under ``jit``).
    """
    n = np.inf if batching.are_batches(data) else batching.length_of(data)
    given = np.atleast_1d(np.asarray(ks))
    wanted = tuple(int(k) for k in given)
    if not wanted or not all(1 <= k <= n for k in wanted) or (given != np.array(wanted)).any():
        raise InputError(f"expected values of k from 1 to {n}, found {short(ks)}; change ks")
    sizes: dict[str, Any] = {"batch_size": batch_size, "point_batch": point_batch}
    keep = reductions.surface(wanted)
    sheet = evaluate(loss, probe, data, keep, precision=precision, mesh=mesh, **sizes)
    if not is_traced(sheet) and not np.isfinite(sheet.loss).any(1).all():
        raise InputError(
            "expected finite losses at some point, found NaN or infinity at all, or fewer samples "
            "than the largest k; shrink the probe, or check the samples and the parameters"
        )
    return sheet


@explained
def per_sample_losses(
    loss: PerSampleLoss,
    params: Params,
    data: Batch | Iterator[Batch],
    *,
    batch_size: int | None = None,
) -> Float[Array, "n"]:
    """ℓ_i(w) of every sample at one point, ``batch_size`` samples at a time."""
    return evaluate(loss, single(params), data, reductions.losses(1), batch_size=batch_size)[0]


@explained
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

    >>> import jax.numpy as jnp, jaxscape as js
    >>> probe = js.points(js.Subspace(jnp.zeros(1), jnp.ones((1, 1))), jnp.array([[1.0], [2.0]]))
    >>> js.evaluate(lambda w, x: w * x, probe, jnp.arange(3.0), js.reductions.losses(2)).tolist()
    [[0.0, 1.0, 2.0], [0.0, 2.0, 4.0]]

    Args:
        reduction: What to keep; see ``reductions``.
        loss, probe, data, batch_size, point_batch, precision, mesh: As for ``delta``.

    Raises:
        InputError: a loss that is not one value per sample, no samples, a size below 1, points on
            several devices for a reduction without ``merge``.
    """
    if not isinstance(probe, Probe):
        raise InputError(
            f"expected a probe, the points to look at, found {type(probe).__name__}; make one: "
            "js.gaussian(key, space, num_points, sigma), js.grid(space, radius, num), js.single(w)"
        )
    options: dict[str, Any] = {"batch_size": batch_size, "point_batch": point_batch, "mesh": mesh}
    carry, rows = begin(probe, reduction), []
    for segment in batching.segments(data):
        carry, row = advance(loss, probe, segment, carry, reduction, precision=precision, **options)
        rows.append(row)
        jax.block_until_ready(rows[-2:-1])  # or batches would be read faster than they are used
    if not rows:
        raise InputError("expected at least one batch of samples, found none; check the iterator")
    by_sample = rows[0] if len(rows) == 1 else jax.tree.map(lambda *x: jnp.concatenate(x), *rows)
    return reduction.finalize(carry.by_point, by_sample, carry.prefix)


class Carry(NamedTuple):
    """A sweep after some samples: what is known of each of m points."""

    prefix: Prefix
    by_point: Any


def begin(probe: Probe, reduction: Reduction) -> Carry:
    """The carry before the first sample."""
    m, dtype = probe.num_points, dtype_of(probe)
    return Carry(prefix.start(m, dtype), _typed(reduction.init(m, 1)[0], dtype))


def dtype_of(probe: Probe) -> np.dtype:
    """The type that a sweep computes in: that of the parameters, float32 at least."""
    params = jax.eval_shape(lambda: _first_point(probe))
    return jnp.result_type(jnp.float32, *jax.tree.leaves(params))


def _typed(tree: Any, dtype: Any) -> Any:
    """The floating-point leaves in this type."""
    is_float = lambda leaf: jnp.issubdtype(leaf.dtype, jnp.floating)  # noqa: E731
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if is_float(leaf) else leaf, tree)


def advance(
    loss: PerSampleLoss,
    probe: Probe,
    data: Batch,
    carry: Carry,
    reduction: Reduction,
    *,
    skip: Int[ArrayLike, ""] = 0,
    batch_size: int | None = None,
    point_batch: int | None = None,
    precision: str = "highest",
    mesh: Mesh | None = None,
) -> tuple[Carry, Any]:
    """Carry a sweep on over the next n samples; also what was kept of each, ``[n, ...]``.

    The first ``skip`` samples have been met already, so that segments of one length, of one
    compiled program, cover any number; their rows mean nothing. All else is as for ``evaluate``.
    """
    try:
        precise = jax.default_matmul_precision(precision)
    except ValueError:
        found = f"found {short(precision)}; choose one that JAX knows"
        raise InputError(f"expected precision as 'highest', 'high' or 'default', {found}") from None
    first = jax.tree_util.Partial(_first_point, probe)
    params = jax.eval_shape(first)
    n, bound = losses.ready(loss, params, data, first)
    if batch_size is None:
        batch_size = batching.batch_size(bound, params, data)
    if point_batch is None:
        point_batch = POINTS_ON_CPU if jax.default_backend() == "cpu" else POINTS
    program = _program(**batching.compiler_options(bound, params, data))
    mesh = automatic(mesh)
    several, together = devices.sizes(mesh)
    batches = 1 if batch_size < 1 or shares_products(probe, mesh) else BATCHES
    samples = batching.cut(n, batches * batch_size, together)
    points = batching.cut(probe.num_points, point_batch, several)
    settings = samples, points, reduction, batch_size, mesh
    held = bound, probe, carry, jnp.asarray(skip)
    with precise:
        if mesh is None:
            return program(settings, data, *held)
        data = devices.deal(data, samples, mesh)
        return devices.local(program(settings, data, *devices.place(held, mesh)))


@functools.cache
def _program(**compiler_options: str) -> Callable:
    return jax.jit(_advance, static_argnums=0, compiler_options=compiler_options or None)


def _advance(settings: tuple, data, loss, probe, carry, skip) -> tuple[Carry, Any]:
    """Walk the samples with the carry cut into blocks of points, ``[c, t, ...]``."""
    samples, points, *_, mesh = settings
    index, unmet = points.computed()

    # each block has the number of samples, [], of its own, [c]
    cut = lambda x: x[index] if x.ndim else jnp.broadcast_to(x, points.num)  # noqa: E731
    join = lambda x: batching.join(points, x) if x.ndim > 1 else x[0]  # noqa: E731
    positions, fresh = samples.computed()
    chunks = samples.starts, fresh & (positions >= skip)
    held = loss, probe, data, jax.tree.map(cut, carry), chunks, (index, unmet)
    walk = functools.partial(_walk, settings)
    carry, rows = walk(*held) if mesh is None else devices.over(walk, samples, mesh, *held)
    return jax.tree.map(join, carry), batching.join(samples, rows)


def _walk(settings: tuple, loss, probe, data, carry, chunks, blocks) -> tuple[Carry, Any]:
    """One device's work: its chunks of samples (starts, fresh) at its points (index, unmet)."""
    samples, points, reduction, batch_size, mesh = settings
    axis = "samples" if devices.sizes(mesh)[1] > 1 else None
    dtype, take = carry.prefix.mean.dtype, batching.taker(data)

    def chunk(carry: Carry, cut: tuple[Array, Array]) -> tuple[Carry, Any]:
        start, fresh = cut
        losses_at = _losses_at(loss, probe, take(start, samples.size), batch_size, mesh)

        def block(by_sample: Any, part: tuple) -> tuple[Any, Carry]:
            index, unmet, old, by_point = part
            found = jax.vmap(losses_at)(index).astype(dtype)  # [t, b]
            new, steps = prefix.extend(old, found, fresh, axis=axis)
            state, weight = (by_point, by_sample), unmet.astype(dtype)
            by_point, by_sample = devices.update(reduction, mesh, state, steps, index, weight)
            return by_sample, Carry(new, by_point)

        by_sample = _typed(reduction.init(points.size, samples.size)[1], dtype)
        by_sample, carry = jax.lax.scan(block, by_sample, (*blocks, *carry))
        return carry, by_sample

    carry, rows = jax.lax.scan(chunk, carry, chunks)
    return carry, devices.merge(reduction, rows, mesh)


def _losses_at(loss, probe: Probe, batch: Batch, batch_size: int, mesh: Mesh | None) -> Callable:
    """The losses of a batch by the point's index; what all points share is computed here."""
    if shares_products(probe, mesh):
        at = first_layer.share(loss, probe.space, batch)
        return lambda index: at(probe.coordinates[index])
    loss_at = lambda index: functools.partial(loss, probe.at(index))  # noqa: E731
    return lambda index: batching.in_chunks(loss_at(index), batch, batch_size)


def shares_products(probe: Probe, mesh: Mesh | None = None) -> TypeGuard[SubspaceProbe]:
    """Whether there are at least twice as many points as the d + 1 products that sharing costs."""
    here = math.ceil(probe.num_points / devices.sizes(mesh)[0])
    return isinstance(probe, SubspaceProbe) and here >= 2 * (probe.space.dim + 1)
