import numpy as np
import pytest

from jaxscape.sample_size import exceedance_size
from jaxscape.types import InputError

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


def test_terms_left_out_widen_the_limits_where_they_matter():
    # of 20,000 nearly equal terms, as many as are kept tell nothing of a K that all of them reach
    terms = np.random.default_rng(2).normal(1, 0.1, size=20_000).astype(np.float32)
    kept = np.sort(terms)[::-1][:1024]
    few, all_ = (exceedance_size(z, 20_000, 1e-3) for z in (kept, terms))
    assert int(few.low.k) <= int(all_.low.k)
    assert int(all_.value.k) <= int(few.value.k) <= int(few.high.k)
    assert int(all_.high.k) <= int(few.high.k) <= 1.2 * int(all_.high.k)


def test_a_run_of_n_sees_no_later_exceedance():
    tolerance, n = np.float32(1e-4), 200
    rng = np.random.default_rng(1)
    k = np.arange(1, n)
    exceeds = rng.choice(POPULATION, (4000, n - 1)) / (k * (k + 1)) >= tolerance
    found = np.max(np.where(exceeds, k, 0), 1) + 1
    low, value, high = exceedance_size(POPULATION.astype(np.float32), 3000, tolerance, within=n)
    endless = exceedance_size(POPULATION.astype(np.float32), 3000, tolerance)
    assert int(high.k) <= n < int(endless.high.k)
    for size, p in ((low, 0.05), (value, 0.5), (high, 0.95)):
        assert np.mean(found < size.k) - 0.045 <= p <= np.mean(found <= size.k) + 0.045


def test_a_term_that_is_not_finite_leaves_no_size():
    for bad in (np.nan, np.inf):
        sizes = exceedance_size(np.array([1.0, bad], np.float32), 2, 1e-3)
        assert not any(bool(size.reached) for size in sizes)


@pytest.mark.parametrize(("terms", "level"), [([1.0], 1.0), ([1.0], 1.5), ([], 0.9)])
def test_bad_input_is_said(terms, level):
    with pytest.raises(InputError, match="expected"):
        exceedance_size(np.array(terms, np.float32), 5, 1e-3, level=level)
