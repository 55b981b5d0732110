import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxscape.loss_variance import mean_interval, terms_of


def interval(values, points=None, level=0.9):
    values = jnp.asarray(values, jnp.float32)
    points = None if points is None else terms_of(jnp.asarray(points, jnp.float32))
    return mean_interval(terms_of(values), values.max(), points, level=level)


def slow(values, points, level):
    """The formulas of the docstring in float64."""

    def error(terms):
        n = len(terms)
        return terms.var(ddof=1) / n / terms.mean() ** 2

    def freedom(terms):
        return terms.sum() ** 2 / (terms**2).sum() - 1

    limits = []
    for sign, terms in ((-1, values), (1, np.append(values, 2 * values.max()))):
        errors = np.array([error(terms), error(points)])
        own = np.array([freedom(values), freedom(points)])
        t = stats.t.ppf((1 + level) / 2, errors.sum() ** 2 / (errors**2 / own).sum())
        limits.append(terms.mean() * np.exp(sign * t * np.sqrt(errors.sum())))
    return limits[0], values.mean(), limits[1]


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95])
def test_limits_match_float64(level):
    rng = np.random.default_rng(0)
    values, points = rng.pareto(1.5, 50), rng.exponential(size=7)
    got = interval(values, points, level)
    np.testing.assert_allclose(got, slow(values, points, level), rtol=1e-4)


def test_effective_number_counts_the_terms_that_carry_the_sum():
    assert float(terms_of(jnp.array([2.0] * 5 + [0.0] * 95)).effective) == 5
    one = terms_of(jnp.array([1.0] + [0.0] * 99))
    assert float(one.effective) == 1
    low, value, high = mean_interval(one, jnp.array(1.0), None, level=0.9)
    np.testing.assert_allclose([low, value, high], [0, 0.01, np.inf])


def test_equal_terms_are_known_but_for_the_larger_one_yet_unseen():
    low, value, high = interval(np.full(1000, 3.0))
    np.testing.assert_allclose([low, value], 3, rtol=1e-6)
    assert 3 < float(high) < 3.02


def test_terms_of_zero_tell_nothing():
    np.testing.assert_array_equal(interval(np.zeros(10)), [0, 0, np.inf])


TAILS = {
    "squares of normals": lambda u: stats.norm.ppf(u) ** 2,
    "squares of lognormals": lambda u: np.exp(2 * stats.norm.ppf(u)),
    "infinite variance": lambda u: (1 - u) ** (-1 / 1.5),
    "one in a hundred": lambda u: np.where(u > 0.99, np.log((1 - u) / 0.01) ** 2, 1e-6),
}


@pytest.mark.parametrize("tail", TAILS)
def test_intervals_of_90_percent_cover_the_mean(tail):
    population = TAILS[tail]((np.arange(60_000) + 0.5) / 60_000)
    pilots = np.random.default_rng(0).choice(population, (600, 1000)).astype(np.float32)
    low, _, high = jax.vmap(interval)(pilots)
    covered = (low <= population.mean()) & (population.mean() <= high)
    assert 0.87 <= float(covered.mean()) <= 0.98  # too wide rather than too narrow
    if tail == "infinite variance":  # where the usual interval falls short
        error = 1.645 * pilots.std(1, ddof=1) / np.sqrt(1000)
        assert np.mean(abs(pilots.mean(1) - population.mean()) <= error) < 0.8


def test_an_unknown_spread_leaves_the_mean_unknown():
    for values, points in (([0.3], None), ([0.3, 0.5, 0.2], [0.3])):
        low, value, high = interval(values, points)
        assert value == pytest.approx(np.mean(values))
        assert (float(low), float(high)) == (0, np.inf)
