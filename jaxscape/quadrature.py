"""Spectral density and trace of a symmetric operator, by stochastic Lanczos quadrature."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxscape.arguments import explained
from jaxscape.lanczos import compiled, dot, flatten, hoist, orthonormalise, step
from jaxscape.trees import check_floating, length, num_parameters, working
from jaxscape.types import InputError, Matvec, Params


class Estimate(NamedTuple):
    """A mean over random vectors with its standard error."""

    mean: Float[Array, "..."]
    sem: Float[Array, "..."]


class Density(NamedTuple):
    """Gauss quadrature of the spectral density, one rule per random vector, of weights sum 1."""

    nodes: Float[Array, "probes steps"]
    weights: Float[Array, "probes steps"]

    def smooth(self, grid: Float[Array, "g"], width: float) -> Estimate:
        """The density convolved with a Gaussian, φ(t) = Σ_k w_k N(t; θ_k, width²), on ``grid``.

        ``grid`` and ``width`` (above 0) are in units of an eigenvalue, φ in its inverse, ∫φ = 1.
        """
        if not 0 < width < math.inf:
            raise InputError(f"expected a finite width above 0, found {width}; widen it")
        grid = jnp.asarray(grid)

        def one(rule: Density) -> Float[Array, "g"]:
            kernel = jnp.exp(-(((grid[:, None] - rule.nodes) / width) ** 2) / 2)
            return dot(kernel, rule.weights) / (width * math.sqrt(2 * math.pi))

        return _estimate(jax.lax.map(one, self))


@explained
def spectral_density(
    key: Key[Array, ""], matvec: Matvec, like: Params, *, num_probes: int, num_steps: int
) -> Density:
    """The density (1/P) Σ_i δ(t − λ_i) of a symmetric operator by stochastic Lanczos quadrature.

    Lanczos steps with full reorthogonalisation from random sign vectors z; nodes are Ritz values,
    weights the squared first components of the tridiagonal matrix's eigenvectors. Each rule gives
    zᵀHʲz / P exactly for j < 2·num_steps, of mean tr Hʲ / P (Ubaru, Chen & Saad 2017, "Fast
    estimation of tr(f(A)) via stochastic Lanczos quadrature"; Ghorbani, Krishnan & Xiao 2019).

    Args:
        matvec, like: H and the shapes of its vectors, as for ``top_eigenpairs``.
        num_probes: Random vectors, at least 2 for a standard error, else an ``InputError``.
        num_steps: Lanczos steps from each, 1 to P, else an ``InputError``; at num_steps·P numbers.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> matvec = jax.tree_util.Partial(jnp.multiply, jnp.arange(12.0))  # of mean 5.5
        >>> rule = spectral_density(jax.random.key(0), matvec, jnp.zeros(12),
        ...                         num_probes=8, num_steps=10)
        >>> rule.nodes.shape, round(float(jnp.sum(rule.nodes * rule.weights) / 8), 3)
        ((8, 10), 5.5)
    """
    held, p = _prepared(key, matvec, like, num_probes), num_parameters(like)
    if not 1 <= num_steps <= p:
        raise InputError(f"expected 1 <= num_steps <= {p}, found {num_steps}; change num_steps")
    return _density(*held, num_steps=num_steps)


@explained
def trace(key: Key[Array, ""], matvec: Matvec, like: Params, *, num_probes: int) -> Estimate:
    """The trace of an operator as the mean of zᵀHz over random sign vectors z.

    E zᵀHz = tr H, with variance 2 Σ_{i≠j} H_ij² per vector for symmetric H (Hutchinson 1989).

    Args:
        key, matvec, like, num_probes: As for ``spectral_density``, and so are the errors.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> matvec = jax.tree_util.Partial(jnp.multiply, jnp.arange(5.0))
        >>> trace(jax.random.key(0), matvec, jnp.zeros(5), num_probes=2)
        Estimate(mean=Array(10., dtype=float32), sem=Array(0., dtype=float32))
    """
    return _trace(*_prepared(key, matvec, like, num_probes))


@compiled
def _trace(loops: Any, matvec: Matvec, like: Params, keys: Key[Array, "probes"]) -> Estimate:
    product, flat = flatten(matvec, like)

    def one(carry: None, key: Key[Array, ""]) -> tuple[None, Float[Array, ""]]:
        signs = jax.random.rademacher(key, flat.shape, flat.dtype)
        return carry, dot(signs, product(signs))

    return _estimate(loops.scan(one, None, keys)[1])


@partial(compiled, static_argnames="num_steps")
def _density(loops: Any, matvec: Matvec, like: Params, keys: Array, num_steps: int) -> Density:
    product, flat = flatten(matvec, like)

    def one(carry: None, key: Key[Array, ""]) -> tuple[None, Density]:
        signs = jax.random.rademacher(key, flat.shape, flat.dtype)
        nodes, vectors = jnp.linalg.eigh(tridiagonal(product, signs, num_steps, loops)[0])
        return carry, Density(nodes, vectors[0] ** 2)

    return loops.scan(one, None, keys)[1]


def tridiagonal(
    matvec: Callable[[Array], Array], start: Float[Array, "p"], steps: int, loops: Any = jax.lax
) -> tuple[Float[Array, "steps steps"], Float[Array, "steps p"]]:
    """T = V H Vᵀ of the Krylov space of ``start``, and its basis V."""
    basis = jnp.zeros((steps, len(start)), start.dtype)
    norm = jnp.linalg.norm(start)
    carry = (basis, start / jnp.where(norm == 0, 1, norm), jnp.zeros((), start.dtype))
    grow = lambda carry, i: _grow(carry, i, matvec(carry[1]))  # noqa: E731
    (basis, *_), (diagonal, beta) = loops.scan(grow, carry, jnp.arange(steps))
    return jnp.diag(diagonal) + jnp.diag(beta[:-1], 1) + jnp.diag(beta[:-1], -1), basis


@step
def _grow(carry: tuple[Array, Array, Array], i: Array, image: Float[Array, "p"]):
    """One Lanczos step: the basis with its next vector, of product ``image``, and that after it."""
    basis, vector, scale = carry
    basis = basis.at[i].set(vector)
    diagonal = dot(vector, image)
    norm = length(image)
    scale = jnp.maximum(scale, norm)
    following, share = orthonormalise(image, basis)
    beta = share * norm
    # An exhausted space goes on with zero vectors, which decouple: their nodes weigh nothing.
    alive = beta > 10 * jnp.finfo(scale.dtype).eps * scale
    beta, following = jnp.where(alive, beta, 0), jnp.where(alive, following, 0)
    return (basis, following, scale), (diagonal, beta)


def _estimate(values: Float[Array, "probes ..."]) -> Estimate:
    return Estimate(values.mean(0), values.std(0, ddof=1) / math.sqrt(len(values)))


def _prepared(key: Array, matvec: Matvec, like: Params, probes: int) -> tuple:
    check_floating(like)
    if probes < 2:
        raise InputError(f"expected at least 2 probes, found {probes}; one has no standard error")
    like = working(like)
    return hoist(matvec, like), like, jax.random.split(key, probes)
