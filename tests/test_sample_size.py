"""Sample sizes against their definitions, the laws against all orders of six samples."""

import itertools

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from cases import deltas_in_random_orders, increments64
from hypothesis import given, settings

import jaxscape as js
from jaxscape.sample_size import (
    distance_law,
    distance_size,
    exceedance_size,
    increment_size,
)
from jaxscape.types import InputError

SIX = np.random.default_rng(0).exponential(size=6)
ORDERS = np.array(list(itertools.permutations(SIX)))
MEANS = np.cumsum(ORDERS, 1) / np.arange(1, 7)


def test_the_order_law_is_the_mean_over_all_720_orders_of_six_samples():
    assert len(ORDERS) == 720
    mean = (increments64(ORDERS) ** 2).mean(0)
    np.testing.assert_allclose(js.order_law(SIX.var(ddof=1), np.arange(1, 6)), mean, rtol=1e-6)


@pytest.mark.parametrize("b", [1, 2, 3, 4, 5])
def test_several_samples_at_once_over_all_720_orders(b):
    k = np.arange(1, 7 - b)
    mean = ((MEANS[:, b:] - MEANS[:, :-b]) ** 2).mean(0)
    np.testing.assert_allclose(distance_law(SIX.var(ddof=1), k, k + b), mean, rtol=1e-6)
    np.testing.assert_allclose(distance_law(SIX.var(ddof=1), k + b, k), mean, rtol=1e-6)


