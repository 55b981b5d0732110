"""Parameters as vectors: partition and combine, size, checks, half precision raised to float32."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxscape.types import InputError, Params


def partition(params: Params, mask: Any) -> tuple[Params, Params]:
    """The leaves of ``params`` where ``mask`` is True, and the others; ``None`` takes their place.

    ``mask`` is a pytree of Booleans, each for a leaf or for all leaves below it. With ``combine``
    some parameters of a network are frozen:

    >>> import jax, jaxscape as js
    >>> params = {"body": jax.numpy.ones(3), "head": jax.numpy.zeros(2)}
    >>> head, body = js.partition(params, {"body": False, "head": True})
    >>> def loss(body, head, batch):
    ...     params = js.combine(head, body)
    ...     return (batch @ params["body"] - params["head"].sum()) ** 2
    >>> head_loss = jax.tree_util.Partial(loss, body)  # js.delta(head_loss, js.single(head), data)
    """
    mask = jax.tree.broadcast(mask, params)
    part = jax.tree.map(lambda leaf, own: leaf if own else None, params, mask)
    rest = jax.tree.map(lambda leaf, own: None if own else leaf, params, mask)
    return part, rest


def combine(part: Params, rest: Params) -> Params:
    """Undo ``partition``, perhaps with other values in ``part``."""
    return jax.tree.map(
        lambda own, other: other if own is None else own, part, rest, is_leaf=lambda x: x is None
    )


def num_parameters(params: Params) -> int:
    """P, the number of scalars in ``params``."""
    return sum(np.size(leaf) for leaf in jax.tree.leaves(params))


def working(tree: Params) -> Params:
    """The tree with half-precision leaves in float32; all other leaves as they are."""

    def leaf(x: Any) -> Any:
        dtype = jnp.result_type(x)
        half = jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32
        return jnp.asarray(x, jnp.float32) if half else x

    return jax.tree.map(leaf, tree)


def is_traced(tree: Any) -> bool:
    """Whether any leaf is a tracer, whose value cannot be looked at."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


def check_floating(params: Params) -> None:
    """Raise an ``InputError`` unless every leaf of ``params`` is real floating point."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    for path, leaf in leaves:
        try:
            dtype: Any = jnp.result_type(leaf)
        except TypeError:  # networks may keep functions among their leaves
            dtype = type(leaf)
        if not jnp.issubdtype(dtype, jnp.floating):
            name = jax.tree_util.keystr(path) or "the only leaf"
            raise InputError(
                f"expected floating-point parameters, found {dtype} at {name}; "
                "keep such leaves out of the parameters (partition), for the loss to put back"
            )
    if sum(jnp.size(leaf) for _, leaf in leaves) == 0:
        raise InputError("expected at least one parameter, found none; pass the trained parameters")


def check_like(vector: Params, params: Params, name: str = "the vector") -> None:
    """Raise an ``InputError`` unless ``vector`` has the tree and the shapes of ``params``."""

    def describe(tree: Params) -> tuple:
        return jax.tree.structure(tree), [jnp.shape(leaf) for leaf in jax.tree.leaves(tree)]

    (found, shapes), (expected, wanted) = describe(vector), describe(params)
    if (found, shapes) != (expected, wanted):
        raise InputError(
            f"expected {name} to be shaped like the parameters, {expected} with {wanted}, "
            f"found {found} with {shapes}; build it with jax.tree.map over them"
        )
