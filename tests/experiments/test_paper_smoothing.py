"""The exponential average along k, as published and as it should be, against the definitions."""

import numpy as np
import pytest

from experiments.paper.unraveling_report import exponential
from jaxscape import InputError

K = np.arange(1, 60_001)
EXACT = (1 / (K + 1.0)).astype(np.float32)


def loop64(values, beta, *, as_published):
    """The definitions, in float64, value after value."""
    found, k = [], np.arange(1, len(values) + 1)
    for last in k:
        if as_published:
            weights = (1 - beta) * beta ** (last - k[:last]) * np.where(k[:last] == 1, 0, 1)
            weights[0] = beta ** (last - 1)
            found.append(weights @ values[:last])
        else:
            weights = beta ** (last - k[:last])
            scaled = values[:last] * (k[:last] + 1)
            found.append(weights @ scaled / weights.sum() / (last + 1))
    return np.array(found)


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.99, 0.9999])
def test_an_exact_curve_is_its_own_average_at_every_k(beta):
    assert abs(np.asarray(exponential(EXACT, beta=beta)) / EXACT - 1).max() < 1e-3


def test_as_published_it_is_20_times_too_high_at_100():
    found = np.asarray(exponential(EXACT, as_published=True)) / EXACT
    assert 20 < found[99] < 21
    assert found[0] == 1


def test_taking_away_the_bias_of_the_start_alone_leaves_it_too_high_at_100():
    # averaging y/(k+1) and multiplying back weighs y itself, as Adam does
    found = np.asarray(exponential(EXACT / (K + 1))) * (K + 1) / EXACT
    assert found[99] > 2


@pytest.mark.parametrize("as_published", [False, True])
def test_averages_are_those_of_the_definition(as_published):
    values = np.random.default_rng(0).exponential(size=(2, 3, 70)).astype(np.float32)
    found = exponential(values, beta=0.8, as_published=as_published)
    assert found.shape == values.shape
    for row, want in zip(found.reshape(6, 70), values.astype(float).reshape(6, 70), strict=True):
        np.testing.assert_allclose(row, loop64(want, 0.8, as_published=as_published), rtol=1e-5)


@pytest.mark.parametrize("beta", [-0.1, 1.0, float("nan")])
def test_a_beta_out_of_range_is_said(beta):
    with pytest.raises(InputError, match="beta of at least 0, below 1"):
        exponential(EXACT[:5], beta=beta)
