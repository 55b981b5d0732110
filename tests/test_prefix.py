"""Prefix means, increments and pair arithmetic against float64 NumPy and exact fractions."""

from fractions import Fraction

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import increments64
from hypothesis import given, settings

from jaxscape import prefix

pytestmark = pytest.mark.usefixtures("optimised")
extend = jax.jit(prefix.extend)  # as every sweep does
means, increments = jax.jit(prefix.means), jax.jit(prefix.increments)


def stream(losses, sizes):
    """Feed the columns of ``losses`` in batches of the given sizes."""
    state, rows, begin = prefix.start(losses.shape[0]), [], 0
    for size in sizes:
        batch = jnp.asarray(losses[:, begin : begin + size])
        state, steps = extend(state, batch, jnp.ones(size, bool))
        rows.append(np.asarray(steps.increment))
        begin += size
    return state, np.concatenate(rows, 1)[:, 1:]


@pytest.mark.parametrize("sizes", [[200], [1] * 200, [7, 93, 100], [199, 1]])
def test_increments_match_float64_whatever_the_batches(sizes):
    losses = np.random.default_rng(0).pareto(1.5, (5, 200)).astype(np.float32)
    state, got = stream(losses, sizes)
    np.testing.assert_allclose(got, increments64(losses), rtol=1e-6)
    np.testing.assert_allclose(state.variance, losses.astype(float).var(1, ddof=1), rtol=1e-5)
    np.testing.assert_allclose(state.mean, losses.astype(float).mean(1), rtol=1e-6)


def test_samples_met_before_change_nothing():
    losses = np.random.default_rng(1).exponential(size=(3, 30)).astype(np.float32)
    state, _ = extend(prefix.start(3), losses[:, :20], jnp.ones(20, bool))
    again = jnp.asarray(np.concatenate([losses[:, 15:20], losses[:, 20:]], 1))
    state, steps = extend(state, again, jnp.arange(15) >= 5)
    assert int(state.num_samples) == 30
    np.testing.assert_array_equal(steps.k[5:], np.arange(20, 30))
    np.testing.assert_allclose(state.mean, losses.mean(1), rtol=1e-6)
    np.testing.assert_allclose(steps.increment[:, 5:], increments64(losses)[:, 19:], rtol=2e-5)


@pytest.mark.parametrize("offset", [1e3, -1e3])
def test_a_large_common_offset_costs_no_digits(offset):
    losses = (offset + np.random.default_rng(2).normal(size=(4, 500))).astype(np.float32)
    np.testing.assert_allclose(stream(losses, [100] * 5)[1], increments64(losses), rtol=1e-6)


def test_one_late_outlier_costs_no_digits():
    losses = np.full((1, 1000), 1e-4, np.float32)
    losses += np.random.default_rng(3).uniform(size=losses.shape).astype(np.float32) * 1e-4
    losses[0, 990] = 1e4
    np.testing.assert_allclose(stream(losses, [1000])[1], increments64(losses), rtol=1e-6)


def test_ten_million_samples_lose_nothing():
    batch = np.random.default_rng(4).exponential(size=(1, 100_000)).astype(np.float32)
    state = prefix.start(1)
    for _ in range(99):  # in chunks of a sweep's size, so that 10,000 of them add up
        for i in range(0, 100_000, 1000):
            state, _ = extend(state, batch[:, i : i + 1000], np.ones(1000, bool))
    state, steps = extend(state, batch, np.ones(100_000, bool))
    exact = batch.astype(np.float64)
    np.testing.assert_allclose(
        float(state.mean[0]) + float(state.residue[0]), exact.mean(), rtol=1e-8
    )
    np.testing.assert_allclose(state.variance, exact.var(1), rtol=1e-5)
    mean = (99 * exact.sum(1)[:, None] + np.cumsum(exact, 1) - exact) / (
        99 * 100_000 + np.arange(100_000)
    )
    want = ((exact - mean) / np.asarray(steps.k + 1)) ** 2
    got = np.asarray(steps.increment, np.float64) ** 2
    np.testing.assert_allclose(got, want, rtol=1e-5)


@given(
    hnp.arrays(np.float32, st.sampled_from([(1, 2), (3, 40)]), elements=st.floats(0, 100, width=32))
)
@settings(max_examples=30, deadline=None)
def test_means_and_increments_of_stored_losses(losses):
    running = np.cumsum(losses.astype(float), 1) / np.arange(1, losses.shape[1] + 1)
    scale = np.abs(losses).max() + 1e-30
    assert np.abs(np.asarray(means(losses)) - running).max() <= 1e-5 * scale
    got = np.asarray(increments(losses))
    assert got.shape == (losses.shape[0], losses.shape[1] - 1)
    assert np.abs(got - increments64(losses)).max() <= 1e-5 * scale


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


def test_running_sums_before_a_term_do_not_depend_on_it():
    x = np.ones(70, np.float32)
    x[40] = np.nan
    high, _ = jax.jit(prefix.cumsum)((x, np.zeros_like(x)))
    np.testing.assert_array_equal(high[:40], np.arange(1, 41))
    assert np.isnan(high[40:]).all()
