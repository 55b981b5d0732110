import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import numpy as np
from hypothesis import given, settings

import jaxscape as js
from jaxscape.sample_size import distance_law, distance_size, increment_size


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
    k = np.arange(1, 4001, dtype=float)
    below = variance / (k * (k + 1)) < tolerance
    assert int(increment_size(variance, tolerance).k) == int(k[np.argmax(below)])


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
