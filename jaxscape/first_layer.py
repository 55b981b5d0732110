"""The products of data with a network's first layer, which all points of a subspace share.

On w(θ) = w* + Σ_j θ_j v_j the product of data with the weights of a network's first layer is
X(W + Σ_j θ_j V_j) = XW + Σ_j θ_j XV_j: d + 1 products serve any number of points. ``share`` walks
the loss function's program once, operation after operation, and keeps each value as one of three
kinds. A plain array is the same at all points; an ``Affine`` is known at all points from d + 1
arrays; a ``Point`` has to be computed at each point, by one of the steps left.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal
from jaxtyping import Array, Float

from jaxscape.batching import PRODUCTS, num_terms
from jaxscape.subspace import Subspace
from jaxscape.trees import working
from jaxscape.types import Batch, PerSampleLoss

# Operations that are linear in all operands together, a constant counting as its own value.
LINEAR = {
    *("add", "add_any", "sub", "neg", "reduce_sum", "concatenate", "pad", "convert_element_type"),
    *("reshape", "broadcast_in_dim", "squeeze", "transpose", "slice", "rev", "copy"),
}

FEW = 16  # directions that are added one after another, on a CPU too the faster way
PAYS = 4  # a product is shared if it sums over at least this many times as many terms as directions


class Point(NamedTuple):
    """A value that has to be computed at each point: that output of a step."""

    step: int
    output: int


class Affine(NamedTuple):
    """A value y + Σ_j θ_j y_j."""

    origin: Array  # y
    slopes: Array  # y_j, [d, ...]
    data: bool  # whether a product with data is in it; else it comes from parameters alone
    again: Point | None = None  # what to compute at a point in place of that sum


class Step(NamedTuple):
    """An operation, and what it is applied to."""

    equation: JaxprEqn
    operands: list[Any]


def share(loss: PerSampleLoss, space: Subspace, batch: Batch) -> Callable[[Array], Array]:
    """``loss(space.at(θ), batch)`` as a function of θ, up to rounding, shared products done once.

    Products of data with parameters are shared where they sum over many terms; what follows is
    carried along as long as it is linear.
    """
    steps, result = program(loss, space, batch)

    def at(coordinates: Float[Array, "d"]) -> Float[Array, "n"]:
        done: list[Sequence[Any]] = []
        read = functools.partial(_read, coordinates, done)
        for equation, operands in steps:
            done.append(bind(equation, [read(operand) for operand in operands]))
        return read(result)

    return at


def program(loss: PerSampleLoss, space: Subspace, batch: Batch) -> tuple[list[Step], Any]:
    """The steps to take at each point, and which value then holds the losses."""
    origin = jax.tree.map(jnp.asarray, working(space.origin))
    closed = jax.make_jaxpr(lambda params, batch: loss(params, batch))(origin, batch)
    pairs = zip(jax.tree.leaves(origin), jax.tree.leaves(space.basis), strict=True)
    params = [Affine(x, v.astype(x.dtype), data=False) for x, v in pairs]
    steps: list[Step] = []
    (result,) = _walk(closed, [*params, *jax.tree.leaves(batch)], steps)
    return steps, result


def _walk(closed: ClosedJaxpr, args: Sequence[Any], steps: list[Step]) -> list[Any]:
    """The results of a program; what points share is computed, the rest goes to ``steps``."""
    known = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    known |= dict(zip(closed.jaxpr.invars, args, strict=True))
    read = lambda atom: atom.val if isinstance(atom, Literal) else known[atom]  # noqa: E731
    for equation in closed.jaxpr.eqns:
        operands = [read(atom) for atom in equation.invars]
        known |= dict(zip(equation.outvars, _outcome(equation, operands, steps), strict=True))
    return [read(atom) for atom in closed.jaxpr.outvars]


def _outcome(equation: JaxprEqn, operands: list[Any], steps: list[Step]) -> Sequence[Any]:
    """The outputs of one operation."""
    name, moving = equation.primitive.name, [x for x in operands if isinstance(x, Affine)]
    fixed = not any(isinstance(x, Point) for x in operands)
    if fixed and not moving:
        return bind(equation, operands)
    if name in ("jit", "pjit"):
        return _walk(equation.params["jaxpr"], operands, steps)
    # d + 1 arrays describe the result if the operation is linear, or a product that pays
    product = fixed and name in PRODUCTS and len(moving) == 1
    product = product and num_terms(equation) >= PAYS * len(moving[0].slopes)
    affine = product or (fixed and _is_linear(equation, operands, moving))
    data = product or any(x.data for x in moving)
    # Arithmetic on parameters alone is repeated at each point, as the loss has it, rather than
    # replaced by a sum of d + 1 arrays that are as large; its ``Affine`` is for a product to come.
    if affine and data:
        return [Affine(*_along(equation, operands), data)]
    steps.append(Step(equation, operands))
    again = [Point(len(steps) - 1, index) for index in range(len(equation.outvars))]
    return [Affine(*_along(equation, operands), data, *again)] if affine else again


def _along(equation: JaxprEqn, operands: list[Any]) -> tuple[Array, Array]:
    """A linear operation at the origin, and along each direction."""
    jointly = equation.primitive.name in LINEAR
    origins = [x.origin if isinstance(x, Affine) else x for x in operands]
    moving = [i for i, x in enumerate(operands) if isinstance(x, Affine)]

    def along(*slopes: Array) -> Array:
        # what does not move counts as 0 in a sum, and as itself in a product
        still = [jnp.zeros_like(x) if jointly else x for x in origins]
        for index, slope in zip(moving, slopes, strict=True):
            still[index] = slope
        return bind(equation, still)[0]

    return bind(equation, origins)[0], jax.vmap(along)(*(operands[i].slopes for i in moving))


def _is_linear(equation: JaxprEqn, operands: list[Any], moving: list[Affine]) -> bool:
    """Whether it is linear in the operands that move, as precise as they are, and no larger.

    A product or quotient is, where the other operand is a constant: a finite one, not 0, as 0·∞ at
    a slope would be NaN where the value itself is infinite.
    """
    name, first = equation.primitive.name, isinstance(operands[0], Affine)
    if name in ("mul", "div"):
        factor: Any = equation.invars[1 if first else 0]
        constant = isinstance(factor, Literal) and (first or name == "mul")
        if not constant or not np.all(np.isfinite(factor.val) & (factor.val != 0)):
            return False
    elif name not in LINEAR:
        return False
    out: Any = equation.outvars[0].aval
    larger = any(x.data for x in moving) and out.size > max(x.origin.size for x in moving)
    return jnp.issubdtype(out.dtype, jnp.inexact) and out.dtype.itemsize >= 4 and not larger


def _read(coordinates: Float[Array, "d"], done: list[Sequence[Any]], value: Any) -> Any:
    """A value at one point."""
    if isinstance(value, Affine) and value.again is None:
        if len(value.slopes) > FEW:
            step = jnp.tensordot(coordinates, value.slopes, axes=1, precision="highest")
        else:  # a TPU's matrix unit would pad few directions to 128
            each = (coordinates[j] * value.slopes[j] for j in range(len(value.slopes)))
            step = functools.reduce(jnp.add, each)
        return value.origin + step.astype(value.origin.dtype)
    value = value.again if isinstance(value, Affine) else value
    return done[value.step][value.output] if isinstance(value, Point) else value


def bind(equation: JaxprEqn, operands: Sequence[Any]) -> Sequence[Any]:
    """The outputs of an operation."""
    params = equation.primitive.get_bind_params(equation.params)
    found = equation.primitive.bind(*operands, **params)
    return found if equation.primitive.multiple_results else [found]
