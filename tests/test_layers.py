"""Second derivatives layer by layer, against whole Hessians in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import jaxscape as js
from jaxscape.batching import products_in
from jaxscape.losses import coupled, cross_entropy

KEY = jax.random.key(0)
N, D = 5, 3


def array(number, *shape):
    return jax.random.normal(jax.random.fold_in(KEY, number), shape)


def dense(w, batch):
    x = jnp.tanh(batch["x"].reshape(len(batch["x"]), -1) @ w["first"] + w["bias"])
    return cross_entropy(jnp.sin(x @ w["second"].T) @ w["last"] * w["scale"], batch["y"])


def weights_first(w, batch):
    x = jnp.tanh(jnp.einsum("oi,nihw->nohw", w["mix"], batch["x"]))
    return jnp.sum(jnp.einsum("hk,nohk->no", w["out"], x) ** 2, -1)


def convolutions(w, batch):
    x = jnp.moveaxis(batch["x"], 1, -1)
    for kernel in (w["first"], w["second"]):
        numbers = ("NHWC", "HWIO", "NHWC")
        x = jax.nn.gelu(
            jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", None, None, numbers)
        )
    return jnp.sum(x, (1, 2, 3)) ** 2 + jnp.sum(w["shift"] * x.mean((1, 2)), -1) ** 3


def attention(w, batch):
    x = batch["x"].reshape(len(batch["x"]), 4, 8) + w["position"]
    query, key, value = (x @ w[name] for name in ("query", "key", "value"))
    weights = jax.nn.softmax(query @ key.swapaxes(1, 2) / 2)
    return jnp.sum((weights @ value - x) ** 2, (1, 2))


def shared_weights(w, batch):
    x = batch["x"].reshape(len(batch["x"]), -1)
    for _ in range(3):
        x = jax.nn.softplus(x @ w)
    return jnp.sum(x**2, -1) / 30


def linear(w, batch):
    return batch["x"].reshape(len(batch["x"]), -1) @ w["first"] @ w["second"] + w["shift"]


def weights_squared(w, batch):  # a product of parameters, and one of data with it
    return (batch["x"].reshape(len(batch["x"]), -1) @ (w["a"] @ w["b"])).sum(-1) ** 2


def table(w, batch):  # not by layers: all of the table comes in otherwise
    return jnp.sum(jnp.tanh(w["table"][batch["y"]] @ w["last"]), -1)


def constant(w, batch):
    return jnp.sum(batch["x"] ** 2, (1, 2, 3))


def spectrum(w, batch):  # complex numbers
    x = jnp.fft.fft(batch["x"].reshape(len(batch["x"]), -1)) @ w.astype(complex)
    return jnp.sum(jnp.abs(x) ** 4, -1) / 1e4


def forward_only(w, batch):
    x = batch["x"].reshape(len(batch["x"]), -1)
    _, y = jax.lax.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, jnp.tanh(s[1] @ w)), (0, x))
    return jnp.sum(y**2, -1)


def five_alone(w, batch):  # fails for one sample, in a way of its own
    assert len(batch["x"]) % N == 0
    return jnp.sum(jnp.tanh(batch["x"].reshape(len(batch["x"]), -1) @ w) ** 2, -1)


def squeezed(w, batch):  # for one sample an index too many
    z = jax.nn.log_softmax((batch["x"].reshape(len(batch["x"]), -1) @ w).squeeze())
    return -z[jnp.arange(len(z)), batch["y"]]


def own_gradient(w, batch):
    @jax.custom_vjp
    def double(x):
        return 2 * x

    double.defvjp(lambda x: (2 * x, None), lambda _, u: (2 * u,))
    return jnp.sum(jnp.tanh(double(batch["x"].reshape(len(batch["x"]), -1) @ w)) ** 2, -1)


CASES = {
    dense: {"first": (32, 7), "bias": (7,), "second": (6, 7), "last": (6, 4), "scale": ()},
    weights_first: {"mix": (3, 2), "out": (4, 4)},
    convolutions: {"first": (3, 3, 2, 3), "second": (3, 3, 3, 4), "shift": (4,)},
    attention: {"query": (8, 5), "key": (8, 5), "value": (8, 8), "position": (4, 8)},
    shared_weights: (32, 32),
    linear: {"first": (32, 6), "second": (6,), "shift": ()},
    weights_squared: {"a": (32, 3), "b": (3, 6)},
    table: {"table": (40, 6), "last": (6, 2)},
    constant: {"first": (3,)},
    own_gradient: (32, 4),
    spectrum: (32, 3),
    forward_only: (32, 32),
    five_alone: (32, 4),
    squeezed: (32, 4),
}


def problem(loss):
    leaves, tree = jax.tree.flatten(CASES[loss], is_leaf=lambda x: isinstance(x, tuple))
    params = tree.unflatten(0.4 * array(i, *shape) for i, shape in enumerate(leaves))
    data = {"x": array(50, N, 2, 4, 4), "y": jnp.arange(N) % 4}
    basis = jax.tree.map(lambda w: array(w.size, D, *w.shape), params)
    return js.Subspace(params, basis), data


def expected64(loss, space, data):
    """Values, gradients and Hessians in θ, of the whole batch."""
    with jax.enable_x64(True):
        space, data = jax.tree.map(
            lambda x: jnp.asarray(np.asarray(x), None if x.dtype == jnp.int32 else jnp.float64),
            ((space.origin, space.basis), data),
        )

        def losses(t):
            w = jax.tree.map(lambda w, v: w + jnp.tensordot(t, v, 1), *space)
            return loss(w, data)

        zero = jnp.zeros(D)
        derive = jax.jacfwd if loss is forward_only else jax.jacrev
        found = losses(zero), derive(losses)(zero), derive(derive(losses))(zero)
        return jax.tree.map(np.asarray, found)


@pytest.mark.parametrize("loss", CASES, ids=lambda loss: loss.__name__)
def test_each_sample_has_the_derivatives_of_the_whole_batch(loss):
    space, data = problem(loss)
    for got, want in zip(js.project(loss, space, data), expected64(loss, space, data), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-5 * np.abs(want).max())


def exactly(loss):
    """A loss that takes as many samples as there are here, and no others."""

    def own(w, batch):
        return loss(w, jax.tree.map(lambda x: x.reshape(N, *x.shape[1:]), batch))

    return own


def work(loss, space, data):
    """Multiplications that projecting a loss takes."""
    own = Partial(js.project, loss)
    return sum(product.work for product in products_in(jax.make_jaxpr(own)(space, data).jaxpr))


@pytest.mark.parametrize("wrap", [lambda loss: loss, coupled, exactly])
def test_the_products_of_a_layer_grow_with_the_directions_not_with_their_pairs(wrap):
    """Unless the samples have to be taken together."""
    sizes = (128, 64), (64, 64), (64, 4)
    params = {"first": array(0, *sizes[0]), "bias": array(1, 64), "second": array(2, *sizes[1])}
    params |= {"last": array(3, *sizes[2]), "scale": array(4), "more": array(5, 100)}
    data = {"x": array(50, N, 2, 8, 8), "y": jnp.arange(N) % 4}
    few, many = (js.random_subspace(KEY, params, d) for d in (3, 12))

    def whole(w, batch):  # more parameters otherwise than the products have numbers
        return dense(w, batch) + jnp.sum(w["more"] ** 2)

    loss = wrap(whole)
    ratio = work(loss, many, data) / work(loss, few, data)
    assert ratio < 4 if wrap not in (coupled, exactly) else ratio > 6
    for x, y in zip(js.project(loss, few, data), js.project(whole, few, data), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4 * np.abs(y).max())


def test_results_have_the_type_of_the_parameters():
    space, data = problem(dense)
    with jax.enable_x64(True):
        assert {x.dtype for x in js.project(dense, space, data)} == {np.dtype("float32")}


def test_samples_that_see_each_other_are_those_of_a_sweep():
    space, _ = problem(dense)
    many = {"x": array(51, 2000, 2, 4, 4), "y": jnp.arange(2000) % 4}  # more than one chunk
    normal = coupled(lambda w, batch: dense(w, batch) - jnp.mean(dense(w, batch)))
    swept = js.per_sample_losses(normal, space.origin, many)
    np.testing.assert_allclose(js.project(normal, space, many).value, swept, atol=1e-5)
    whole = normal(space.origin, many)
    assert np.abs(whole - swept).max() > 1e-3  # where other samples are beside a sample
