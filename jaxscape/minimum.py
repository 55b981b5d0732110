"""How far the minimum itself moves as samples arrive, and where to: tr(H⁻¹C), H⁻¹CH⁻¹, and laws.

Let w_N minimise L_N + (λ/2)‖w‖², λ the weight decay, H the Hessian there and C the covariance of
the per-sample gradients. For k of the N samples at random, to first order, w_k − w_N is
−H⁻¹(∇L_k − ∇L_N)(w_N), so that E[L_N(w_k) − L_N(w_N)] = ½ (1/k − 1/N) T with T = tr(H⁻¹C), and the
generalisation gap is T/N (Takeuchi 1976; Thomas et al. 2020, "On the interplay between noise and
curvature"). ``excess_law_holds`` and networks refitted at a few k show whether this holds.
"""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Key, Real

from jaxscape import losses
from jaxscape.arguments import explained
from jaxscape.batching import cut, length_of, taker
from jaxscape.curvature import hessian_operator, why_not_finite
from jaxscape.lanczos import dot, flatten
from jaxscape.loss_variance import TRUSTED
from jaxscape.quadratic import project
from jaxscape.quadrature import tridiagonal
from jaxscape.sample_size import SufficientSize, distance_law, distance_size
from jaxscape.subspace import Subspace, check_dim
from jaxscape.trees import automatic, is_traced, num_parameters
from jaxscape.types import Batch, InputError, Params, PerSampleLoss, Scalar


class TakeuchiTrace(NamedTuple):
    """T = tr((H + λ)⁻¹ C) for each damping λ, in units of the loss, from R of the gradients."""

    value: Float[Array, "*l"]
    sem: Float[Array, "*l"]
    """Standard error over the gradients, 0 of all samples; too small where ``effective`` is."""
    effective: Float[Array, "*l"]
    """The effective number of gradients, (Σ|t|)² / Σt²: of a few, T depends on a few samples."""
    smallest: Float[Array, ""]
    """The smallest Ritz value of H without λ: at no minimum, T means nothing, unless above −λ."""
    change: Float[Array, "*l"]
    """Relative change of T in the last quarter of the Lanczos steps; take more if it is large."""


@explained
def takeuchi_trace(
    key: Key[Array, ""],
    loss: PerSampleLoss,
    params: Params,
    data: Batch,
    *,
    weight_decay: Float[ArrayLike, "*l"] = 0.0,
    gradient_data: Batch | None = None,
    num_samples: int = 64,
    num_steps: int = 64,
    batch_size: int = 1000,
) -> TakeuchiTrace:
    """T = tr((H + λ)⁻¹ C) = E_i[(g_i − ḡ)ᵀ (H + λ)⁻¹ (g_i − ḡ)] with g_i = ∇ℓ_i(w).

    By stochastic Lanczos quadrature started at per-sample gradients, with full reorthogonalisation,
    for every λ at once (Golub and Meurant 2010, "Matrices, moments and quadrature"). Costs
    num_samples·num_steps products with the Hessian, and num_steps·P numbers of memory. Warns, where
    not traced, of a Ritz value of H at or below −λ.

    Args:
        key: Draws the samples whose gradients are taken.
        loss, params, data, batch_size: As for ``hessian_operator``, with its errors; no batches.
        weight_decay: λ, or several.
        gradient_data: Samples whose gradients are taken in place of those of ``data``. Those of new
            samples are far larger where a network fits its training samples.
        num_samples: R, from 2 to the number of samples, else an ``InputError``.
        num_steps: Lanczos steps from each gradient, at least 1, else an ``InputError``; at most P.

    Example:
        >>> import jax, jax.numpy as jnp, jaxscape as js
        >>> loss = lambda w, batch: 0.5 * (batch["x"] @ w - batch["y"]) ** 2
        >>> x = jax.random.normal(jax.random.key(0), (500, 3))
        >>> data = {"x": x, "y": x @ jnp.ones(3) + jax.random.normal(jax.random.key(1), (500,))}
        >>> w = jnp.linalg.lstsq(x, data["y"])[0]
        >>> found = js.takeuchi_trace(jax.random.key(2), loss, w, data, num_samples=500)
        >>> bool(abs(found.value - 3) < 0.4)    # P σ² for the noise σ = 1
        True
    """
    samples = data if gradient_data is None else gradient_data
    options = weight_decay, num_samples, num_steps, batch_size
    return _run(_takeuchi, key, loss, params, data, samples, options)


