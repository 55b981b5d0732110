"""Every product in the programs of the public functions is at the precision asked for."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_arguments import calls

import jaxscape as js
from jaxscape.batching import PRODUCTS, equations
from jaxscape.lab import train

HIGHEST = (jax.lax.Precision.HIGHEST,) * 2
CALLS = calls()
ASIDE = {
    "partition", "combine", "mesh", "monitor",  # no arithmetic, or none before it is called
    "ggn_operator", "hessian_operator",  # the product is looked at
}  # fmt: skip


def is_array(x):
    return isinstance(x, jax.Array | np.ndarray)


def program(function, given):
    """The program of a call, arrays among its arguments traced."""
    leaves, tree = jax.tree.flatten(given)
    arrays = [leaf for leaf in leaves if is_array(leaf)]

    def call(*arrays):
        left = iter(arrays)
        return function(**tree.unflatten(next(left) if is_array(x) else x for x in leaves))

    return jax.make_jaxpr(call, return_shape=False)(*arrays)


def below(closed):
    """Products of floating-point numbers, and those of them below the highest precision."""
    found = [e for e, _ in equations(closed.jaxpr) if e.primitive.name in PRODUCTS]
    found = [e for e in found if jnp.issubdtype(e.outvars[0].aval.dtype, jnp.floating)]
    return found, [e for e in found if e.params["precision"] != HIGHEST]


@pytest.mark.parametrize("name", sorted(CALLS.keys() - ASIDE))
def test_no_product_is_below_the_highest_precision(name):
    function, given = CALLS[name]
    products, low = below(program(function, given))
    assert not low
    if name in ("delta", "surface", "evaluate", "product", "top_eigenpairs", "project", "trace"):
        assert products  # the loss multiplies matrices


def test_a_product_below_is_found():
    _, low = below(jax.make_jaxpr(jnp.dot)(jnp.ones(3), jnp.ones(3)))
    assert len(low) == 1


def test_a_sweep_is_as_precise_as_asked():
    function, given = CALLS["delta"]
    for precision in ("default", "high"):
        products, low = below(program(function, {**given, "precision": precision}))
        assert 0 < len(low) < len(products)  # those of the loss alone, not the steps to the points


def test_mean_losses():
    given = CALLS["per_sample_losses"][1]
    products, low = below(program(functools.partial(train.mean_loss, batch_size=30), given))
    assert products
    assert not low


def test_the_gauss_newton_product():
    params = {"w": jnp.ones(3)}
    data = {"x": jnp.ones((4, 3)), "y": jnp.ones(4)}
    operator = js.ggn_operator(
        lambda w, batch: batch["x"] @ w["w"], lambda out, batch: (out - batch["y"]) ** 2, params,
        data,
    )  # fmt: skip
    products, low = below(jax.make_jaxpr(operator)(params))
    assert products
    assert not low
