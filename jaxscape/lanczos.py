"""The leading eigenpairs of a symmetric operator by thick-restart Lanczos."""

import math
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from jaxscape.copies import is_checked
from jaxscape.krylov import State, empty, extend, rayleigh_ritz, restart
from jaxscape.operators import check_floating, dot, flatten, hoist, working
from jaxscape.types import InputError, Matvec, Params


class Eigenpairs(NamedTuple):
    """Eigenpairs (λ_i, v_i), the residual ‖H v_i − λ_i v_i‖ of each, and whether it is small."""

    values: Float[Array, "num"]
    vectors: Params  # leaves [num, ...], orthonormal as flat vectors
    residuals: Float[Array, "num"]
    converged: Bool[Array, "num"]
    matvecs: Int[Array, ""]


def top_eigenpairs(
    matvec: Matvec,
    like: Params,
    num: int,
    *,
    key: Key[Array, ""],
    which: Literal["largest", "magnitude"] = "largest",
    tol: float = 1e-4,
    max_restarts: int = 100,
    krylov_dim: int | None = None,
    copies: bool = True,
) -> Eigenpairs:
    """The ``num`` leading eigenpairs of the symmetric operator ``matvec``.

    Thick-restart Lanczos (Wu & Simon 2000, "Thick-restart Lanczos method for large symmetric
    eigenvalue problems") with full reorthogonalisation, one compiled loop with one product per
    turn. Pair i is converged when ‖H v_i − λ_i v_i‖ ≤ max(tol·|λ_i|, 10 ε max|θ|), with ε the
    machine epsilon and max|θ| the largest Ritz value by magnitude: below that a residual is
    rounding, so an exact zero eigenvalue counts as converged.

    One Krylov space holds a single copy of a repeated eigenvalue. So once all pairs have
    converged, the search goes on from a random vector orthogonal to everything found, and ends
    when some further products (a third of those so far, and at least a bound on random starts)
    bring no new wanted pair. That makes a missed copy unlikely, not impossible: where a
    threefold eigenvalue 1 lies above 300 others spread evenly up to 0.999, 1 start of 200 misses
    one.

    Args:
        matvec: H. A pytree (``hvp``, or ``jax.tree_util.Partial(f, arrays)``) is compiled once per
            set of shapes; a plain closure once per call.
        like: a pytree with the structure, shapes and types of an eigenvector, half precision
            raised to float32; values are not read.
        num: how many, 1 ≤ num ≤ P.
        key: of the random starting vectors, and of the sign of each eigenvector, which would
            otherwise hang on rounding.
        which: "largest" algebraically, or in "magnitude"; both in descending order, sign kept.
        tol: relative residual that counts as converged.
        max_restarts: afterwards the best pairs so far are returned, some not ``converged``; so
            they are when a product is not finite.
        krylov_dim: vectors kept, min(num + 3, P) ≤ krylov_dim ≤ P; by default min(2·num + 20, P).
            They and their products are 2·krylov_dim·P numbers, a restart takes as many again. Fewer
            vectors leave no room to search for missed copies.
        copies: whether to search for them. Without, the end comes once all pairs have converged,
            as in ARPACK: fine where no eigenvalue repeats, and a quarter of the products less.

    Raises:
        InputError: an argument out of range, or ``matvec`` returns another shape.
    """
    check_floating(like)
    p = sum(jnp.size(leaf) for leaf in jax.tree.leaves(like))
    dim = min(2 * num + 20, p) if krylov_dim is None else krylov_dim
    _check(p, num, which, tol, max_restarts, dim)
    like = working(like)
    matvec = hoist(matvec, like)
    options: dict[str, Any] = {"like": _shapes(like), "num": num, "which": which, "dim": dim}
    options["copies"] = copies
    return _solve(matvec, key, tol, max_restarts, **options)


def _shapes(like: Params) -> tuple:
    """Structure, shapes and types, hashable: values may lie on other devices than the operator."""
    leaves, tree = jax.tree.flatten(like)
    return tree, tuple(jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)) for x in leaves)


def _check(p: int, num: int, which: str, tol: float, max_restarts: int, dim: int) -> None:
    if not 1 <= num <= p:
        raise InputError(f"expected 1 <= num <= {p} (the parameters), found {num}; change num")
    if which not in ("largest", "magnitude"):
        raise InputError(f'expected which="largest" or "magnitude", found {which!r}; use one')
    if not isinstance(tol, jax.core.Tracer) and not 0 < tol < math.inf:
        raise InputError(f"expected a finite tol above 0, found {tol}; 1e-4 suits float32")
    if max_restarts < 0:
        raise InputError(f"expected max_restarts of at least 0, found {max_restarts}; raise it")
    if not min(num + 3, p) <= dim <= p:
        raise InputError(
            f"expected {min(num + 3, p)} <= krylov_dim <= {p}, found {dim}; change krylov_dim"
        )


def _solve(
    matvec: Matvec,
    key: Key[Array, ""],
    tol: float,
    max_restarts: int,
    *,
    like: tuple,
    num: int,
    which: str,
    dim: int,
    copies: bool,
) -> Eigenpairs:
    tree, leaves = like
    flat = flatten(matvec, tree.unflatten(jnp.zeros(x.shape, x.dtype) for x in leaves))
    project = partial(rayleigh_ritz, num=num, which=which, tol=tol)

    def unfinished(state: State) -> Bool[Array, ""]:
        checked = is_checked(state.streak, state.matvecs, flat.dim) | (not copies)
        done = checked & state.ritz.converged.all()
        return ~done & (state.size < flat.dim) & jnp.isfinite(state.projected).all()

    def cycle(state: State) -> State:
        state = restart(state, keep=num + (dim - num) // 2)
        return jax.lax.while_loop(
            lambda s: unfinished(s) & (s.size < dim),
            lambda s: extend(s, flat.matvec, project),
            state,
        )

    # Two nested loops, so that the product is compiled once and no step copies the basis.
    end = jax.lax.while_loop(
        lambda s: unfinished(s) & (s.restarts < max_restarts),
        cycle,
        empty(flat, dim, key, project),
    )
    found, count = end.ritz, end.matvecs
    signed = _turn(dot(found.coefficients[:num], end.basis), jax.random.fold_in(key, flat.dim))
    vectors = jax.vmap(flat.unravel)(signed)
    return Eigenpairs(found.values[:num], vectors, found.residuals, found.converged, count)


def _turn(vectors: Float[Array, "num p"], key: Key[Array, ""]) -> Float[Array, "num p"]:
    """With the sign that points along a random vector.

    Else the sign hangs on rounding, so on the number of devices: points along a vector that another
    device has reversed would be other points.
    """
    along = dot(vectors, jax.random.normal(key, vectors.shape[1:], vectors.dtype))
    return jnp.where(along < 0, -1, 1).astype(vectors.dtype)[:, None] * vectors


_solve = jax.jit(_solve, static_argnames=("like", "num", "which", "dim", "copies"))