def _run(program: Callable, key, loss, params, data, samples, options: tuple) -> Any:
    """What ``program`` finds; arguments, numbers and the smallest Ritz value are checked."""
    weight_decay, num_samples, num_steps, batch_size = options
    params, data, samples = automatic((params, data, samples))
    length_of(data)  # arrays, not batches: they are read thousands of times
    n = length_of(samples)
    if not 2 <= num_samples <= n:
        raise InputError(f"expected num_samples from 2 to {n}, found {num_samples}; change it")
    if num_steps < 1:
        raise InputError(f"expected num_steps of at least 1, found {num_steps}; raise it")
    rows = jax.random.choice(key, n, (num_samples,), replace=False)
    operator: Any = hessian_operator(loss, params, data, batch_size=batch_size)
    bound, decay = losses.ready(loss, params, samples)[1], jnp.asarray(weight_decay, float)
    steps = min(num_steps, num_parameters(params))
    found, smallest = program(operator, bound, samples, rows, decay, steps)
    if is_traced(smallest):
        return found
    if smallest <= -decay.min():
        warnings.warn(
            f"H has a Ritz value of {smallest:.2g}, at or below −λ = {0 - decay.min():.2g}: the "
            "parameters are at no minimum, and the result means little; train on, or raise λ",
            stacklevel=4,
        )
    elif not jnp.isfinite(found[0]).all():
        where = f"{why_not_finite(operator)}; leave them out, also of gradient_data"
        raise InputError(f"expected finite gradients and Hessian, found {where}")
    return found


def _krylov(operator, loss, data: Batch, rows: Array, steps: int, read: Callable) -> Any:
    """``read(g, T, V)`` of g = g_i − ḡ and of its Krylov space, for the sample in each row."""
    params, take = operator.params, taker(data)
    chunks = cut(length_of(data), operator.batch_size)
    product, flat = flatten(operator, params)

    def gradient(batch: Batch, weight: ArrayLike = 1.0) -> Array:
        total = lambda w: jnp.sum(jnp.where(weight, loss(w, batch), 0))  # noqa: E731
        with jax.default_matmul_precision("highest"):
            return ravel_pytree(jax.grad(total)(params))[0]

    def add(total: Array, chunk: tuple[Array, Array]) -> tuple[Array, None]:
        return total + gradient(take(chunk[0], chunks.size), chunk[1]), None

    pairs = jnp.asarray(chunks.starts), chunks.computed()[1]
    mean = jax.lax.scan(add, jnp.zeros_like(flat), pairs)[0] / length_of(data)

    def one(row: Array) -> Any:
        start = gradient(take(row, 1)) - mean
        return read(start, *tridiagonal(product, start, steps))

    return jax.lax.map(one, rows)


def _ritz(matrix: Float[Array, "s s"]) -> tuple[Float[Array, "s"], Float[Array, "s s"]]:
    """Ritz values, infinite beyond an exhausted Krylov space, and the eigenvectors."""
    nodes, vectors = jnp.linalg.eigh(matrix)
    spent = vectors[0] ** 2 <= jnp.finfo(matrix.dtype).eps ** 2
    return jnp.where(spent, jnp.inf, nodes), vectors


