"""How far the minimum itself moves as samples arrive, and where to: tr(H⁻¹C), H⁻¹CH⁻¹, and laws.

Let w_N minimise L_N + (λ/2)‖w‖², λ the weight decay, H the Hessian there and C the covariance of
the per-sample gradients. For k of the N samples at random, to first order, w_k − w_N is
−H⁻¹(∇L_k − ∇L_N)(w_N), so that E[L_N(w_k) − L_N(w_N)] = ½ (1/k − 1/N) T with T = tr(H⁻¹C), and the
generalisation gap is T/N (Takeuchi 1976; Thomas et al. 2020, "On the interplay between noise and
curvature"). Whether a network is so close to a minimum that this holds is to be seen from
``excess_law_holds``, and from networks refitted at a few k.
"""

import warnings
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Key, Real

from jaxscape import losses
from jaxscape.arguments import explained
from jaxscape.batching import cut, length_of, take
from jaxscape.curvature import MeanOperator, hessian_operator, nonfinite_samples
from jaxscape.lanczos import COMPILED, dot, flatten
from jaxscape.loss_variance import TRUSTED
from jaxscape.quadratic import project
from jaxscape.quadrature import tridiagonal
from jaxscape.sample_size import SufficientSize, distance_law, distance_size
from jaxscape.subspace import Subspace, check_dim
from jaxscape.trees import check_key, is_traced, num_parameters, working
from jaxscape.types import Batch, InputError, Params, PerSampleLoss, Scalar

AGREE = 2.0
"""The factor up to which the gap that T predicts and the gap seen count as the same."""

SETTLED = 0.1
"""The relative change of T in the last Lanczos steps up to which it counts as converged."""


class TakeuchiTrace(NamedTuple):
    """T = tr((H + λ)⁻¹ C) for each damping λ, in units of the loss, from R of the gradients."""

    value: Float[Array, "*l"]
    sem: Float[Array, "*l"]
    """Standard error over the gradients; 0 where they are those of all samples. Too small where
    ``effective`` is."""
    effective: Float[Array, "*l"]
    """The effective number of gradients, (Σ|t|)² / Σt²: of a few, T depends on a few samples."""
    smallest: Float[Array, ""]
    """The smallest Ritz value of H without λ. Below −λ there is no minimum, and T means nothing."""
    change: Float[Array, "*l"]
    """Relative change of T in the last quarter of the Lanczos steps: more steps where it is not
    small."""


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
    num_samples·num_steps products with the Hessian, and num_steps·P numbers of memory.

    Args:
        key: Draws the samples whose gradients are taken.
        loss, params, data, batch_size: As for ``hessian_operator``, no batches; w is ``params``.
        weight_decay: λ, or several.
        gradient_data: Samples whose gradients are taken in place of those of ``data``. Of a network
            that fits its training samples, those of new samples are far larger.
        num_samples: R, from 2 to the number of samples.
        num_steps: Lanczos steps from each gradient; never more than P.

    Raises:
        InputError: num_samples or num_steps out of range; what ``hessian_operator`` raises.

    Example:
        >>> import jax, jax.numpy as jnp, jaxscape as js
        >>> loss = lambda w, batch: 0.5 * (batch["x"] @ w - batch["y"]) ** 2
        >>> x = jax.random.normal(jax.random.key(0), (500, 3))
        >>> data = {"x": x, "y": x @ jnp.ones(3) + jax.random.normal(jax.random.key(1), (500,))}
        >>> w = jnp.linalg.lstsq(x, data["y"])[0]
        >>> found = js.takeuchi_trace(key := jax.random.key(2), loss, w, data, num_samples=500)
        >>> bool(abs(found.value - 3) < 0.4)    # P σ² for the noise σ = 1
        True
        >>> excess = js.excess_law(found.value, k=100, to=500)    # of the loss of refitted networks
    """
    length_of(data)  # arrays, not batches: they are read thousands of times
    own = data if gradient_data is None else gradient_data
    rows, steps = _drawn(key, params, own, num_samples, num_steps)
    operator = hessian_operator(loss, params, data, batch_size=batch_size)
    _, bound = losses.ready(loss, params, own)
    decay = jnp.asarray(weight_decay, jnp.result_type(float))
    found = _takeuchi(operator, bound, own, rows, decay, steps, batch_size)
    _check_finite(found.value, operator)
    return found


def _check_finite(found: Array, operator: Any) -> None:
    """Refuse what came of a loss or a derivative that is not finite, where not traced."""
    if is_traced(found) or jnp.isfinite(found).all():
        return
    bad = nonfinite_samples(operator)
    where = f"a loss of NaN or infinity for {len(bad)} samples, the first at {bad[:1]}"
    if not len(bad):
        where = "finite losses: a derivative, or a loss of gradient_data, is not"
    raise InputError(f"expected finite gradients and Hessian, found {where}; leave them out")


def _drawn(
    key: Key[Array, ""], params: Params, data: Batch, num_samples: int, num_steps: int
) -> tuple[Int[Array, "R"], int]:
    """Which samples' gradients are taken, and how many Lanczos steps start at each."""
    n = length_of(data)
    if not 2 <= num_samples <= n:
        raise InputError(
            f"expected num_samples from 2 to {n} (the samples), found {num_samples}; change it"
        )
    if num_steps < 1:
        raise InputError(f"expected num_steps of at least 1, found {num_steps}; raise it")
    rows = jax.random.choice(check_key(key), n, (num_samples,), replace=False)
    return rows, min(num_steps, num_parameters(params))


