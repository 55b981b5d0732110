"""Hessian and Gauss-Newton operators against closed forms and finite differences."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from jaxscape import curvature, losses
from jaxscape.batching import products_in
from jaxscape.curvature import MeanOperator, ggn_operator, hessian_operator, linearised
from jaxscape.lanczos import top_eigenpairs
from jaxscape.types import InputError

FEATURES = 3


def linear(params, inputs):
    return inputs @ params["weight"] + params["bias"]


def logistic(params, batch):
    """−log of the likelihood of labels ±1."""
    return jax.nn.softplus(-batch["targets"] * linear(params, batch["inputs"]))


def network(params, batch):
    hidden = jnp.tanh(batch["inputs"] @ params["first"])
    return hidden @ params["second"][0] + params["second"][1]


def class_loss(outputs, batch):
    return losses.cross_entropy(outputs, batch["targets"])


def network_loss(params, batch):
    return class_loss(network(params, batch), batch)


def logistic_case(n, seed=0):
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(n, FEATURES)).astype(np.float32)
    data = {"inputs": inputs, "targets": np.sign(rng.normal(size=n)).astype(np.float32)}
    params = {"weight": rng.normal(size=FEATURES).astype(np.float32), "bias": np.float32(0.3)}
    return params, data, ravel_pytree(params)[1](jnp.asarray(rng.normal(size=FEATURES + 1)))


def logistic_hessian(params, data):
    """(1/n) Σ s(1 − s) x xᵀ in float64, in the order of ``ravel_pytree``: bias, weight."""
    inputs = data["inputs"].astype(float)
    s = 1 / (1 + np.exp(-(inputs @ params["weight"].astype(float) + float(params["bias"]))))
    design = np.concatenate([np.ones((len(inputs), 1)), inputs], 1)
    return (design * (s * (1 - s))[:, None]).T @ design / len(inputs)


def network_case(n=23):
    rng = np.random.default_rng(1)
    data = {"inputs": rng.normal(size=(n, 4)), "targets": rng.integers(0, 3, n)}
    params = {
        "first": rng.normal(size=(4, 5)),
        "second": (rng.normal(size=(5, 3)), rng.normal(size=3)),
    }
    return jax.tree.map(jnp.asarray, (params, data))


def dense(operator, params):
    flat, unravel = ravel_pytree(params)
    columns = jax.vmap(lambda row: ravel_pytree(operator(unravel(row)))[0])(jnp.eye(flat.size))
    return np.asarray(columns, float)


def flat64(tree):
    return np.asarray(ravel_pytree(tree)[0], float)


@pytest.mark.parametrize("batch_size", [1, 7, 13, 24, 1000])
def test_every_sample_of_the_first_k_weighs_the_same_whatever_the_batch_size(batch_size):
    params, data, vector = logistic_case(25)

    @jax.jit
    def product(count):
        return hessian_operator(logistic, params, data, batch_size=batch_size, count=count)(vector)

    def output_loss(outputs, batch):
        return jax.nn.softplus(-batch["targets"] * outputs)

    for count in range(1, 26):
        first = jax.tree.map(lambda leaf, count=count: leaf[:count], data)
        expected = logistic_hessian(params, first) @ flat64(vector)
        np.testing.assert_allclose(flat64(product(count)), expected, rtol=5e-6, atol=1e-6)
        newton = ggn_operator(
            lambda w, batch: linear(w, batch["inputs"]),
            output_loss, params, data, batch_size=batch_size, count=count,
        )  # fmt: skip
        if count in (1, 12, 25):
            np.testing.assert_allclose(flat64(newton(vector)), expected, rtol=5e-6, atol=1e-6)


def test_a_product_costs_the_chunks_it_needs():
    params, data, vector = logistic_case(25)
    calls = []

    def loss(params, batch):
        jax.debug.callback(lambda: calls.append(None))
        return logistic(params, batch)

    for count, chunks in ((1, 1), (5, 1), (6, 2), (25, 5)):
        operator = hessian_operator(loss, params, data, batch_size=5, count=count)
        jax.effects_barrier()
        calls.clear()
        jax.block_until_ready(operator(vector))
        jax.effects_barrier()
        assert len(calls) == chunks


@settings(max_examples=15, deadline=None)
@given(n=st.integers(1, 12), batch_size=st.integers(1, 14), seed=st.integers(0, 2**31))
def test_hessian_of_logistic_regression(n, batch_size, seed):
    params, data, vector = logistic_case(n, seed)
    expected = logistic_hessian(params, data) @ flat64(vector)
    got = flat64(hessian_operator(logistic, params, data, batch_size=batch_size)(vector))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_hessian_is_the_derivative_of_the_gradient():
    with jax.enable_x64(True):
        params, data = network_case()
        flat, unravel = ravel_pytree(params)
        vector = unravel(jnp.asarray(np.random.default_rng(2).normal(size=flat.size)))

        def gradient(step):
            moved = jax.tree.map(lambda w, v: w + step * v, params, vector)
            return flat64(jax.grad(lambda w: network_loss(w, data).mean())(moved))

        differences = (gradient(1e-5) - gradient(-1e-5)) / 2e-5
        got = flat64(hessian_operator(network_loss, params, data, batch_size=6)(vector))
    np.testing.assert_allclose(got, differences, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("batch_size", [7, 50])
def test_gauss_newton_is_the_dense_product(batch_size):
    params, data = network_case()
    flat, unravel = ravel_pytree(params)
    outputs = np.asarray(network(params, data), float)
    jacobian = np.asarray(jax.jacobian(lambda w: network(unravel(w), data))(flat), float)
    softmax = np.exp(outputs) / np.exp(outputs).sum(1, keepdims=True)
    curvature = np.einsum("ia,ab->iab", softmax, np.eye(3)) - softmax[:, :, None] * softmax[:, None]
    expected = np.einsum("iap,iab,ibq->pq", jacobian, curvature, jacobian) / len(outputs)
    got = dense(ggn_operator(network, class_loss, params, data, batch_size=batch_size), params)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=2e-6)
    hessian = dense(hessian_operator(network_loss, params, data), params)
    assert np.abs(hessian - got).max() > 0.01  # the model is not linear, so they must differ


def test_works_under_jit_vmap_and_in_loops():
    params, data, vector = logistic_case(25)
    hessian = logistic_hessian(params, data)

    @jax.jit
    def three_times(params, data, vector):
        operator = hessian_operator(logistic, params, data, batch_size=10)
        return jax.lax.while_loop(
            lambda carry: carry[0] < 3, lambda c: (c[0] + 1, operator(c[1])), (0, vector)
        )[1]

    expected = np.linalg.matrix_power(hessian, 3) @ flat64(vector)
    np.testing.assert_allclose(flat64(three_times(params, data, vector)), expected, rtol=1e-5)
    np.testing.assert_allclose(
        dense(hessian_operator(logistic, params, data), params), hessian, rtol=1e-5
    )


def test_one_program_serves_every_call_with_the_same_loss():
    traces = []

    def loss(params, batch):
        traces.append(None)
        return logistic(params, batch)

    def spectrum(seed):
        params, data, vector = logistic_case(25, seed)
        operator = hessian_operator(loss, params, data, batch_size=10)
        before = len(traces)
        operator(vector)
        found = top_eigenpairs(jax.random.key(seed), operator, params, 2)
        expected = np.sort(np.linalg.eigvalsh(logistic_hessian(params, data)))[::-1][:2]
        np.testing.assert_allclose(found.values, expected, rtol=1e-4)
        return len(traces) - before

    assert spectrum(0) > 0
    assert spectrum(1) == 0


def test_data_is_no_constant_of_the_program():
    params, data, vector = logistic_case(5000)
    operator = hessian_operator(logistic, params, data)
    lowered = jax.jit(lambda operator, vector: operator(vector)).lower(operator, vector)
    constants = re.findall(r"dense<([^>]*)>", lowered.as_text())
    assert constants
    # The largest is the mask of fresh samples, 5000 booleans; the inputs would be 120,000 digits.
    assert max(map(len, constants)) < 6000


def reverse_only(params, batch):
    """A loss that knows no forward mode."""
    double = jax.custom_vjp(lambda x: 2 * x)
    double.defvjp(lambda x: (2 * x, None), lambda _, slope: (2 * slope,))
    return class_loss(double(network(params, batch)), batch)


def many_products(operator, params):
    """Five products with one operator, from which each has what the one before gave."""
    return jax.lax.fori_loop(0, 5, lambda _, v: linearised(operator)(v), params)


@pytest.mark.parametrize("kept", [curvature.KEPT, 0])
@pytest.mark.parametrize("build", ["hessian", "some", "ggn", "reverse"])
def test_many_products_share_what_no_vector_changes(build, kept, monkeypatch):
    params, data = network_case()
    operator = {
        "hessian": lambda: hessian_operator(network_loss, params, data, weight_decay=0.3),
        "some": lambda: hessian_operator(network_loss, params, data, count=17, batch_size=5),
        "ggn": lambda: ggn_operator(network, class_loss, params, data, batch_size=7),
        "reverse": lambda: hessian_operator(reverse_only, params, data, batch_size=7),
    }[build]()
    monkeypatch.setattr(curvature, "KEPT", kept)
    assert isinstance(linearised(operator), MeanOperator) == (kept == 0)
    want = params
    for _ in range(5):
        want = operator(want)
    got = jax.jit(many_products)(operator, params)
    np.testing.assert_allclose(flat64(got), flat64(want), rtol=1e-5, atol=1e-6)


def test_a_product_multiplies_as_often_as_four_forward_passes():
    """Products of data with the first weights: 3. With the next 7, with the last 8. XLA's count."""
    sizes, n = (784, 256, 256, 10), 100  # of the main job
    params = [jnp.full(shape, 0.01) for shape in itertools.pairwise(sizes)]

    def loss(params, batch):
        x = batch["inputs"]
        for weights in params[:-1]:
            x = jax.nn.relu(x @ weights)
        return class_loss(x @ params[-1], batch)

    inputs = jax.random.normal(jax.random.key(0), (n, sizes[0]))
    data = {"inputs": inputs, "targets": jnp.zeros(n, int)}
    operator = hessian_operator(loss, params, data, batch_size=n)
    program = jax.jit(lambda operator, v: operator(v)).lower(operator, params).compile()
    first, second, last = (2 * n * weights.size for weights in params)
    wanted = 3 * first + 7 * second + 8 * last
    assert round(wanted / (first + second + last), 2) == 4.02
    assert wanted < program.cost_analysis()["flops"] < 1.02 * wanted


