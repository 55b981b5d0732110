import numpy as np
import pytest

from jaxscape.exceedance import exceedance_size

POPULATION = np.random.default_rng(0).exponential(size=3000) ** 2


def sizes(tolerance, orders=2000):
    """Definition 4's K in random streams of Δ_k = z/(k(k+1)), drawn with replacement."""
    rng = np.random.default_rng(1)
    k = np.arange(1, 1001)
    exceeds = rng.choice(POPULATION, (orders, 1000)) / (k * (k + 1)) >= tolerance
    return np.max(np.where(exceeds, k, 0), 1) + 1


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_quantiles_are_those_of_simulated_orders(level):
    tolerances = np.array([1e-2, 1e-3, 3e-4], np.float32)
    low, value, high = exceedance_size(
        np.sort(POPULATION)[::-1].astype(np.float32), 3000, tolerances, level=level
    )
    for i, tolerance in enumerate(tolerances):
        found = sizes(tolerance)
        for k, p in ((low.k[i], (1 - level) / 2), (value.k[i], 0.5)):
            assert np.mean(found <= k) >= p - 0.045
            assert np.mean(found < k) <= p + 0.045
        assert np.mean(found <= high.k[i]) >= (1 + level) / 2 - 0.02


def test_the_largest_terms_suffice():
    terms = np.sort(POPULATION)[::-1].astype(np.float32)
    few, all_ = (exceedance_size(terms[:n], 3000, 1e-4) for n in (1000, 3000))
    assert [int(x.k) for x in few] == [int(x.k) for x in all_]


def test_terms_below_the_tolerance_never_reach_it():
    got = exceedance_size(np.full(5, 1e-3, np.float32), 5, 1.0)
    assert [int(x.k) for x in got] == [1, 1, 1]
