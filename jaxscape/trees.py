"""Parameters as vectors: partition and combine, size, checks, half precision raised to float32."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jaxtyping import Array, Float

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
        whole = jax.tree.broadcast(mask, params)
    except ValueError:
        whole = None
    kinds = [x if hasattr(x, "dtype") else np.asarray(x) for x in jax.tree.leaves(mask)]
    if whole is None or not all(x.dtype == bool and x.ndim == 0 for x in kinds):
        said = "expected a mask of True or False for each array of the parameters, or below a node"
        raise InputError(f"{said}, found {short(mask)}; build it with jax.tree.map over them")
    part = jax.tree.map(lambda leaf, own: leaf if own else None, params, whole)
    rest = jax.tree.map(lambda leaf, own: None if own else leaf, params, whole)
    return part, rest


def combine(part: Params, rest: Params) -> Params:
    """Undo ``partition``, perhaps with other values in ``part``."""
    choose = lambda own, other: other if own is None else own  # noqa: E731
    try:
        return jax.tree.map(choose, part, rest, is_leaf=lambda x: x is None)
    except ValueError:
        found = f"{short(jax.tree.structure(part))} and {short(jax.tree.structure(rest))}"
        raise InputError(f"expected two parts of one tree, found {found}; use partition") from None


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


def check_unmasked(leaf: Any) -> None:
    """Raise an ``InputError`` for an array of NumPy with a mask."""
    if isinstance(leaf, np.ma.MaskedArray):
        raise InputError("expected plain arrays, found a masked one; fill it or leave rows out")


def owned(tree: Any) -> Any:
    """The tree with what NumPy can read copied into arrays of JAX: its owner may write into it."""

    def leaf(x: Any) -> Any:
        check_unmasked(x)  # JAX refuses it, but would not see its mask here
        if hasattr(x, "__array__") and not isinstance(x, jax.Array | np.generic):
            array = np.asarray(x)
            # copied here, as JAX may still read what it is given after its call has returned
            return x if array.dtype.kind in "OSU" else jnp.asarray(np.array(array))
        return x

    return automatic(jax.tree.map(leaf, tree))


def automatic(tree: Any) -> Any:
    """Meshes, shardings and arrays, where they are, with automatic in place of explicit axes."""
    if AxisType.Explicit in jax.sharding.get_abstract_mesh().axis_types:
        return tree  # within jax.set_mesh, whose programs take no other mesh

    def leaf(x: Any) -> Any:
        if isinstance(x, Mesh) and AxisType.Explicit in x.axis_types:
            return Mesh(x.devices, x.axis_names, axis_types=(AxisType.Auto,) * len(x.axis_names))
        if isinstance(x, NamedSharding) and AxisType.Explicit in x.mesh.axis_types:
            return NamedSharding(leaf(x.mesh), x.spec, memory_kind=x.memory_kind)
        own = None if is_traced(x) else getattr(x, "sharding", None)
        if not isinstance(own, NamedSharding) or AxisType.Explicit not in own.mesh.axis_types:
            return x
        if isinstance(x, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=leaf(own))
        return jax.device_put(x, leaf(own))

    return jax.tree.map(leaf, tree)


def length(vectors: Float[Array | np.ndarray, "..."], axis: Any = -1) -> Float[Array, "..."]:
    """The Euclidean norm over axes, whose squares neither underflow nor overflow."""
    largest = jnp.max(jnp.abs(vectors), axis, keepdims=True)
    scale = jnp.where(largest > 0, largest, 1)
    return jnp.squeeze(scale, axis) * jnp.sqrt(jnp.sum((vectors / scale) ** 2, axis))


def is_traced(tree: Any) -> bool:
    """Whether any leaf is a tracer, whose value cannot be looked at."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


def is_key(x: Any) -> bool:
    """Whether it is an array of keys of the new kind, as ``jax.random.key`` makes them."""
    return isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def check_floating(params: Params) -> None:
    """Raise an ``InputError`` unless every leaf of ``params`` is real floating point."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not jnp.issubdtype(dtype := getattr(leaf, "dtype", type(leaf)), jnp.floating):
            name = jax.tree_util.keystr(path) or "the only leaf"
            said = f"expected floating-point parameters, found {dtype} at {name}; keep such leaves"
            raise InputError(f"{said} out of them (partition), for the loss to put back")
    if num_parameters(params) == 0:
        raise InputError("expected at least one parameter, found none; pass the trained parameters")


def check_like(vector: Params, params: Params, name: str = "the vector") -> None:
    """Raise an ``InputError`` unless ``vector`` has the tree and the shapes of ``params``."""
    trees: list[Any] = [jax.tree.structure(x) for x in (params, vector)]
    shapes = [[jnp.shape(leaf) for leaf in jax.tree.leaves(x)] for x in (params, vector)]
    if trees[0] != trees[1] or shapes[0] != shapes[1]:
        wanted, found = map("{} with {}".format, map(short, trees), map(short, shapes))
        said = f"expected {name} to be shaped like the parameters, {wanted}, found {found}"
        raise InputError(f"{said}; build it with jax.tree.map over them")


def short(value: Any) -> str:
    """What a message says of something that may be large."""
    text = " ".join(str(value).split())
    return text if len(text) <= 80 else f"{text[:80]} ..."