def test_a_product_that_shares_takes_a_third_less_work():
    params = {"first": jnp.ones((4, 50)), "second": (jnp.ones((50, 50)), jnp.ones(50))}
    data = {"inputs": jnp.ones((10, 4)), "targets": jnp.zeros(10, int)}
    operator = hessian_operator(network_loss, params, data)

    def work(operator):
        return sum(x.work for x in products_in(jax.make_jaxpr(operator)(params).jaxpr))

    assert work(linearised(operator)) < 0.7 * work(operator)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "chunk size of at least 1, found 0"),
        ({"count": 0}, "count from 1 to 5"),
        ({"count": 6}, "count from 1 to 5"),
        ({"loss": lambda p, b: logistic(p, b).mean()}, r"one loss per sample, shape \(5,\)"),
        ({"params": {"weight": np.ones(3, np.int32), "bias": np.ones(())}}, "int.*'weight'"),
        ({"params": {}}, "at least one parameter"),
        ({"data": {"inputs": np.ones((0, 3)), "targets": np.ones(0)}}, "at least one sample"),
        ({"data": {"inputs": np.ones((5, 3)), "targets": np.ones(4)}}, "common leading"),
    ],
)
def test_bad_input_is_one_clear_line(changes, message):
    params, data, _ = logistic_case(5)
    arguments = {"loss": logistic, "params": params, "data": data} | changes
    with pytest.raises(InputError, match=message) as caught:
        hessian_operator(**arguments)
    assert "\n" not in str(caught.value)


def test_vector_of_another_shape():
    params, data, _ = logistic_case(5)
    operator = hessian_operator(logistic, params, data)
    for vector in ({"weight": jnp.ones(4), "bias": jnp.ones(())}, jnp.ones(4)):
        with pytest.raises(InputError, match="vector to be shaped like the parameters"):
            operator(vector)
