import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.sweep.decay import decay_exponent

K = np.arange(100, 20_000)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 3.0])
def test_an_exact_power_law_is_found(alpha):
    fit = decay_exponent(jnp.asarray(K), jnp.asarray(7e-3 * K**-alpha, jnp.float32))
    np.testing.assert_allclose(fit.exponent, alpha, atol=2e-4)
    assert fit.sem < 1e-4


def test_the_error_covers_the_truth_under_heavy_tails():
    """Squares of heavy-tailed values, as Δ_k is: 2 standard errors cover about 95 %."""
    k = np.arange(100, 4000)
    rng = np.random.default_rng(0)
    inside, fitted = [], jax.jit(decay_exponent)
    for _ in range(100):
        y = rng.exponential(size=len(k)) ** 2 * k**-2.0
        fit = fitted(jnp.asarray(k), jnp.asarray(y, jnp.float32))
        inside.append(abs(float(fit.exponent) - 2) < 2 * float(fit.sem))
    assert 0.88 <= np.mean(inside) <= 1.0


@pytest.mark.parametrize("alpha", [-3.0, 10.0])
def test_a_fit_far_away_is_right_or_not_given(alpha):
    fit = decay_exponent(jnp.asarray(K), jnp.asarray((K / 1000.0) ** -alpha, jnp.float32))
    assert np.isnan(fit.exponent) or abs(float(fit.exponent) - alpha) < 1e-2


def test_one_value_alone_is_no_decay():
    y = np.zeros(len(K), np.float32)
    y[5] = 1
    assert np.isnan(decay_exponent(jnp.asarray(K), jnp.asarray(y)).exponent)


def test_nothing_to_fit_is_nan():
    assert np.isnan(decay_exponent(jnp.array([1, 2]), jnp.array([1.0, 0.5])).exponent)
    assert np.isnan(decay_exponent(jnp.arange(1, 9), jnp.zeros(8)).exponent)
