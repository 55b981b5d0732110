import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxscape as js
from jaxscape import first_layer, losses
from jaxscape.lab import models

N, D, INPUTS = 7, 3, 40


def dense(params, batch):
    hidden = jax.nn.relu(batch["x"] @ params["w"] + params["b"])
    return jnp.sum((hidden @ params["v"]) ** 2, -1)


def jitted(params, batch):
    return jax.jit(dense)(params, batch)


def with_decay(params, batch):
    return dense(params, batch) + 0.1 * jnp.sum(params["w"] ** 2)


def scaled_by_a_parameter(params, batch):
    return jnp.sum((batch["x"] @ params["w"]) * params["b"] / 3 - 1, -1) ** 2


def same_weights_twice(params, batch):
    first = batch["x"] @ params["w"]
    return jnp.sum(jnp.tanh(first) - (batch["x"][:, ::-1] @ params["w"]), -1)


def linear_then_square(params, batch):
    outputs = jnp.concatenate([-(batch["x"] @ params["w"]), batch["x"][:, :2]], 1) / 2
    return jnp.square(outputs.reshape(-1, 2, 4).sum((1, 2)))


def through_a_scan(params, batch):
    def step(carry, row):
        return jnp.tanh(carry @ params["u"] + row), None

    rows = jnp.stack([batch["x"] @ params["w"]] * 3)
    return jax.lax.scan(step, jnp.zeros_like(rows[0]), rows)[0].sum(-1)


def of_several_outputs(params, batch):
    largest, where = jax.lax.top_k(batch["x"] @ params["w"], 2)
    return largest.sum(-1) + where.sum(-1)


def convolution(params, batch):
    images = batch["x"].reshape(-1, 1, 8, 5)
    kernels = params["w"].T.reshape(-1, 1, 8, 5)
    out = jax.lax.conv_general_dilated(images, kernels, (1, 1), "VALID")
    return jax.nn.relu(out).sum((1, 2, 3))


def no_product_with_data(params, batch):
    return jnp.sin(params["w"].sum() * batch["x"].sum(-1))


def padded_weights(params, batch):
    weights = jnp.pad(params["w"][1:], ((0, 1), (0, 0)), constant_values=2.0)
    return jnp.tanh(batch["x"] @ weights / 9 + jnp.asarray([jnp.inf, *range(5)])).sum(-1)


def divided_by_nothing(params, batch):
    return jnp.minimum((batch["x"] @ params["w"]) / 0.0, 5.0).sum(-1)


def watched(params, batch):
    hidden = batch["x"] @ params["w"]
    jax.debug.callback(lambda x: None, hidden)
    return hidden.sum(-1)


def enlarged(params, batch):
    hidden = batch["x"] @ params["w"]
    return jnp.exp(-((hidden[:, :, None] - jnp.linspace(-1, 1, 9)) ** 2)).sum((1, 2))


def unused(params, batch):
    return batch["x"].sum(-1)


LOSSES = [
    dense, jitted, with_decay, scaled_by_a_parameter, same_weights_twice, linear_then_square,
    through_a_scan, of_several_outputs, convolution, no_product_with_data, padded_weights,
    divided_by_nothing, watched, enlarged, unused,
]  # fmt: skip


def problem(dtype=jnp.float32):
    rng = np.random.default_rng(0)
    shapes = {"w": (INPUTS, 6), "b": (6,), "v": (6, 4), "u": (6, 6)}
    params = {name: jnp.asarray(rng.normal(size=s), dtype) for name, s in shapes.items()}
    batch = {"x": jnp.asarray(rng.normal(size=(N, INPUTS)), jnp.float32)}
    return params, batch, js.random_subspace(jax.random.key(1), params, D)


def at_points(loss, space, batch, shared):
    """The losses at a few points, [m, n]."""

    def evaluate(coordinates, space, batch):
        at = first_layer.share(loss, space, batch) if shared else lambda t: loss(space.at(t), batch)
        return jax.vmap(at)(coordinates)

    coordinates = 2 * jax.random.normal(jax.random.key(2), (5, D))
    with jax.default_matmul_precision("highest"):
        return np.asarray(jax.jit(evaluate)(coordinates, space, batch))


@pytest.mark.parametrize("loss", LOSSES, ids=lambda f: f.__name__)
def test_equals_the_loss_at_the_point(loss):
    _, batch, space = problem()
    found, expected = (at_points(loss, space, batch, shared) for shared in (True, False))
    assert found.shape == (5, N)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


def sizes_of_products(at):
    """How many terms each product sums over that is left to be done at every point."""
    sizes = []

    def collect(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "dot_general":
                (contracted, _), _ = equation.params["dimension_numbers"]
                shape = equation.invars[0].aval.shape
                sizes.append(int(np.prod([shape[axis] for axis in contracted])))
            for inner in equation.params.values():
                if isinstance(inner, jax.extend.core.ClosedJaxpr):
                    collect(inner.jaxpr)

    collect(jax.make_jaxpr(at)(jnp.zeros(D)).jaxpr)
    return sizes


@pytest.mark.parametrize("loss", [dense, jitted, same_weights_twice, through_a_scan])
def test_the_product_with_the_data_is_shared(loss):
    _, batch, space = problem()
    assert INPUTS in sizes_of_products(lambda theta: loss(space.at(theta), batch))
    shared = first_layer.share(loss, space, batch)
    # what is left of it: a combination of the d products
    assert INPUTS not in sizes_of_products(shared)


def test_a_product_of_few_terms_is_not_shared():
    params, batch, _ = problem()
    space = js.random_subspace(jax.random.key(1), params, INPUTS // 2)
    shared = first_layer.share(dense, space, batch)
    coordinates = jnp.zeros(INPUTS // 2)
    text = str(jax.make_jaxpr(shared)(coordinates))
    assert f"f32[{N},{INPUTS}]" in text


def test_parameters_of_half_precision_are_those_of_the_subspace():
    _, batch, space = problem(jnp.bfloat16)
    found, expected = (at_points(dense, space, batch, shared) for shared in (True, False))
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", ["mlp", pytest.param("cnn", marks=pytest.mark.slow)])
def test_networks_of_the_lab(name):
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.uniform(size=(N, 28, 28, 1)), jnp.float32)
    model = models.build(name, num_outputs=10, hidden=16)
    params = jax.jit(model.init)(jax.random.key(0), images)
    batch = {"inputs": images, "targets": jnp.arange(N)}
    loss = losses.supervised(model.apply, losses.cross_entropy)
    space = js.random_subspace(jax.random.key(1), params, D)
    found, expected = (at_points(loss, space, batch, shared) for shared in (True, False))
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-6)


def test_directions_of_another_dtype_are_those_of_the_subspace():
    params, batch, space = problem()
    coarse = js.Subspace(params, jax.tree.map(lambda v: v.astype(jnp.bfloat16), space.basis))
    found, expected = (at_points(dense, coarse, batch, shared) for shared in (True, False))
    np.testing.assert_allclose(found, expected, rtol=2e-5)


def test_gradients_pass_through():
    _, batch, space = problem()
    slope = lambda at: jax.jacfwd(at)(jnp.ones(D))  # noqa: E731
    with jax.default_matmul_precision("highest"):
        found = jax.jit(lambda: slope(first_layer.share(dense, space, batch)))()
        expected = jax.jit(lambda: slope(lambda theta: dense(space.at(theta), batch)))()
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)
