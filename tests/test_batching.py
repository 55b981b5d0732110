"""Chunks of the sample axis, and the sizes and options that the products of a loss ask for."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from jaxscape import InputError, batching
from jaxscape.batching import Product
from jaxscape.lab import models

on_a_cpu = pytest.mark.skipif(jax.default_backend() != "cpu", reason="what suits a CPU")


@given(st.integers(1, 200), st.integers(1, 250), st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_every_entry_is_fresh_exactly_once(length, size, hands):
    cut = batching.cut(length, size, hands)
    assert cut.size <= size
    assert len(cut.starts) == cut.num
    assert cut.num % hands == 0
    positions, fresh = map(np.asarray, cut.computed())
    np.testing.assert_array_equal(positions[fresh], np.arange(length))
    np.testing.assert_array_equal(positions[:, 0], cut.starts)


@pytest.mark.parametrize("hands", [1, 3, 8])
@pytest.mark.parametrize(("length", "size"), [(10, 3), (10, 10), (10, 99), (7, 1), (1, 1)])
def test_join_undoes_cut(length, size, hands):
    data = {"a": jnp.arange(length), "b": jnp.arange(2.0 * length).reshape(length, 2)}
    cut = batching.cut(length, size, hands)
    take = batching.taker(data)
    rows = jax.lax.map(lambda start: take(start, cut.size), jnp.asarray(cut.starts))
    jax.tree.map(np.testing.assert_array_equal, batching.join(cut, rows), data)


@pytest.mark.parametrize(
    ("data", "word"),
    [({"a": np.zeros(3), "b": np.zeros(4)}, "common leading"), (np.float32(1), "common leading"),
     (np.zeros((0, 3)), "at least one sample"), ({}, "common leading")],
)  # fmt: skip
def test_arrays_without_a_sample_axis_are_refused(data, word):
    with pytest.raises(InputError, match=word):
        batching.length_of(data)


def test_an_iterator_is_no_array():
    with pytest.raises(InputError, match="found batches"):
        batching.length_of(iter([np.zeros(3)]))


def test_a_chunk_size_of_zero_is_refused():
    with pytest.raises(InputError, match="at least 1"):
        batching.cut(5, 0)


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
        (in_a_scan, Product(3 * N * 40 * 40, 3, N)),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_the_largest_product_is_found_with_its_rows(case, largest):
    assert max(batching.products(*case()), key=lambda p: p.work) == largest


def test_attention_is_many_small_products_side_by_side():
    beside = [p for p in batching.products(*attention()) if p.calls > 1]
    # queries with keys, weights with values: 4 heads of width 6
    assert beside == [Product(4 * N * 11 * 11 * 6, 4 * N, 4 * N * 11)] * 2


@on_a_cpu
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
def test_fifteen_hundred_rows_at_a_time(case, want):
    assert batching.batch_size(*case()) == want


@on_a_cpu
def test_eigen_multiplies_unless_products_are_many_and_small():
    if not all(map(batching.is_known, batching.EIGEN)):
        pytest.skip("a version of XLA without the option")
    for case in (dense, patches, dense_with_a_small_product):
        assert batching.compiler_options(*case()) == batching.EIGEN
    assert batching.compiler_options(*attention()) == {}
    within = []
    jax.jit(lambda: within.append(batching.compiler_options(*dense())))()
    assert within == [{}]


def test_an_option_that_xla_does_not_know_is_recognised():
    assert not batching.is_known("xla_cpu_no_such_option")


def test_a_taker_cuts_rows_of_any_shape():
    data = {"x": jnp.arange(240.0).reshape(10, 2, 3, 4), "y": jnp.arange(10)}
    cut = jax.jit(lambda data, start: batching.taker(data)(start, 4))(data, 5)
    for found, whole in zip(jax.tree.leaves(cut), jax.tree.leaves(data), strict=True):
        assert np.array_equal(found, whole[5:9])
