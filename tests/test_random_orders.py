import jax
import numpy as np
import pytest
from cases import increments64

import jaxscape as js
from jaxscape.sample_size import random_orders

LOSSES = np.random.default_rng(0).exponential(size=(3, 50)).astype(np.float32)


def test_each_order_is_a_permutation_of_all_samples():
    key = jax.random.key(1)
    got = random_orders(key, LOSSES, 4).delta
    assert got.shape == (4, 49)
    for row, child in zip(got, jax.random.split(key, 4), strict=True):
        order = np.asarray(jax.random.permutation(child, 50))
        want = (increments64(LOSSES[:, order]) ** 2).mean(0)
        np.testing.assert_allclose(row, want, rtol=1e-5, atol=1e-10)


def test_the_mean_over_200_orders_is_the_order_law_within_its_error():
    deltas = np.asarray(random_orders(jax.random.key(2), LOSSES, 200).delta, float)
    k = np.arange(1, 50)
    law = LOSSES.astype(float).var(1, ddof=1).mean() / k / (k + 1)
    scores = (deltas.mean(0) - law) / (deltas.std(0, ddof=1) / np.sqrt(200))
    assert abs(scores).max() < 4
    assert 0.8 < scores.std() < 1.2  # the error is neither too small nor too large


def test_bands_and_sizes_are_those_of_the_orders():
    orders = random_orders(jax.random.key(3), LOSSES, 21)
    np.testing.assert_allclose(
        orders.bands([0.05, 0.5, 0.95]), np.quantile(orders.delta, [0.05, 0.5, 0.95], 0), rtol=1e-5
    )
    tolerances = np.array([1e-1, 1e-3, 1e-9], np.float32)
    sizes = orders.sufficient_size(tolerances)
    assert sizes.k.shape == (3, 21)
    for i, tolerance in enumerate(tolerances):
        for j, delta in enumerate(orders.delta):
            assert int(sizes.k[i, j]) == int(js.sufficient_size(delta, tolerance).k)
    assert sizes.reached[0].all()
    assert not sizes.reached[2].any()


@pytest.mark.parametrize(
    ("losses", "orders", "word"),
    [(LOSSES[0], 2, "(50,)"), (LOSSES[:, :1], 2, "(3, 1)"), (LOSSES, 0, "found 0")],
)
def test_bad_input_is_said(losses, orders, word):
    with pytest.raises(js.InputError, match=word.replace("(", r"\(").replace(")", r"\)")):
        random_orders(jax.random.key(0), losses, orders)
