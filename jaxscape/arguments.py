"""What a public function says of an argument that its annotation excludes."""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Key, Real, Shaped

from jaxscape.trees import short
from jaxscape.types import Batch, InputError

Function = TypeVar("Function", bound=Callable)

# Which values may be meant where an annotation has this type.
INTEGERS, REALS = [jnp.integer], [jnp.integer, jnp.floating]
KINDS: dict[Any, list] = {int: INTEGERS, Int: INTEGERS, float: REALS, Float: REALS, Real: REALS}
KINDS |= {Bool: [jnp.bool_], Key: [jax.dtypes.prng_key]}
KINDS[Shaped] = [jnp.number, *KINDS[Bool], *KINDS[Key]]


LIST = "jaxscape: a list of arrays of one length is one batch; of several, give a function"


def explained(function: Function) -> Function:
    """The same function, which tells in one line of an argument that cannot be meant.

    The arguments are looked at only after an exception, so a good call costs nothing. An exception
    that no argument explains, such as one of the caller's own loss, is raised as it is.
    """

    @functools.wraps(function)
    def call(*args: Any, **named: Any) -> Any:
        try:
            return function(*args, **named)
        except InputError:
            raise
        except Exception as error:
            given: dict[str, Any] = {}
            with contextlib.suppress(TypeError):  # Python's own message names what is missing
                given = inspect.signature(function).bind(*args, **named).arguments
            hints = get_type_hints(inspect.unwrap(function), include_extras=True)
            for name, value in given.items():
                if not _fits(value, hint := hints.get(name, Any)):
                    said = f"expected {name} as {_said(hint)}, found {short(value)}; change {name}"
                    raise InputError(said) from error
            data = given.get("data")
            bare = isinstance(data, list) and all(hasattr(x, "shape") for x in data)
            if bare and LIST not in getattr(error, "__notes__", ()):
                error.add_note(LIST)
            raise

    return cast(Function, call)


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Raise an ``InputError`` unless the value is one of the choices."""
    if not isinstance(value, str) or value not in choices:
        said = f"expected {name} as one of {', '.join(choices)}"
        raise InputError(f"{said}, found {short(value)}; choose one")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value may be meant; where arrays are expected, numbers and lists of them may be."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        one = hasattr(value, "shape") or isinstance(value, dict)
        if hint == Batch and (callable(value) or (isinstance(value, Iterable) and not one)):
            return True  # batches, whose arrays come later
        leaves = jax.tree.leaves(value)
        return bool(leaves) and all(_is_array(leaf, Shaped, "...") for leaf in leaves)
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Sequence:
        several = isinstance(value, list | tuple | range) or hasattr(value, "shape")
        return several and all(_fits(x, parts[0]) for x in np.asarray(value, object).ravel())
    if hint in (int, float) or hasattr(hint, "dim_str"):  # a number, an array of jaxtyping
        return _is_array(value, getattr(hint, "dtype", hint), getattr(hint, "dim_str", ""))
    if origin is Callable:
        return callable(value) and _takes(value, parts[0])
    return hint is Any or isinstance(value, origin or hint)


def _takes(function: Callable, arguments: Any) -> bool:
    """Whether the function can be called with so many arguments, as far as Python knows."""
    try:
        return arguments is ... or bool(inspect.signature(function).bind(*arguments))
    except (TypeError, ValueError) as error:
        return isinstance(error, ValueError)  # a builtin, whose signature is unknown


def _is_array(value: Any, kind: Any, dims: str) -> bool:
    """Whether it is of that kind and these dimensions (of jaxtyping), neither empty nor masked."""
    try:
        array = value if hasattr(value, "dtype") else np.asarray(value)
        right = any(jnp.issubdtype(array.dtype, each) for each in KINDS[kind])
    except (ValueError, TypeError):  # a ragged list
        return False
    if isinstance(value, np.ma.MaskedArray) or (isinstance(value, int) and abs(value) >= 2**31):
        return False
    form: Any = Shaped[Any, dims]
    return right and 0 not in array.shape and isinstance(array, form)


def _said(hint: Any) -> str:
    """A hint in words."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return parts[1]
    if origin in (Union, UnionType):
        return "a number" if {int, float} & {*parts} else " or ".join({_said(x): 0 for x in parts})
    if hasattr(hint, "dim_str"):
        return "a jax.random.key(0)" if hint.dtype is Key else f"an array of shape ({hint.dim_str})"
    words: dict[Any, str] = {int: "an integer", float: "a number", str: "text", type(None): "None"}
    if origin is Callable:
        count = f" of {len(parts[0])} arguments" if isinstance(parts[0], list) else ""
        return "a function" + count.replace("1 arguments", "one argument")
    return words.get(origin or hint) or f"a {(origin or hint).__name__}"
