from fractions import Fraction

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from jaxscape import prefix

numbers = st.floats(-1e6, 1e6, width=32, allow_subnormal=False).filter(
    lambda x: x == 0 or abs(x) > 1e-6
)


@given(numbers, numbers)
@settings(deadline=None)
def test_two_sum_is_exact(a, b):
    high, low = jax.jit(prefix.two_sum)(jnp.float32(a), jnp.float32(b))
    assert Fraction(float(high)) + Fraction(float(low)) == Fraction(a) + Fraction(b)


@given(numbers, st.integers(1, 2**24))
@settings(deadline=None)
def test_a_quotient_has_twice_the_digits(a, count):
    whole = (jnp.float32(a), jnp.float32(0))
    high, low = jax.jit(prefix.divide)(whole, jnp.float32(count))
    assert abs(float(high) + float(low) - a / count) <= 1e-12 * abs(a / count)


@pytest.mark.parametrize("n", [1, 2, prefix.RUN, prefix.RUN + 1, 1001])
def test_running_sums_have_twice_the_digits(n):
    x = np.random.default_rng(0).normal(size=(3, n)).astype(np.float32) * 1e3
    high, low = jax.jit(prefix.cumsum)((x, np.zeros_like(x)))
    exact = np.cumsum(x.astype(np.float64), -1)
    got = np.asarray(high, np.float64) + np.asarray(low, np.float64)
    assert np.abs(got - exact).max() < 1e-9


def test_running_sums_before_a_term_do_not_hang_on_it():
    x = np.ones(70, np.float32)
    x[40] = np.nan
    high, _ = jax.jit(prefix.cumsum)((x, np.zeros_like(x)))
    np.testing.assert_array_equal(high[:40], np.arange(1, 41))
    assert np.isnan(high[40:]).all()
