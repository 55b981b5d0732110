import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import numpy as np
from hypothesis import given, settings

import jaxscape as js


def slow(delta, tolerance):
    """Definition 4, word by word."""
    for k in range(1, len(delta) + 1):
        if all(value < tolerance for value in delta[k - 1 :]):
            return k
    return -1


@given(
    hnp.arrays(np.float32, st.integers(1, 30), elements=st.floats(0, 1, width=32)),
    st.floats(0, 1, width=32),
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
