from fractions import Fraction

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings

from jaxscape import pairs

numbers = st.floats(-1e6, 1e6, width=32, allow_subnormal=False).filter(
    lambda x: x == 0 or abs(x) > 1e-6
)


@given(numbers, numbers)
@settings(deadline=None)
def test_two_sum_is_exact(a, b):
    high, low = jax.jit(pairs.two_sum)(jnp.float32(a), jnp.float32(b))
    assert Fraction(float(high)) + Fraction(float(low)) == Fraction(a) + Fraction(b)


@given(numbers, st.integers(1, 2**24))
@settings(deadline=None)
def test_a_quotient_has_twice_the_digits(a, count):
    whole = (jnp.float32(a), jnp.float32(0))
    high, low = jax.jit(pairs.divide)(whole, jnp.float32(count))
    assert abs(float(high) + float(low) - a / count) <= 1e-12 * abs(a / count)


def test_running_sums_have_twice_the_digits():
    x = np.random.default_rng(0).normal(size=(3, 1001)).astype(np.float32) * 1e3
    high, low = jax.jit(pairs.cumsum)((x, np.zeros_like(x)))
    exact = np.cumsum(x.astype(np.float64), -1)
    got = np.asarray(high, np.float64) + np.asarray(low, np.float64)
    assert np.abs(got - exact).max() < 1e-9
