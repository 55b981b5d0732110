import itertools

import numpy as np
import pytest
from cases import increments64

import jaxscape as js
from jaxscape.sample_size import distance_law

LOSSES = np.random.default_rng(0).exponential(size=6)
ORDERS = np.array(list(itertools.permutations(LOSSES)))
MEANS = np.cumsum(ORDERS, 1) / np.arange(1, 7)


def test_the_order_law_is_the_mean_over_all_720_orders_of_six_samples():
    assert len(ORDERS) == 720
    mean = (increments64(ORDERS) ** 2).mean(0)
    np.testing.assert_allclose(js.order_law(LOSSES.var(ddof=1), np.arange(1, 6)), mean, rtol=1e-6)


@pytest.mark.parametrize("b", [1, 2, 3, 4, 5])
def test_several_samples_at_once_over_all_720_orders(b):
    k = np.arange(1, 7 - b)
    mean = ((MEANS[:, b:] - MEANS[:, :-b]) ** 2).mean(0)
    np.testing.assert_allclose(distance_law(LOSSES.var(ddof=1), k, k + b), mean, rtol=1e-6)
    np.testing.assert_allclose(distance_law(LOSSES.var(ddof=1), k + b, k), mean, rtol=1e-6)


def test_distance_to_the_full_data_over_all_720_orders():
    mean = ((MEANS - LOSSES.mean()) ** 2).mean(0)
    got = distance_law(LOSSES.var(ddof=1), np.arange(1, 7), 6)
    np.testing.assert_allclose(got, mean, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_distance_to_a_population_over_all_draws_with_replacement(k):
    draws = np.array(list(itertools.product(LOSSES, repeat=k)))
    mean = ((draws.mean(1) - LOSSES.mean()) ** 2).mean()
    np.testing.assert_allclose(distance_law(LOSSES.var(), k), mean, rtol=1e-6)


def test_one_sample_further_is_the_order_law_at_any_k():
    k = np.array([1, 100, 59_999, 10_000_000])
    np.testing.assert_allclose(distance_law(2.0, k, k + 1), js.order_law(2.0, k), rtol=1e-6)
