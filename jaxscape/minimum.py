"""How far the minimum itself moves as samples arrive: the trace of H⁻¹C, and its laws.

Let w_N minimise L_N + (λ/2)‖w‖², λ the weight decay, H the Hessian there and C the covariance of
the per-sample gradients. For k of the N samples at random, to first order, w_k − w_N is
−H⁻¹(∇L_k − ∇L_N)(w_N), so that E[L_N(w_k) − L_N(w_N)] = ½ (1/k − 1/N) T with T = tr(H⁻¹C), and the
generalisation gap is T/N (Takeuchi 1976; Thomas et al. 2020, "On the interplay between noise and
curvature"). Whether a network is so close to a minimum that this holds is to be seen from
``TakeuchiTrace``, and from networks refitted at a few k.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key, Real

from jaxscape import losses
from jaxscape.arguments import explained
from jaxscape.batching import cut, length_of, take
from jaxscape.curvature import MeanOperator, hessian_operator
from jaxscape.lanczos import COMPILED, dot, flatten
from jaxscape.quadratic import project
from jaxscape.quadrature import tridiagonal
from jaxscape.sample_size import SufficientSize, distance_law, distance_size
from jaxscape.subspace import Subspace
from jaxscape.trees import check_key, num_parameters, working
from jaxscape.types import Batch, InputError, Params, PerSampleLoss, Scalar


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
    own = data if gradient_data is None else gradient_data
    n, p, _ = length_of(own), num_parameters(params), length_of(data)
    if not 2 <= num_samples <= n:
        raise InputError(
            f"expected num_samples from 2 to {n} (the samples), found {num_samples}; change it"
        )
    if num_steps < 1:
        raise InputError(f"expected num_steps of at least 1, found {num_steps}; raise it")
    operator = hessian_operator(loss, params, data, batch_size=batch_size)
    _, bound = losses.ready(loss, params, own)
    rows = jax.random.choice(check_key(key), n, (num_samples,), replace=False)
    decay = jnp.asarray(weight_decay, jnp.result_type(float))
    return _takeuchi(operator, bound, own, rows, decay, min(num_steps, p), batch_size)


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
        matrix = tridiagonal(product, gradient, steps, COMPILED)
        few = max(1, 3 * steps // 4)
        (whole, smallest), (fewer, _) = at(matrix), at(matrix[:few, :few])
        square = dot(gradient, gradient)
        return square * whole, square * fewer, smallest

    terms, before, smallest = jax.lax.map(one, rows)
    scale, count = n / (n - 1), len(rows)
    value, earlier = scale * terms.mean(0), scale * before.mean(0)
    sem = scale * terms.std(0, ddof=1) * jnp.sqrt((1 - count / n) / count)
    effective = jnp.sum(jnp.abs(terms), 0) ** 2 / jnp.sum(terms**2, 0)
    return TakeuchiTrace(value, sem, effective, smallest.min(), jnp.abs(value - earlier) / value)


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
