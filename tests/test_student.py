import jax
import numpy as np
import pytest
from scipy import stats

from jaxscape.loss_variance import two_sided


@pytest.mark.parametrize("level", [0.5, 0.9, 0.99])
def test_quantiles_are_those_of_scipy(level):
    freedom = np.array([0.5, 1, 1.7, 3, 10, 29.9, 30, 31, 500, 6e4, 1e7], np.float32)
    want = stats.t.ppf((1 + level) / 2, freedom.astype(float))
    got = jax.jit(two_sided)(level, freedom)
    np.testing.assert_allclose(got, want, rtol=2e-4 if level > 0.9 else 1e-5)


def test_without_a_degree_of_freedom_nothing_is_known():
    np.testing.assert_array_equal(two_sided(0.9, np.array([0.0, -1.0])), np.inf)
