"""Parameters as vectors: partition and combine, size, checks, half precision raised to float32."""

import dataclasses
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

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
    try:
        mask = jax.tree.broadcast(mask, params)
    except ValueError:
        raise InputError(
            "expected a mask of a Boolean for each array of the parameters, or for all below a "
            f"node, found {short(mask)}; build it with jax.tree.map over them"
        ) from None
    for own in map(np.asarray, jax.tree.leaves(mask)):
        if own.ndim or own.dtype.kind != "b":
            raise InputError(f"expected a mask of True and False, found {short(own)}; change it")
    part = jax.tree.map(lambda leaf, own: leaf if own else None, params, mask)
    rest = jax.tree.map(lambda leaf, own: None if own else leaf, params, mask)
    return part, rest


def combine(part: Params, rest: Params) -> Params:
    """Undo ``partition``, perhaps with other values in ``part``."""
    choose = lambda own, other: other if own is None else own  # noqa: E731
    try:
        return jax.tree.map(choose, part, rest, is_leaf=lambda x: x is None)
    except ValueError:
        raise InputError(
            "expected two parts of one tree, with None where the other has an array, found "
            f"{short(jax.tree.structure(part))} and {short(jax.tree.structure(rest))}; "
            "make them with partition"
        ) from None


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


def owned(tree: Any) -> Any:
    """The tree with NumPy arrays, and what else NumPy can read, copied into arrays of JAX.

    The caller may write into an array of NumPy while a device still reads it.
    """

    def leaf(x: Any) -> Any:
        check_unmasked(x)
        if hasattr(x, "__array__") and not isinstance(x, jax.Array | np.generic):
            array = np.asarray(x)
            # copied here and now: JAX may still read what it is given after its call has returned
            return x if array.dtype.kind in "OSU" else jnp.asarray(np.array(array))
        return x

    return jax.tree.map(leaf, tree)


def check_unmasked(x: Any) -> None:
    """Raise an ``InputError`` for a masked array, whose mask JAX would not see."""
    if isinstance(x, np.ma.MaskedArray):
        raise InputError("expected plain arrays, found a masked one; fill it or leave rows out")


Class = TypeVar("Class", bound=type)


def register(cls: Class) -> Class:
    """Make a dataclass a pytree that JAX rebuilds with any leaves, without its constructor.

    The constructor is then free to check what a caller gives it. Fields whose metadata say
    ``static`` are no leaves.
    """
    names = [field.name for field in dataclasses.fields(cls)]
    static = [f.name for f in dataclasses.fields(cls) if f.metadata.get("static")]
    leaves = [name for name in names if name not in static]

    def flatten(own: Any) -> tuple[list, tuple]:
        pairs = [(jax.tree_util.GetAttrKey(name), getattr(own, name)) for name in leaves]
        return pairs, tuple(getattr(own, name) for name in static)

    def unflatten(rest: tuple, parts: Any) -> Any:
        own: Any = object.__new__(cls)
        for name, value in zip([*leaves, *static], [*parts, *rest], strict=True):
            object.__setattr__(own, name, value)
        return own

    jax.tree_util.register_pytree_with_keys(cls, flatten, unflatten)
    return cls


def is_traced(tree: Any) -> bool:
    """Whether any leaf is a tracer, whose value cannot be looked at."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


def check_key(key: Any) -> Key[Array, ""]:
    """The key, or an ``InputError`` unless it is one that ``jax.random`` takes."""
    is_typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    is_old = not is_typed and jnp.shape(key) == (2,) and jnp.result_type(key) == jnp.uint32
    if not is_old and not (is_typed and key.ndim == 0):
        raise InputError(
            f"expected a key of jax.random, found {short(key)}; make one: jax.random.key(0)"
        )
    return key


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
            f"expected {name} to be shaped like the parameters, {short(expected)} with "
            f"{short(wanted)}, found {short(found)} with {short(shapes)}; build it with "
            "jax.tree.map over them"
        )


def short(value: Any, most: int = 80) -> str:
    """What a message says of something that may be large."""
    text = " ".join(str(value).split())
    return text if len(text) <= most else f"{text[:most]} ..."
