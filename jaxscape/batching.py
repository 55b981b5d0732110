"""A long sample axis in equal chunks, and how many samples at a time suit the device.

Every chunk has the same static size, so one compiled body serves all of them. Where the size does
not divide the length, the last chunk starts early: entries that an earlier one has already shown
are not ``fresh`` and must weigh nothing. No data is padded or copied.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxprs_in_params, take_current_trace
from jax.tree_util import Partial
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Int

from jaxscape.trees import check_unmasked, owned, short
from jaxscape.types import Batch, InputError, Params, PerSampleLoss


class Chunks(NamedTuple):
    """An axis of ``length`` entries in ``num`` chunks of equal ``size``."""

    length: int
    num: int
    size: int

    @property
    def starts(self) -> Int[np.ndarray, "c"]:
        """Where each chunk starts."""
        return np.minimum(np.arange(self.num) * self.size, self.length - self.size).astype(np.int32)

    def computed(self) -> tuple[Int[Array, "c size"], Bool[Array, "c size"]]:
        """Where each entry lies, and if it is ``fresh``; as constants they make a program long."""
        positions = jnp.asarray(self.starts)[:, None] + jnp.arange(self.size, dtype=jnp.int32)
        return positions, positions >= self.size * jnp.arange(self.num, dtype=jnp.int32)[:, None]


def cut(length: int, size: int, hands: int = 1) -> Chunks:
    """Cut ``range(length)`` into the fewest chunks of at most ``size``, as equal as possible.

    Several ``hands`` (devices) get as many chunks each; the last may then hold nothing fresh.

    >>> [entries.tolist() for entries in cut(5, 3).computed()]
    [[[0, 1, 2], [2, 3, 4]], [[True, True, True], [False, True, True]]]
    """
    if size < 1:
        raise InputError(f"expected a chunk size of at least 1, found {size}; raise it")
    count = math.ceil(length / (size * hands)) * hands
    return Chunks(length, count, math.ceil(length / count))


def taker(data: Batch) -> Callable[[Int[ArrayLike, ""], int], Batch]:
    """``take(start, size)`` gives entries ``start : start + size`` of every array in ``data``.

    Make it outside of a loop: it cuts flat rows, as a TPU is slow to cut images.
    """
    flat = jax.tree.map(lambda leaf: leaf.reshape(len(leaf), -1) if leaf.ndim > 2 else leaf, data)

    def take(start: Int[ArrayLike, ""], size: int) -> Batch:
        rows = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, size), flat)
        return jax.tree.map(lambda leaf, like: leaf.reshape(size, *like.shape[1:]), rows, data)

    return take


def join(chunks: Chunks, rows: Batch) -> Batch:
    """Undo ``cut``: the fresh entries of arrays ``[c, size, ...]`` in order, ``[length, ...]``."""
    whole, rest = divmod(chunks.length, chunks.size)  # of a ragged one the end is fresh

    def flat(leaf: Array) -> Array:
        every = leaf[: whole + (rest > 0)].reshape(-1, *leaf.shape[2:])
        return jnp.concatenate([every[: chunks.length - rest], every[len(every) - rest :]])

    return jax.tree.map(flat, rows)


def in_chunks(function: Callable[[Batch], Any], data: Batch, size: int) -> Any:
    """``function(data)``, of arrays ``[length, ...]``, from at most ``size`` entries at a time."""
    chunks, take = cut(length_of(data), size), taker(data)
    some = lambda start: function(take(start, chunks.size))  # noqa: E731
    return join(chunks, jax.lax.map(some, jnp.asarray(chunks.starts)))


def are_batches(data: Any) -> bool:
    """Whether ``data`` are batches: an iterator, a loader, a function, a list of containers."""
    if isinstance(data, Iterator):
        return True
    if isinstance(data, list | tuple):
        if not data or not all(map(are_arrays, data)):
            return False
        shapes = [[leaf.shape for leaf in jax.tree.leaves(part)] for part in data]
        trees: list[Any] = [jax.tree.structure(part) for part in data]
        rest = [[shape[1:] for shape in each] for each in shapes]
        alike = trees == [trees[0]] * len(data) and rest == [rest[0]] * len(data)
        bare = all(hasattr(part, "shape") for part in data)  # of equal length: one tree of arrays
        several = not bare or len({each[0][:1] for each in shapes}) > 1
        return alike and several and all(() not in each for each in shapes)
    alone = jax.tree_util.all_leaves([data]) and not hasattr(data, "shape")
    return alone and (callable(data) or hasattr(data, "__iter__")) and not isinstance(data, str)


def are_arrays(data: Any) -> bool:
    """Whether ``data`` is a pytree of arrays."""
    leaves = jax.tree.leaves(data)
    return bool(leaves) and all(hasattr(leaf, "shape") for leaf in leaves)


def segments(data: Any) -> Iterator[Batch]:
    """The batches of ``data``, or its arrays as one, in memory that no caller writes."""
    if not are_batches(data):
        yield owned(data)
        return
    batches = data() if callable(data) else data
    for batch in batches if hasattr(batches, "__iter__") else [batches]:
        if not are_arrays(batch):
            found = short(batch) if not isinstance(batches, dict) else "one dict; put it in a list"
            raise InputError(f"expected batches of arrays, found {found}; convert: np.asarray(x)")
        copied = jax.tree.map(lambda x: jnp.array(x) if isinstance(x, jax.Array) else x, batch)
        yield jax.block_until_ready(owned(copied))  # an array of JAX may lie in a loader's buffer


def first_of(data: Any) -> Batch:
    """``data``, or the first of batches; an ``InputError`` unless they can be read, and again."""
    if not are_batches(data):
        return data
    check_eager()
    found = f"{type(data).__name__}, which one pass uses up; pass the function that makes it"
    if not isinstance(data, Iterator):
        for batch in segments(data):
            return batch
        found = "none; check the loader"
    raise InputError(
        "expected at least one batch that can be read again: a list, a loader, a function that "
        f"returns an iterator, found {found}"
    )


def check_eager() -> None:
    """Raise an ``InputError`` while JAX traces, when no batch can be read."""
    if not is_eager():
        raise InputError(
            "expected operators over batches outside of jit, vmap and loops, found one; call it "
            "outside, hand it itself (no function around it) to top_eigenpairs, or give arrays"
        )


def is_eager() -> bool:
    """Whether JAX computes at once what it is told, and traces no program."""
    with take_current_trace() as trace:
        return type(trace).__name__ == "EvalTrace"


def length_of(data: Batch) -> int:
    """The common leading axis of all arrays in ``data``; an ``InputError`` where there is none."""
    if are_batches(data):
        said = f"expected arrays, found batches ({type(data).__name__}), which sweeps and operators"
        raise InputError(f"{said} take; concatenate them first")
    leaves = jax.tree.leaves(data)
    for leaf in leaves:
        check_unmasked(leaf)
    firsts: list[tuple] = [getattr(leaf, "shape", ())[:1] for leaf in leaves]
    if len(set(firsts)) != 1 or firsts[0] == ():
        found = short([getattr(leaf, "shape", type(leaf).__name__) for leaf in leaves])
        raise InputError(
            f"expected arrays with one common leading sample axis, found shapes {found}; give all "
            "arrays of the batch the same first axis, and convert lists: np.asarray(x)"
        )
    if firsts[0] == (0,):
        raise InputError("expected at least one sample, found none; check how it was selected")
    return firsts[0][0]


def host() -> contextlib.AbstractContextManager:
    """Within, small or sequential work is done on the CPU, as compiling it for a TPU takes long."""
    if jax.default_backend() != "cpu":
        with contextlib.suppress(RuntimeError):  # JAX_PLATFORMS may leave the CPU out
            return jax.default_device(jax.local_devices(backend="cpu")[0])
    return contextlib.nullcontext()


# What follows chooses sizes and compiler options from the products in the loss function's program.

PRODUCTS = {"dot_general", "conv_general_dilated"}  # the operations that multiply matrices
ROWS = 1500  # rows of a matrix that stay in a CPU's cache beside another, to be multiplied with
FEW = 32  # samples at a time on a CPU, at the least
ELSEWHERE = 1000  # samples at a time on other devices
SMALL = 2**15  # a call of Eigen takes about as long as this many multiplications
EIGEN = {"xla_cpu_experimental_ynn_fusion_type": ""}  # XLA gives all products to Eigen, not YNNPACK


class Product(NamedTuple):
    """One operation of a program that multiplies matrices."""

    work: int  # multiplications in all
    calls: int  # products of two matrices side by side, or one after another
    rows: int  # of the taller factor: one a sample in a dense layer, one a place in a convolution


def batch_size(loss: PerSampleLoss, params: Params, data: Batch) -> int:
    """How many samples at a time: on a CPU those with ``ROWS`` rows in the largest product."""
    if jax.default_backend() != "cpu":
        return ELSEWHERE
    found = products(loss, params, data)
    rows = max(found, key=lambda product: product.work, default=Product(0, 0, rows=1)).rows
    return max(FEW, min(ROWS, math.ceil(ROWS * length_of(data) / max(1, rows))))


def compiler_options(loss: PerSampleLoss, params: Params, data: Batch) -> dict[str, str]:
    """XLA's options for a program of this loss: ``EIGEN`` where it helps, none within a program."""
    if not is_eager() or jax.default_backend() != "cpu" or not all(map(is_known, EIGEN)):
        return {}
    found = products(loss, params, data)
    calls = sum(each.calls for each in found if each.work < SMALL * each.calls)
    # calls for many small products, as in attention, must take at most a quarter of the whole
    return EIGEN if 4 * SMALL * calls <= sum(each.work for each in found) else {}