def test_distance_to_the_full_data_over_all_720_orders():
    mean = ((MEANS - SIX.mean()) ** 2).mean(0)
    got = distance_law(SIX.var(ddof=1), np.arange(1, 7), 6)
    np.testing.assert_allclose(got, mean, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_distance_to_a_population_over_all_draws_with_replacement(k):
    draws = np.array(list(itertools.product(SIX, repeat=k)))
    mean = ((draws.mean(1) - SIX.mean()) ** 2).mean()
    np.testing.assert_allclose(distance_law(SIX.var(), k), mean, rtol=1e-6)


def test_one_sample_further_is_the_order_law_at_any_k():
    k = np.array([1, 100, 59_999, 10_000_000])
    np.testing.assert_allclose(distance_law(2.0, k, k + 1), js.order_law(2.0, k), rtol=1e-6)


def slow(delta, tolerance):
    """Definition 4, word by word."""
    for k in range(1, len(delta) + 1):
        if all(value < tolerance for value in delta[k - 1 :]):
            return k
    return -1


@given(
    hnp.arrays(
        np.float32, st.integers(1, 30), elements=st.floats(0, 1, width=32, allow_subnormal=False)
    ),
    st.floats(0, 1, width=32, allow_subnormal=False),
)
@settings(deadline=None)
def test_sufficient_size_is_definition_4(delta, tolerance):
    got = js.sufficient_size(delta, np.float32(tolerance))
    assert int(got.k) == slow(delta, np.float32(tolerance))
    assert bool(got.reached) == (int(got.k) != -1)


def test_it_is_the_last_exceedance_not_the_first_crossing():
    got = js.sufficient_size(np.array([9.0, 1, 9, 1, 1]), np.array([2.0, 10.0, 0.5]))
    np.testing.assert_array_equal(got.k, [4, 1, -1])
    np.testing.assert_array_equal(got.reached, [True, True, False])


def test_nan_is_never_below_the_tolerance():
    assert int(jax.jit(js.sufficient_size)(np.array([1.0, np.nan, 1.0]), 2.0).k) == 3


SCALES = st.floats(2.0**-9, 2.0**13, width=32)


@given(SCALES, SCALES)
@settings(deadline=None)
def test_increment_size_is_the_first_k_of_the_order_law(variance, tolerance):
    """In float32: 18 / (5·6) and a tolerance of 0.6 are the same number there."""
    law = lambda k: variance / (k * (k + 1))  # noqa: E731
    k = int(increment_size(variance, tolerance).k)
    assert law(k) < tolerance * (1 + 3e-7)
    assert k == 1 or law(k - 1) >= tolerance * (1 - 3e-7)


def test_at_the_tolerance_is_not_below_it():
    got = increment_size(np.array([2.0, 6.0, 12.0, 11.9]), 1.0)
    np.testing.assert_array_equal(got.k, [2, 3, 4, 3])


@given(SCALES, st.floats(0.25, 100, width=32), st.sampled_from([1, 7, 5000, np.inf]))
@settings(max_examples=40, deadline=None)
def test_distance_size_is_the_first_k_within_epsilon(variance, epsilon, to):
    k = np.arange(1, min(to, 200_000) + 1)
    # in float32, as the law is, where a product of the two can be a tie
    below = np.asarray(distance_law(np.float32(variance), k, to)) < np.float32(epsilon) ** 2
    assert int(distance_size(variance, epsilon, to).k) == int(k[np.argmax(below)])
    exact = variance * (1 / k - 1 / to)
    slow = int(k[np.argmax(exact < epsilon**2 * (1 + 1e-6))])
    assert slow <= int(distance_size(variance, epsilon, to).k) <= slow + 1 + slow // 1000


def test_large_sizes_are_found_too():
    """Whatever the compiler makes of the law's divisions."""
    variance = np.geomspace(1e-6, 1e9, 2000).astype(np.float32)
    got = increment_size(variance, np.float32(1e-7))
    assert got.reached.all()
    want = np.sqrt(0.25 + variance.astype(float) / np.float32(1e-7)) - 0.5
    np.testing.assert_allclose(got.k, want + 0.5, rtol=1e-6, atol=0.51)


def test_a_size_beyond_reach_is_said_so():
    got = increment_size(np.array([1.0, 0.0, np.nan, np.inf]), np.array([0.0, 1.0, 1.0, 1.0]))
    np.testing.assert_array_equal(got.k, [-1, 1, -1, -1])
    np.testing.assert_array_equal(got.reached, [False, True, False, False])
    assert int(distance_size(1e20, 1e-3).k) == -1


def test_no_distance_is_below_an_epsilon_that_is_not_positive():
    size = distance_size(1.0, np.array([0.1, 0.0, -0.1], np.float32))
    assert size.reached.tolist() == [True, False, False]


POPULATION = np.random.default_rng(0).exponential(size=3000) ** 2


def simulated(tolerance, orders=2000):
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
        found = simulated(tolerance)
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


def test_limits_within_a_run_cover_its_orders_for_light_and_heavy_tails():
    """What one order of the samples says, against another order; 90 % limits, 200 orders."""
    rng, n = np.random.default_rng(0), 200
    k = np.arange(1, n)
    limits = jax.jit(
        jax.vmap(lambda z, tolerance: exceedance_size(z, n - 1, tolerance, within=n), (0, None))
    )
    for draw in (rng.standard_normal, rng.standard_exponential):
        for power in (1, 4):
            losses = (draw(n) ** power).astype(np.float32)[None]
            orders = deltas_in_random_orders(1, losses, 200)
            terms = orders * k * (k + 1)
            for share in (0.2, 0.6):
                tolerance = np.float32(losses.var(ddof=1) / (share * n) ** 2)
                size = js.sufficient_size(orders, tolerance)
                other = np.roll(np.where(size.reached, size.k, n), 1)
                low, _, high = limits(terms, tolerance)
                covered = np.mean((low.k <= other) & (other <= high.k))
                assert 0.86 < covered < 0.995, (power, share, covered)


def test_a_pilot_is_no_whole_run_however_its_terms_are_stored():
    """Kept terms are padded with zeros to a fixed number, which says nothing of the samples."""
    pilot = np.sort(POPULATION[:99])[::-1].astype(np.float32)
    padded = np.concatenate([pilot, np.zeros(925, np.float32)])
    bare, stored = (exceedance_size(z, 99, 1e-3, within=800) for z in (pilot, padded))
    assert [int(x.k) for x in bare] == [int(x.k) for x in stored]
    endless = exceedance_size(pilot, 99, 1e-4, within=100_000).high
    whole = exceedance_size(pilot, 99, 1e-4, within=100).high
    assert int(whole.k) <= 100 < int(endless.k)


def test_a_smaller_tolerance_is_never_met_earlier():
    tolerances = np.geomspace(1e-12, 1.0, 60).astype(np.float32)
    for within in (3000, float("inf")):
        sizes = exceedance_size(POPULATION.astype(np.float32), 2999, tolerances, within=within)
        for size in sizes:
            k = np.where(size.reached, size.k, 2**31 - 1)
            assert (np.diff(k) <= 0).all()


def test_what_every_sample_reaches_is_not_left_before_the_end():
    low, value, high = exceedance_size(np.ones(999, np.float32), 999, 1e-8, within=1000)
    assert [int(size.k) for size in (low, value, high)] == [1000] * 3  # that is, not by 1000


def test_a_term_that_is_not_finite_leaves_no_size():
    for bad in (np.nan, np.inf):
        sizes = exceedance_size(np.array([1.0, bad], np.float32), 2, 1e-3)
        assert not any(bool(size.reached) for size in sizes)


@pytest.mark.parametrize(("terms", "level"), [([1.0], 1.0), ([1.0], 1.5), ([], 0.9)])
def test_bad_terms_are_said(terms, level):
    with pytest.raises(InputError, match="expected"):
        exceedance_size(np.array(terms, np.float32), 5, 1e-3, level=level)
