"""What suits the matrix products of a loss on a CPU.

Read off the loss function's own program. On other devices XLA's choices stand.
"""

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from jaxscape.types import Batch, Params, PerSampleLoss

ROWS = 1500
"""Rows of a matrix that stay in a CPU's cache beside another that they are multiplied with."""
FEW = 32
"""Samples at a time, at the least."""
MANY = 100_000
"""Samples of the program that is looked at: far more than a layer has units."""
SMALL = 2**15
"""Multiplications in a product that takes less time than the call of a library."""
EIGEN = {"xla_cpu_experimental_ynn_fusion_type": ""}
"""Has XLA give no product to YNNPACK but all to Eigen, which takes 0.6 to 0.9 of its time."""


class Product(NamedTuple):
    """One operation of a program that multiplies matrices."""

    each: int
    """Multiplications in one product of two matrices."""
    beside: int
    """Such products side by side."""
    rows: int
    """Rows of the taller factor of all of them."""


def batch_size(loss: PerSampleLoss, params: Params, data: Batch) -> int:
    """How many samples at a time: those with ``ROWS`` rows in the largest product.

    A dense layer has one row a sample; a convolution has one for each place of its kernel, a
    transformer for each token.
    """
    found = _products(loss, params, data) if jax.default_backend() == "cpu" else []
    if not found:
        return ROWS
    largest = max(found, key=lambda product: product.each * product.beside)
    return max(FEW, min(ROWS, math.ceil(ROWS * MANY / largest.rows)))


def compiler_options(loss: PerSampleLoss, params: Params, data: Batch) -> dict[str, str]:
    """XLA's options for a program of this loss: ``EIGEN``, or none where that would not help.

    It takes longer over many small products side by side, as in attention. Within another program
    no options can be given.
    """
    within = isinstance(jnp.zeros(()), jax.core.Tracer)
    if within or jax.default_backend() != "cpu" or not _known():
        return {}
    many = any(p.beside > 1 and p.each < SMALL for p in _products(loss, params, data))
    return {} if many else EIGEN


@functools.cache
def _known() -> bool:
    """Whether this version of XLA has that option."""
    try:
        jax.jit(lambda: jnp.zeros(()), compiler_options=EIGEN).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def _products(loss: PerSampleLoss, params: Params, data: Batch) -> list[Product]:
    many = jax.tree.map(lambda x: jax.ShapeDtypeStruct((MANY, *x.shape[1:]), x.dtype), data)
    program = jax.jit(loss).trace(params, many).jaxpr
    return [_measure(equation) for equation in _equations(program) if _multiplies(equation)]


def _multiplies(equation: JaxprEqn) -> bool:
    return equation.primitive.name in ("dot_general", "conv_general_dilated")


def _equations(program: Any) -> Iterator[JaxprEqn]:
    """All operations of a program, those of the programs within it too."""
    inner = lambda value: isinstance(value, Jaxpr | ClosedJaxpr)  # noqa: E731
    for equation in program.eqns:
        yield equation
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=inner):
            if inner(value):
                yield from _equations(value)


def _measure(equation: JaxprEqn) -> Product:
    avals: list[Any] = [atom.aval for atom in (*equation.invars, *equation.outvars)]
    first, second, out = (aval.shape for aval in avals)
    size = math.prod(out)
    if equation.primitive.name == "dot_general":
        (contracted, _), (batched, _) = equation.params["dimension_numbers"]
        terms = math.prod(first[axis] for axis in contracted)
        beside = math.prod(first[axis] for axis in batched)
        rows = max(math.prod(first), math.prod(second)) // max(1, terms)
    else:
        channels = second[equation.params["dimension_numbers"].rhs_spec[0]]
        terms, beside, rows = math.prod(second) // channels, 1, size // channels
    return Product(size * terms // max(1, beside), beside, rows)
