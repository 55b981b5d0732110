"""A Krylov basis that grows by one vector and shrinks to its leading Ritz vectors."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from jaxscape.copies import STIRRED, is_checked
from jaxscape.operators import Flat, dot, length, orthonormalise


class Ritz(NamedTuple):
    """All Ritz pairs (θ, Vᵀs), the wanted ones first, with residuals of the first ``num``."""

    values: Float[Array, "r"]
    coefficients: Float[Array, "r r"]  # row i holds s_i
    residuals: Float[Array, "num"]
    converged: Bool[Array, "num"]
    pending: Bool[Array, "num"]  # wanted, present in the basis, not yet converged
    settled: Bool[Array, "num"]  # converged, or was and is stirred a little
    rounding: Float[Array, ""]  # residuals below this are noise


class State(NamedTuple):
    """The basis, what the operator makes of it, and what has been learnt from it so far."""

    basis: Float[Array, "r p"]  # V, orthonormal rows; unused rows are zero
    images: Float[Array, "r p"]  # V H, kept so that residuals are computed, not estimated
    projected: Float[Array, "r r"]  # T = V H Vᵀ
    size: Int[Array, ""]
    last: Float[Array, "p"]  # newest image, orthogonal to the basis
    ritz: Ritz
    streak: Int[Array, ""]  # products of the check for missed copies, since it last found one
    restarts: Int[Array, ""]
    matvecs: Int[Array, ""]
    key: Key[Array, ""]


def empty(flat: Flat, dim: int, key: Key[Array, ""], project: Callable) -> State:
    """A basis with room for ``dim`` vectors."""
    zeros = jnp.zeros((dim, flat.dim), flat.dtype)
    square, count = jnp.zeros((dim, dim), flat.dtype), jnp.zeros((), jnp.int32)
    ritz = jax.eval_shape(project, zeros, zeros, square, count)
    return State(
        basis=zeros,
        images=zeros,
        projected=square,
        size=count,
        last=zeros[0],
        ritz=jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), ritz),  # none is known
        streak=count,
        restarts=count - 1,  # the first cycle starts without one
        matvecs=count,
        key=key,
    )


def rayleigh_ritz(
    basis: Float[Array, "r p"],
    images: Float[Array, "r p"],
    projected: Float[Array, "r r"],
    size: Int[Array, ""],
    *,
    num: int,
    which: str,
    tol: float,
) -> Ritz:
    """The eigenpairs of T over its first ``size`` rows, with the true residuals of the wanted.

    A pair is converged when its residual is at most max(tol·|θ|, 10 ε max|θ|).
    """
    # Unused rows get a value below all others, so that eigh mixes none of them with a used one
    # and puts them first.
    rows = jnp.arange(len(projected))
    bound = jnp.max(jnp.sum(jnp.abs(projected), 0))
    below = jnp.where(bound > 0, -2 * bound, -1)
    values, columns = jnp.linalg.eigh(projected + jnp.diag(jnp.where(rows < size, 0, below)))
    used = rows >= len(rows) - size
    norm = jnp.max(jnp.where(used, jnp.abs(values), 0))
    rank = values if which == "largest" else jnp.abs(values)
    order = jnp.argsort(jnp.where(used, -rank, jnp.inf))
    values, coefficients = values[order], columns.T[order]

    wanted, present = coefficients[:num], rows[:num] < size
    gaps = dot(wanted, images) - values[:num, None] * dot(wanted, basis)
    residuals = length(gaps)
    rounding = 10 * jnp.finfo(values.dtype).eps * norm
    limits = jnp.maximum(tol * jnp.abs(values[:num]), rounding)
    small, settled = residuals <= limits, residuals <= STIRRED * limits
    states = small & present, ~small & present, settled & present
    return Ritz(values, coefficients, residuals, *states, rounding)


def restart(state: State, keep: int) -> State:
    """The basis shrunk to its ``keep`` leading Ritz vectors, if it has as many."""
    size = jnp.minimum(state.size, keep)
    kept = jnp.arange(len(state.projected)) < size
    rows = jnp.where(kept[:, None], state.ritz.coefficients, 0)
    basis = dot(rows, state.basis)
    # One Newton-Schulz step: the rounding of many restarts would else add up in the basis.
    rows = dot(1.5 * jnp.eye(len(rows), dtype=rows.dtype) - 0.5 * dot(basis, basis.T), rows)
    basis, images = dot(rows, state.basis), dot(rows, state.images)
    projected = dot(basis, images.T)
    return state._replace(
        basis=basis,
        images=images,
        projected=(projected + projected.T) / 2,
        size=size,
        ritz=state.ritz._replace(coefficients=jnp.eye(len(rows), dtype=rows.dtype)),
        restarts=state.restarts + 1,
    )


def extend(state: State, matvec: Callable, project: Callable) -> State:
    """One more basis vector, its product, and the Ritz pairs of the larger basis."""
    key, noise_key = jax.random.split(state.key)
    noise = jax.random.normal(noise_key, state.last.shape, state.last.dtype)
    vector, share = orthonormalise(_direction(state, noise), state.basis)
    vector = jax.lax.cond(
        share > 0.1, lambda: vector, lambda: orthonormalise(noise, state.basis)[0]
    )
    image = matvec(vector)
    basis = state.basis.at[state.size].set(vector)
    images = state.images.at[state.size].set(image)
    row = dot(basis, image)
    projected = state.projected.at[state.size].set(row).at[:, state.size].set(row)
    found = project(basis, images, projected, state.size + 1)
    quiet = jnp.where(state.streak > 0, found.settled.all(), found.converged.all())
    return state._replace(
        basis=basis,
        images=images,
        projected=projected,
        size=state.size + 1,
        last=image - dot(row, basis),
        ritz=found,
        streak=jnp.where(quiet, state.streak + 1, 0),
        matvecs=state.matvecs + 1,
        key=key,
    )


def _direction(state: State, noise: Float[Array, "p"]) -> Float[Array, "p"]:
    """Where to look next: before and after the check along the worst residual of a wanted pair,
    which in a Krylov space is its next vector; in it along its own Krylov space; else anywhere.
    """
    ritz = state.ritz
    worst = jnp.argmax(jnp.where(ritz.pending, ritz.residuals, -1))
    row = ritz.coefficients[worst]
    residual = dot(row, state.images) - ritz.values[worst] * dot(row, state.basis)
    checking = (state.streak > 1) & (length(state.last) > ritz.rounding)
    elsewhere = jnp.where(checking, state.last, noise)
    refine = (state.streak == 0) | is_checked(state.streak, state.matvecs, len(noise))
    return jnp.where(ritz.pending.any() & refine, residual, elsewhere)