@partial(jax.jit, static_argnums=5)
def _takeuchi(operator, loss, data: Batch, rows, decay: Array, steps: int) -> tuple:
    def first(matrix: Float[Array, "s s"]) -> tuple[Array, Array]:
        """The first entry of (T + λ)⁻¹ for each λ, and the smallest Ritz value."""
        nodes, vectors = _ritz(matrix)
        return jnp.sum(vectors[0] ** 2 / (nodes + decay[..., None]), -1), nodes.min()

    def read(gradient: Array, matrix: Array, _: Array) -> tuple[Array, Array, Array]:
        few = max(1, 3 * steps // 4)
        (whole, smallest), (fewer, _) = first(matrix), first(matrix[:few, :few])
        square = dot(gradient, gradient)
        return square * whole, square * fewer, smallest

    terms, before, smallest = _krylov(operator, loss, data, rows, steps, read)
    n, count = length_of(data), len(rows)
    value, earlier = (n / (n - 1) * each.mean(0) for each in (terms, before))
    sem = n / (n - 1) * terms.std(0, ddof=1) * jnp.sqrt((1 - count / n) / count)
    effective = jnp.sum(jnp.abs(terms), 0) ** 2 / jnp.sum(terms**2, 0)
    change = jnp.abs(value - earlier) / jnp.where(value == 0, 1, value)
    return TakeuchiTrace(value, sem, effective, smallest.min(), change), smallest.min()


class Regime(NamedTuple):
    """Whether a network is so close to a minimum that ``excess_law`` holds, for each damping."""

    holds: Bool[Array, "*l"]
    known: Bool[Array, "*l"]
    """Where False, these numbers cannot tell."""


@explained
def excess_law_holds(
    found: TakeuchiTrace,
    n: Scalar,
    gap: Scalar,
    *,
    gap_sem: Scalar = 0.0,
    weight_decay: Float[ArrayLike, "*#l"] = 0.0,
) -> Regime:
    """From the signs that T gives: it does not hold where the smallest Ritz value is below −λ, or
    the generalisation gap seen is not T/n within a factor of 2, beyond two standard errors of both.

    It cannot be told where these errors leave both possible, where T depends on fewer than 10
    gradients, or changes by more than 10 % in the last Lanczos steps.

    Args:
        found, weight_decay: T from ``takeuchi_trace``, and its λ.
        n: The number of samples that the network was trained on.
        gap, gap_sem: Mean loss of new samples less that of those n, and its standard error.

    >>> found = TakeuchiTrace(*map(jnp.asarray, (30.0, 2.0, 40.0, 1e-3, 0.01)))
    >>> [bool(excess_law_holds(found, 1000, gap).holds) for gap in (0.033, 0.3)]
    [True, False]
    """
    low, high = (found.value + side * found.sem * 2 for side in (-1, 1))
    least, most = (gap + side * gap_sem * 2 for side in (-1, 1))
    within = (low / n >= most / 2) & (high / n <= least * 2) & (least > 0)
    apart = (low / n > most * 2) | (high / n < least / 2)
    saddle = found.smallest + jnp.asarray(weight_decay) < 0
    sound = (found.effective >= TRUSTED) & (found.change <= 0.1)
    return Regime(~saddle & sound & within, saddle | (sound & (within | apart)))


@explained
def takeuchi_trace_in(
    space: Subspace,
    loss: PerSampleLoss,
    data: Batch,
    *,
    weight_decay: Scalar = 0.0,
    batch_size: int = 1000,
) -> Float[Array, ""]:
    """The part of T in a subspace, tr((VHVᵀ + λ)⁻¹ VCVᵀ).

    Along eigenvectors Σ_j v_jᵀCv_j / (λ_j + λ). Exact over all n samples, at n·d² numbers.

    Args:
        space, loss, data, batch_size: As for ``project``, of d orthonormal directions.
        weight_decay: λ.
    """
    model = project(loss, space, data, batch_size=batch_size)
    centred = model.gradient - model.gradient.mean(0)
    covariance = dot(centred.T, centred) / (len(centred) - 1)
    hessian = model.hessian.mean(0) + weight_decay * jnp.eye(space.dim)
    return jnp.trace(jnp.linalg.solve(hessian, covariance))


@explained
def influence_subspace(
    key: Key[Array, ""],
    loss: PerSampleLoss,
    params: Params,
    data: Batch,
    dim: int,
    *,
    weight_decay: Scalar = 0.0,
    num_samples: int = 64,
    num_steps: int = 64,
    batch_size: int = 1000,
) -> Subspace:
    """The directions along which the minimum moves most when the samples are others.

    Refitted on k of the samples at random, it moves by the mean of their influences −(H + λ)⁻¹
    (∇ℓ_i − ḡ) (Hampel 1974; Koh and Liang 2017, "Understanding black-box predictions via influence
    functions"), whose covariance is the sandwich (H + λ)⁻¹ C (H + λ)⁻¹ / k. The directions are its
    leading eigenvectors, ``eigenvalues`` those without the 1/k, as R samples and num_steps Lanczos
    steps show them: few samples see less than all do. Warns as ``takeuchi_trace`` does.

    Args:
        key, loss, params, data, weight_decay, num_samples, num_steps, batch_size: As for
            ``takeuchi_trace``, with its errors; memory is num_samples·P numbers more.
        dim: The number d of directions, at most num_samples and P, else an ``InputError``.

    Example:
        >>> import jax, jax.numpy as jnp, jaxscape as js
        >>> x = jax.random.normal(jax.random.key(0), (500, 3)) * jnp.array([1.0, 1.0, 0.1])
        >>> loss = lambda w, x: (x @ w - jnp.tanh(x.sum(1))) ** 2    # flat along the third
        >>> w = jnp.linalg.lstsq(x, jnp.tanh(x.sum(1)))[0]
        >>> space = js.influence_subspace(jax.random.key(1), loss, w, x, dim=1)
        >>> abs(space.basis).round(1).tolist()
        [[0.0, 0.0, 1.0]]
    """
    check_dim(dim, params)
    if dim > num_samples:
        raise InputError(f"expected dim of at most num_samples, {num_samples}, found {dim}")
    options = weight_decay, num_samples, num_steps, batch_size
    values, basis = _run(partial(_influences, dim), key, loss, params, data, data, options)
    return Subspace(params, basis, values)


@partial(jax.jit, static_argnums=(0, 6))
def _influences(dim: int, operator, loss, data: Batch, rows, decay: Array, steps: int) -> tuple:
    def read(gradient: Array, matrix: Array, basis: Array) -> tuple[Array, Array]:
        nodes, vectors = _ritz(matrix)
        moved = dot(dot(vectors, vectors[0] / (nodes + decay)), basis)
        return moved * jnp.linalg.norm(gradient), nodes.min()

    moved, smallest = _krylov(operator, loss, data, rows, steps, read)
    _, scales, directions = jnp.linalg.svd(moved, full_matrices=False)
    n, unravel = length_of(data), ravel_pytree(operator.params)[1]
    values = scales[:dim] ** 2 * n / (n - 1) / len(rows)
    return (values, jax.vmap(unravel)(directions[:dim])), smallest.min()


@explained
def excess_law(
    trace: Float[ArrayLike, "*#s"],
    k: Real[ArrayLike, "*#s"],
    to: Real[ArrayLike, "*#s"] = jnp.inf,
) -> Float[Array, "..."]:
    """½ T |1/k − 1/to|: how far the mean loss of a network refitted on k samples is above the end.

    ``to`` is N for the loss over all N samples, infinite for the population's.

    >>> float(excess_law(2.0, k=8))
    0.125
    """
    return distance_law(jnp.asarray(trace) / 2, k, to)


@explained
def excess_size(
    trace: Float[ArrayLike, "*#t"], epsilon: Float[ArrayLike, "*#t"], to: Scalar = jnp.inf
) -> SufficientSize:
    """The smallest k with ``excess_law(trace, k, to)`` below ε, in units of the loss.

    >>> int(excess_size(2.0, 0.1).k)
    11
    """
    return distance_size(jnp.asarray(trace) / 2, jnp.sqrt(jnp.asarray(epsilon)), to)
