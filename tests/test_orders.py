import itertools

import numpy as np
from cases import increments64

import jaxscape as js


def test_the_order_law_is_the_mean_over_all_720_orders_of_six_samples():
    losses = np.random.default_rng(0).exponential(size=6)
    orders = np.array(list(itertools.permutations(losses)))
    assert len(orders) == 720
    mean = (increments64(orders) ** 2).mean(0)
    np.testing.assert_allclose(js.order_law(losses.var(ddof=1), np.arange(1, 6)), mean, rtol=1e-6)