@partial(jax.jit, static_argnums=(5, 6))
def _takeuchi(
    operator: MeanOperator,
    loss: Partial,
    data: Batch,
    rows: Int[Array, "R"],
    decay: Float[Array, "*l"],
    steps: int,
    batch_size: int,
) -> TakeuchiTrace:
    product, _, flat = flatten(operator, working(operator.params))
    n, mean = length_of(data), _mean_gradient(operator.params, loss, data, batch_size)

    def at(matrix: Float[Array, "s s"]) -> tuple[Array, Array]:
        """The first entry of (T + λ)⁻¹ for each λ, and the smallest Ritz value."""
        nodes, vectors = jnp.linalg.eigh(matrix)
        weights = vectors[0] ** 2
        own = weights > jnp.finfo(flat.dtype).eps ** 2  # not of an exhausted Krylov space
        shifted = jnp.where(own, nodes + decay[..., None], 1)
        first = jnp.sum(jnp.where(own, weights / shifted, 0), -1)
        return first, jnp.min(jnp.where(own, nodes, jnp.inf))

    def one(row: Int[Array, ""]) -> tuple[Array, Array, Array]:
        gradient = _gradient(operator.params, loss, take(data, row, 1)) - mean
        matrix, _ = tridiagonal(product, gradient, steps, COMPILED)
        few = max(1, 3 * steps // 4)
        (whole, smallest), (fewer, _) = at(matrix), at(matrix[:few, :few])
        square = dot(gradient, gradient)
        return square * whole, square * fewer, smallest

    terms, before, smallest = jax.lax.map(one, rows)
    scale, count = n / (n - 1), len(rows)
    value, earlier = scale * terms.mean(0), scale * before.mean(0)
    sem = scale * terms.std(0, ddof=1) * jnp.sqrt((1 - count / n) / count)
    effective = jnp.sum(jnp.abs(terms), 0) ** 2 / jnp.sum(terms**2, 0)
    change = jnp.abs(value - earlier) / jnp.where(value == 0, 1, value)
    return TakeuchiTrace(value, sem, effective, smallest.min(), change)


def _gradient(params: Params, loss: Partial, batch: Batch, weight: ArrayLike = 1.0) -> Array:
    with jax.default_matmul_precision("highest"):
        found = jax.grad(lambda w: jnp.sum(jnp.where(weight, loss(w, batch), 0)))(params)
    return ravel_pytree(found)[0]


def _mean_gradient(params: Params, loss: Partial, data: Batch, batch_size: int) -> Array:
    chunks = cut(length_of(data), batch_size)

    def add(total: Array, chunk: tuple[Array, Array]) -> tuple[Array, None]:
        start, fresh = chunk
        return total + _gradient(params, loss, take(data, start, chunks.size), fresh), None

    zeros = jnp.zeros_like(ravel_pytree(params)[0])
    pairs = jnp.asarray(chunks.starts), jnp.asarray(chunks.fresh)
    return jax.lax.scan(add, zeros, pairs)[0] / length_of(data)


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
    gradients, or where the quadrature has not converged.

    Args:
        found: From ``takeuchi_trace``.
        n: The number of samples that the network was trained on.
        gap: Mean loss of new samples less that of those n.
        gap_sem: Its standard error.
        weight_decay: λ, as in ``found``.

    >>> found = TakeuchiTrace(*map(jnp.asarray, (30.0, 2.0, 40.0, 1e-3, 0.01)))
    >>> [bool(excess_law_holds(found, 1000, gap).holds) for gap in (0.033, 0.3)]
    [True, False]
    """
    low, high = (found.value + side * found.sem * 2 for side in (-1, 1))
    least, most = (gap + side * gap_sem * 2 for side in (-1, 1))
    within = (low / n >= most / AGREE) & (high / n <= least * AGREE) & (least > 0)
    apart = (low / n > most * AGREE) | (high / n < least / AGREE)
    saddle = found.smallest + jnp.asarray(weight_decay) < 0
    sound = (found.effective >= TRUSTED) & (found.change <= SETTLED)
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
        space: d orthonormal directions through w.
        loss, data, batch_size: As for ``project``.
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
    leading eigenvectors, and ``eigenvalues`` its leading eigenvalues without the 1/k, as R samples
    show them: few samples see less than all do, and the products with (H + λ)⁻¹ are as exact as
    num_steps Lanczos steps make them. Warns, where not traced, unless H + λ is positive there.

    Args:
        key, loss, params, data, weight_decay, num_samples, num_steps, batch_size: As for
            ``takeuchi_trace``; memory is num_samples·P numbers more.
        dim: The number d of directions, at most num_samples and P.

    Raises:
        InputError: dim out of range; what ``takeuchi_trace`` raises.

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
    rows, steps = _drawn(key, params, data, num_samples, num_steps)
    if dim > num_samples:
        raise InputError(f"expected dim of at most num_samples, {num_samples}, found {dim}")
    operator = hessian_operator(loss, params, data, batch_size=batch_size)
    _, bound = losses.ready(loss, params, data)
    decay = jnp.asarray(weight_decay, jnp.result_type(float))
    values, basis, smallest = _influences(
        operator, bound, data, rows, decay, steps, batch_size, dim
    )
    _check_finite(values, operator)
    if not is_traced(smallest) and smallest <= -decay:
        warnings.warn(
            f"H has a Ritz value of {smallest:.2g}, at or below −λ = {0 - decay:.2g}: the "
            "parameters are at no minimum, and the directions mean little; train on with more "
            "weight decay",
            stacklevel=3,
        )
    return Subspace(params, basis, values)


@partial(jax.jit, static_argnums=(5, 6, 7))
def _influences(
    operator: MeanOperator,
    loss: Partial,
    data: Batch,
    rows: Int[Array, "R"],
    decay: Float[Array, ""],
    steps: int,
    batch_size: int,
    dim: int,
) -> tuple[Float[Array, "d"], Params, Float[Array, ""]]:
    product, unravel, flat = flatten(operator, working(operator.params))
    n, mean = length_of(data), _mean_gradient(operator.params, loss, data, batch_size)

    def one(row: Int[Array, ""]) -> tuple[Array, Array]:
        gradient = _gradient(operator.params, loss, take(data, row, 1)) - mean
        matrix, basis = tridiagonal(product, gradient, steps, COMPILED)
        nodes, vectors = jnp.linalg.eigh(matrix)
        own = vectors[0] ** 2 > jnp.finfo(flat.dtype).eps ** 2  # not of an exhausted Krylov space
        first = jnp.where(own, vectors[0] / jnp.where(own, nodes + decay, 1), 0)
        moved = dot(dot(vectors, first), basis) * jnp.linalg.norm(gradient)
        return moved, jnp.min(jnp.where(own, nodes, jnp.inf))

    moved, smallest = jax.lax.map(one, rows)
    _, scales, directions = jnp.linalg.svd(moved, full_matrices=False)
    values = scales[:dim] ** 2 * n / (n - 1) / len(rows)
    return values, jax.vmap(unravel)(directions[:dim]), smallest.min()


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
