"""Symmetric operators on pytrees, seen as operators on flat vectors."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from jaxscape.types import InputError, Matvec, Params


class Flat(NamedTuple):
    """An operator on vectors of length ``dim``, in float32 or better."""

    matvec: Callable[[Float[Array, "p"]], Float[Array, "p"]]
    unravel: Callable[[Float[Array, "p"]], Params]
    dim: int
    dtype: jnp.dtype


def check_floating(params: Params) -> None:
    """An ``InputError`` unless every leaf of ``params`` is real floating point."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    for path, leaf in leaves:
        dtype = _dtype(leaf)
        if not jnp.issubdtype(dtype, jnp.floating):
            name = jax.tree_util.keystr(path) or "the only leaf"
            raise InputError(
                f"expected floating-point parameters, found {dtype} at {name}; "
                "keep such leaves out of the parameters (partition), for the loss to put back"
            )
    if sum(jnp.size(leaf) for _, leaf in leaves) == 0:
        raise InputError("expected at least one parameter, found none; pass the trained parameters")


def _dtype(leaf: Any) -> Any:
    """The dtype of an array or number, else the type: networks may keep functions among leaves."""
    try:
        return jnp.result_type(leaf)
    except TypeError:
        return type(leaf)


def working(tree: Params) -> Params:
    """The tree with half-precision leaves in float32; all other leaves as they are."""

    def leaf(x: Array) -> Array:
        dtype = jnp.result_type(x)
        half = jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32
        return jnp.asarray(x, jnp.float32) if half else x

    return jax.tree.map(leaf, tree)


def check_like(vector: Params, params: Params, name: str = "the vector") -> None:
    """An ``InputError`` unless ``vector`` has the tree and the shapes of ``params``."""

    def describe(tree: Params) -> tuple:
        return jax.tree.structure(tree), [jnp.shape(leaf) for leaf in jax.tree.leaves(tree)]

    if describe(vector) != describe(params):
        (found, shapes), (expected, wanted) = describe(vector), describe(params)
        raise InputError(
            f"expected {name} to be shaped like the parameters, {expected} with {wanted}, "
            f"found {found} with {shapes}; build it with jax.tree.map over them"
        )


def hoist(matvec: Matvec, like: Params) -> Matvec:
    """The same operator as a pytree, so that ``jit`` takes what it closes over as arguments.

    Operators that already are pytrees (those of ``curvature``, ``jax.tree_util.Partial``) are
    returned as they are; a compiled program then serves every operator of the same kind. A plain
    closure is traced here, each time, so that no array becomes a constant of a compiled program
    nor outlives the call.
    """
    if not jax.tree_util.all_leaves([matvec]):
        return matvec
    # A new function each time: tracing is cached, so what a known one closes over may be stale.
    closed, shape = jax.make_jaxpr(lambda vector: matvec(vector), return_shape=True)(like)

    def apply(consts: list[Array], vector: Params) -> Params:
        leaves = jax.core.eval_jaxpr(closed.jaxpr, consts, *jax.tree.leaves(vector))
        return jax.tree.unflatten(jax.tree.structure(shape), leaves)

    # ``apply`` must not keep the constants alive: it reaches ``closed`` for its equations only.
    consts, closed = closed.consts, closed.replace(consts=[None] * len(closed.consts))
    return jax.tree_util.Partial(apply, consts)


def flatten(matvec: Matvec, like: Params) -> Flat:
    """``matvec`` on raveled vectors; the pytree is taken apart only here."""
    flat, unravel = ravel_pytree(like)

    def product(vector: Float[Array, "p"]) -> Float[Array, "p"]:
        image = matvec(unravel(vector))
        check_like(image, like, "the operator's product")
        return ravel_pytree(image)[0].astype(flat.dtype)

    return Flat(product, unravel, flat.size, flat.dtype)


def dot(a: Array, b: Array) -> Array:
    """The product of matrices or vectors in full precision on every device."""
    return jnp.matmul(a, b, precision="highest")


def length(vectors: Float[Array, "*rows p"]) -> Float[Array, "*rows"]:
    """The Euclidean norm over the last axis, whose squares neither underflow nor overflow."""
    largest = jnp.max(jnp.abs(vectors), -1, keepdims=True)
    scale = jnp.where(largest > 0, largest, 1)
    return scale[..., 0] * jnp.linalg.norm(vectors / scale, axis=-1)


def orthonormalise(
    vector: Float[Array, "p"], basis: Float[Array, "r p"]
) -> tuple[Float[Array, "p"], Float[Array, ""]]:
    """The unit vector along the part of ``vector`` orthogonal to ``basis``; that part's share.

    Gram-Schmidt twice, which is enough (Giraud et al. 2005); the share of a vector that lies in
    the span, or is zero, is at rounding level, and its direction then means nothing.
    """
    tiny = jnp.finfo(vector.dtype).tiny
    vector /= jnp.maximum(length(vector), tiny)
    share = jnp.ones((), vector.dtype)
    for _ in range(2):
        vector -= dot(dot(basis, vector), basis)
        norm = length(vector)
        vector /= jnp.maximum(norm, tiny)
        share *= norm
    return vector, share