@functools.cache
def is_known(option: str) -> bool:
    """Whether this version of XLA has that option."""
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        jax.jit(lambda: jnp.zeros(()), compiler_options={option: ""}).lower().compile()
        return True
    return False


def products(loss: PerSampleLoss, params: Params, data: Batch) -> list[Product]:
    """The products in the loss of all samples."""
    own = loss if isinstance(loss, Partial) else Partial(loss)
    return products_in(_call.trace(own, params, data).jaxpr)


_call = jax.jit(lambda loss, params, data: loss(params, data))


def products_in(program: Any, loops: Sequence[int] = ()) -> list[Product]:
    """The products in a program, with ``loops`` as for ``equations``."""
    found = []
    for equation, times in equations(program, loops=loops):
        if equation.primitive.name in PRODUCTS:
            avals: list[Any] = [atom.aval for atom in (*equation.invars, *equation.outvars)]
            first, second, out = (aval.shape for aval in avals)
            numbers, terms, calls = equation.params["dimension_numbers"], num_terms(equation), times
            if equation.primitive.name == "dot_general":
                calls *= math.prod(first[axis] for axis in numbers[1][0])
                rows = max(math.prod(first), math.prod(second)) // max(1, terms)
            else:
                rows = math.prod(out) // max(1, second[numbers.rhs_spec[0]])
            found.append(Product(math.prod(out) * terms * times, calls, rows))
    return found


def equations(program: Any, times: int = 1, loops: Sequence[int] = ()) -> Iterator[tuple[Any, int]]:
    """All operations of a program, those of the programs within it too, and how often each runs.

    ``loops`` are the lengths of nested loops that end by a condition, the outermost first; by
    default each counts once.
    """
    for equation in program.eqns:
        yield equation, times
        again, rest = times, loops
        if equation.primitive.name == "scan":
            again *= equation.params["length"]
        elif equation.primitive.name == "while" and loops:
            again, rest = times * loops[0], loops[1:]
        for inner in jaxprs_in_params(equation.params):
            yield from equations(inner, again, rest)


def num_terms(equation: Any) -> int:
    """Over how many terms a product sums."""
    first, second = (atom.aval.shape for atom in equation.invars)
    numbers = equation.params["dimension_numbers"]
    if equation.primitive.name == "dot_general":
        return math.prod(first[axis] for axis in numbers[0][0])
    return math.prod(second) // max(1, second[numbers.rhs_spec[0]])
