"""Value, gradient and Hessian of one sample's loss along d directions, layer by layer.

Where a layer multiplies x with W + Σ_j θ_j V_j, θ adds Σ_j θ_j u_j to the product, u_j = x V_j.
Where the loss has the derivative δ in the product, and so δWᵀ in x, θ adds Σ_j θ_j t_j to it,
t_j = δV_jᵀ. With ẋ_j and δ̇_j the derivatives along direction j, over all layers,

g_k = Σ ⟨u_k, δ⟩  and  H_jk = Σ ⟨u_k, δ̇_j⟩ + ⟨t_k, ẋ_j⟩.

That is 4d + 2 products a layer, where forward over forward takes (d + 1)²: x_j V_k for each pair.
Parameters that come in otherwise, a bias for one, have u_j = v_j, and no t_j.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxscape.batching import PRODUCTS
from jaxscape.first_layer import Affine, Point, Step, bind, program
from jaxscape.subspace import Subspace
from jaxscape.types import Batch, PerSampleLoss


class Layer(NamedTuple):
    """A step of the loss's program, and which operand are weights that it multiplies, if any."""

    number: int
    step: Step
    weights: Any  # 0, 1 or None

    def multiply(self, x: Array, weights: Array) -> Array:
        """The product."""
        return bind(self.step.equation, [weights, x] if self.weights == 0 else [x, weights])[0]

    def back(self, x: Array, slope: Array, weights: Array) -> Array:
        """The derivative of ⟨slope, product⟩ in x."""
        return jax.linear_transpose(lambda x: self.multiply(x, weights), x)(slope)[0]

    def at_origin(self, x: Array, added: Array, added_back: Array) -> Array:
        """The product, with what is to be added to it, and to its derivative in x."""
        origin = self.step.operands[self.weights].origin

        def ahead(x: Array, added: Array, added_back: Array) -> tuple[Array, tuple]:
            return self.multiply(x, origin) + added, (x, added_back)

        def back(kept: tuple, slope: Array) -> tuple:
            x, added_back = kept
            return self.back(x, slope, origin) + added_back, slope, None

        product = jax.custom_vjp(lambda *args: ahead(*args)[0])
        product.defvjp(ahead, back)
        return product(x, added, added_back)


def derivatives(
    loss: PerSampleLoss, space: Subspace, one: Batch
) -> tuple[Float[Array, ""], Float[Array, "d"], Float[Array, "d d"]]:
    """ℓ(w*), Vᵀ∇ℓ and Vᵀ∇²ℓV of the only sample in the batch ``one``.

    A ValueError where many parameters come in otherwise than as weights of products, as each sample
    then has its own copy of them, and where numbers are complex.
    """
    layers, result = _needed(*program(loss, space, one))
    products = [layer for layer in layers if layer.weights is not None]
    read = [x for each in layers for i, x in enumerate(each.step.operands) if i != each.weights]
    others = [x for x in (*read, result) if isinstance(x, Affine)]
    outputs: list[Any] = [layer.step.equation.outvars[0].aval for layer in products]
    inputs = [layer.step.equation.invars[1 - layer.weights].aval for layer in products]
    weights = sum(layer.step.operands[layer.weights].origin.size for layer in products)
    copied = sum(x.origin.size for x in others if not x.data)
    if copied > weights / 8 + sum(x.size for x in outputs):
        raise ValueError("many parameters come in otherwise than by products")
    if any(jnp.iscomplexobj(x) for x in (*outputs, *inputs, *(x.origin for x in others))):
        raise ValueError("complex numbers")

    def slopes(*added: list[Array]) -> tuple[Array, tuple, list[Array]]:
        run = jax.value_and_grad(partial(_run, layers, result), argnums=(0, 1), has_aux=True)
        (value, met), slope = run(*added)
        return value, slope, met

    shapes = [x.origin for x in others], outputs, inputs
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    (value, slope, met), push = jax.linearize(slopes, *zeros)
    moved: tuple = [x.slopes for x in others], [], []
    for layer, x, delta in zip(products, met, slope[1], strict=True):
        directions = layer.step.operands[layer.weights].slopes
        moved[1].append(jax.vmap(partial(layer.multiply, x))(directions))
        moved[2].append(jax.vmap(partial(layer.back, x, delta))(directions))
    _, slope_moved, met_moved = jax.vmap(push, axis_size=space.dim)(*moved)
    one_row = jax.tree.map(lambda x: x[None], slope)
    none = jnp.zeros((space.dim, 1), value.dtype)  # where nothing depends on the parameters
    gradient = _inner(none, moved[:2], one_row)[:, 0]
    hessian = _inner(none @ none.T, moved, (*slope_moved, met_moved))
    return value, gradient, (hessian + hessian.T) / 2


def _run(layers: list[Layer], result: Any, *added: list[Array]) -> tuple[Array, list[Array]]:
    """The loss, and what each product multiplies, with something added at each place."""
    others, outputs, inputs = map(iter, added)
    done: dict[int, Sequence[Array]] = {}
    met: list[Array] = []

    def read(value: Any) -> Any:
        if isinstance(value, Affine):
            return value.origin + next(others)
        return done[value.step][value.output] if isinstance(value, Point) else value

    for layer in layers:
        found = [read(x) for i, x in enumerate(layer.step.operands) if i != layer.weights]
        if layer.weights is None:
            done[layer.number] = bind(layer.step.equation, found)
        else:
            met += found
            product = layer.at_origin(found[0], next(outputs), next(inputs))
            done[layer.number] = [product]
    return read(result)[0], met


def _needed(steps: list[Step], result: Any) -> tuple[list[Layer], Any]:
    """The steps that the result needs, and the result."""
    layers: list[Layer] = []
    needed: set[int] = set()

    def need(value: Any) -> Any:
        if isinstance(value, Affine) and value.again is not None:
            value = value.again
        if isinstance(value, Point):
            needed.add(value.step)
        return value

    result = need(result)
    for number in reversed(range(len(steps))):
        if number in needed:
            equation, operands = steps[number]
            own = [i for i, x in enumerate(operands) if isinstance(x, Affine) and not x.data]
            if len(own) > 1:  # of two the parameters as they are, not what came from some
                own = [i for i in own if operands[i].again is None]
            product = equation.primitive.name in PRODUCTS and len(own) == 1
            weights = own[0] if product else None
            operands = [x if i == weights else need(x) for i, x in enumerate(operands)]
            layers.append(Layer(number, Step(equation, operands), weights))
    return layers[::-1], result


def _inner(start: Float[Array, "d e"], rows: Any, others: Any) -> Float[Array, "d e"]:
    """The inner products of each of d with each of e trees of arrays, added to ``start``."""
    pairs = zip(jax.tree.leaves(rows), jax.tree.leaves(others), strict=True)
    found = (x.reshape(len(x), -1) @ y.reshape(len(y), -1).T for x, y in pairs)
    return sum(found, start=start)
