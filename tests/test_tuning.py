import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import mlp_apply, mlp_loss, mlp_problem

import jaxscape as js
from jaxscape import batching, losses, sweep
from jaxscape.batching import Product
from jaxscape.lab import models

N = 4000


def network(name, inputs, **sizes):
    """A network of the lab whose outputs are summed up."""
    model = models.build(name, num_outputs=10, **sizes)
    params = jax.eval_shape(model.init, jax.random.key(0), inputs)
    return lambda params, x: model.apply(params, x).reshape(len(x), -1).sum(-1), params, inputs


def dense(hidden=256):
    return network("mlp", jnp.zeros((N, 784)), hidden=hidden)


def patches():
    return network("cnn", jnp.zeros((N, 28, 28, 1)), hidden=256)


def attention():
    return network("transformer", jnp.zeros((N, 11), int), hidden=24, layers=1)


def convolution():
    def loss(kernel, images):
        return jax.lax.conv(images, kernel, (1, 1), "SAME").sum((1, 2, 3))

    return loss, jnp.zeros((16, 3, 5, 5)), jnp.zeros((N, 3, 8, 8))


def in_a_scan():
    def loss(weights, x):
        step = lambda x, _: (jax.jit(jnp.matmul)(x, weights), None)  # noqa: E731
        return jax.lax.scan(step, x, length=3)[0].sum(-1)

    return loss, jnp.zeros((40, 40)), jnp.zeros((N, 40))


def no_product():
    return lambda scale, x: scale * x, jnp.zeros(()), jnp.zeros(N)


def empty_products():
    def loss(params, x):
        images = x[:, None, None, :]
        kernels = jnp.zeros((0, 1, 1, 1)) * params.sum()
        return (x[:, :0] @ params[:0]).sum(-1) + jax.lax.conv(images, kernels, (1, 1), "SAME").sum(
            (1, 2, 3)
        )

    return loss, jnp.zeros((4, 3)), jnp.zeros((N, 4))


def dense_with_a_small_product():
    loss, params, inputs = dense()
    return lambda p, x: loss(p, x) + jnp.einsum("nd,nd->n", x, x), params, inputs


@pytest.mark.parametrize(
    ("case", "largest"),
    [
        (dense, Product(N * 784 * 256, 1, N)),
        (patches, Product(N * 49 * 288 * 64, 1, N * 49)),
        (attention, Product(N * 11 * 24 * 96, 1, N * 11)),
        (convolution, Product(N * 64 * 75 * 16, 1, N * 64)),
        (in_a_scan, Product(N * 40 * 40, 3, N)),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_the_largest_product_is_found_with_its_rows(case, largest):
    assert max(batching._products(*case()), key=lambda p: p.each * p.beside) == largest


def test_attention_is_many_small_products_side_by_side():
    beside = [p for p in batching._products(*attention()) if p.beside > 1]
    # queries with keys, weights with values: 4 heads of width 6
    assert beside == [Product(11 * 11 * 6, 4 * N, 4 * N * 11)] * 2


@pytest.mark.parametrize(
    ("case", "want"),
    [
        (dense, 1500),
        (patches, 32),
        (attention, 137),
        (convolution, 32),
        (no_product, 1500),
        (empty_products, 1500),
    ],
)
def test_fifteen_hundred_rows_at_a_time(monkeypatch, case, want):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert batching.batch_size(*case()) == want
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert batching.batch_size(*case()) == 1000


def test_eigen_multiplies_unless_products_are_many_and_small(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    monkeypatch.setattr(batching, "_known", lambda: True)
    assert batching.compiler_options(*dense()) == batching.EIGEN
    assert batching.compiler_options(*patches()) == batching.EIGEN
    assert batching.compiler_options(*dense_with_a_small_product()) == batching.EIGEN
    assert batching.compiler_options(*attention()) == {}
    within = []
    jax.jit(lambda: within.append(batching.compiler_options(*dense())))()
    assert within == [{}]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert batching.compiler_options(*dense()) == {}


def test_an_option_that_xla_does_not_know_is_not_given(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    monkeypatch.setattr(batching, "EIGEN", {"xla_cpu_no_such_option": "1"})
    batching._known.cache_clear()
    try:
        assert batching.compiler_options(*dense()) == {}
    finally:
        batching._known.cache_clear()


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="XLA's option for CPUs")
def test_a_sweep_alone_takes_the_option_and_agrees_with_one_within_another_program():
    assert batching._known()
    params, data = mlp_problem()
    space = js.random_subspace(jax.random.key(1), params, 2)
    options = batching.compiler_options(mlp_loss, params, data)
    for probe in (
        js.gaussian(jax.random.key(2), space, num_points=8, sigma=0.1),
        js.isotropic(jax.random.key(2), params, num_points=8, sigma=0.1),
    ):
        loss = losses.supervised(mlp_apply)  # not compiled before
        before = sweep._program(**options)._cache_size()
        alone = js.delta(loss, probe, data)
        assert sweep._program(**options)._cache_size() == before + 1
        within = jax.jit(lambda probe, loss=loss: js.delta(loss, probe, data).mean)(probe)
        np.testing.assert_allclose(alone.mean, within, rtol=1e-5)


def test_gradients_through_a_sweep():
    params, data = mlp_problem()

    def total(factor, params):
        loss = lambda params, batch: factor * mlp_loss(params, batch)  # noqa: E731
        return js.per_sample_losses(loss, params, data).sum()

    got = jax.grad(total, argnums=(0, 1))(2.0, params)
    of_all = lambda factor, params: factor * mlp_loss(params, data).sum()  # noqa: E731
    want = jax.grad(of_all, argnums=(0, 1))(2.0, params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, want)


@pytest.mark.parametrize("num_points", [4, 8])  # too few to share products, and enough
def test_gradients_through_a_curve(num_points):
    params, data = mlp_problem()
    theta = jax.random.normal(jax.random.key(2), (num_points, 2))
    space = js.random_subspace(jax.random.key(1), params, 2)

    def mean(scale):
        return js.delta(mlp_loss, js.points(space, scale * theta), data).mean.mean()

    slope, step = jax.grad(mean)(0.5), 1e-2
    np.testing.assert_allclose(slope, (mean(0.5 + step) - mean(0.5 - step)) / (2 * step), rtol=1e-2)


def test_a_loss_is_asked_for_no_other_number_of_samples_than_were_given():
    weights = jnp.linspace(0.5, 1.5, 48)

    def loss(params, x):
        groups = (x @ params).reshape(-1, 3, 4)
        inner = (groups - groups.mean(1, keepdims=True)).reshape(-1, 4).sum(-1) ** 2
        return weights * inner

    x = jax.random.normal(jax.random.key(0), (48, 5))
    params = jax.random.normal(jax.random.key(1), (5, 4))
    got = js.per_sample_losses(loss, params, x)
    np.testing.assert_allclose(got, loss(params, x), rtol=1e-4, atol=1e-5)
