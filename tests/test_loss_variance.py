"""E_q S² and its interval against float64, SciPy, and coverage in simulations."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import at64, increments64, mlp_loss, mlp_losses64, mlp_problem
from scipy import stats

import jaxscape as js
from jaxscape import InputError
from jaxscape.loss_variance import (
    HELD,
    estimate_loss_variance,
    evidence_of,
    extend,
    mean_interval,
    start,
    terms_of,
    two_sided,
)

pytestmark = pytest.mark.usefixtures("optimised")
LOSSES = np.random.default_rng(0).pareto(2.5, (5, 300)).astype(np.float32)


def variances64(losses):
    """E_q S² of Δ and of centered delta, by their definitions."""
    losses = np.asarray(losses, np.float64)
    m = len(losses)
    centered = losses - losses.mean(0)
    return losses.var(1, ddof=1).mean(), centered.var(1, ddof=1).mean() * m / (m - 1)


def test_the_centered_variance_is_the_level_of_its_order_law_over_all_720_orders():
    losses = np.random.default_rng(1).exponential(size=(3, 6))
    orders = [increments64(losses[:, list(order)]) for order in itertools.permutations(range(6))]
    assert len(orders) == 720
    mean = np.var(orders, axis=1, ddof=1).mean(0)
    k = np.arange(1, 6)
    np.testing.assert_allclose(mean * k * (k + 1), variances64(losses)[1], rtol=1e-6)
    got = estimate_loss_variance(evidence_of(losses), "centered").interval.value
    np.testing.assert_allclose(got, variances64(losses)[1], rtol=1e-6)


@pytest.mark.parametrize("sizes", [(), (1, 1, 98, 200), (77, 77, 77)])
def test_estimates_are_the_variances_however_the_samples_come(sizes):
    state, begin = start(5), 0
    for size in [*sizes, 300]:
        batch = LOSSES[:, begin : begin + size]
        if batch.size:
            state = extend(state, batch)
        begin += size
    for part, want in zip(("delta", "centered"), variances64(LOSSES), strict=True):
        got = estimate_loss_variance(state, part)
        np.testing.assert_allclose(got.interval.value, want, rtol=1e-5)
        whole = estimate_loss_variance(evidence_of(LOSSES), part)
        np.testing.assert_allclose(
            jax.tree.leaves(got), jax.tree.leaves(whole), rtol=1e-4, err_msg=part
        )


@pytest.mark.parametrize("part", ["delta", "centered"])
def test_terms_are_the_scaled_increments(part):
    steps = increments64(LOSSES)
    k = np.arange(1, 300)
    mean = (steps**2).mean(0) if part == "delta" else steps.var(0, ddof=1)
    terms = k * (k + 1) * mean
    state = evidence_of(LOSSES)
    largest = getattr(state, part).largest
    np.testing.assert_allclose(largest[:299], np.sort(terms)[::-1], rtol=1e-4)
    np.testing.assert_array_equal(largest[299:], 0)
    got = estimate_loss_variance(state, part).effective
    np.testing.assert_allclose(got, terms.sum() ** 2 / (terms**2).sum(), rtol=1e-5)


@pytest.mark.parametrize("part", ["delta", "centered"])
def test_intervals_of_90_percent_cover_the_expectation_over_samples_and_points(part):
    """ℓ_i(w) = x_i a(w) + 3 y_i, with x and y exponential and a(w)² gamma-distributed."""
    rng = np.random.default_rng(2)
    x, y = rng.exponential(size=(2, 400, 1, 200))
    a = np.sqrt(rng.gamma(2.0, size=(400, 16, 1))) * rng.choice([-1, 1], (400, 16, 1))
    losses = (x * a + 3 * y).astype(np.float32)
    truth = 2.0 + (9.0 if part == "delta" else 0.0)
    find = jax.jit(jax.vmap(lambda pilot: estimate_loss_variance(evidence_of(pilot), part)))
    low, _, high = find(losses).interval
    assert 0.85 <= float(jnp.mean((low <= truth) & (truth <= high))) <= 0.97


def test_with_one_point_there_is_no_centered_part():
    state = evidence_of(LOSSES[:1])
    assert np.isnan(estimate_loss_variance(state, "centered", fixed_points=True).interval.value)
    assert np.isfinite(estimate_loss_variance(state, fixed_points=True).interval.high)


def test_bad_input_is_said():
    state = evidence_of(LOSSES)
    with pytest.raises(InputError, match=r"\(5, samples\).*found \(4, 300\)"):
        extend(state, LOSSES[:4])
    with pytest.raises(InputError, match="found form"):
        estimate_loss_variance(state, "form")
    with pytest.raises(InputError, match=r"found 1\.5"):
        estimate_loss_variance(state, level=1.5)


@pytest.fixture(scope="module")
def network():
    """A loss, a probe and samples, with the losses at all points in float64."""
    params, data = mlp_problem(n=101)
    space = js.random_subspace(jax.random.key(0), params, 3)
    probe = js.gaussian(jax.random.key(1), space, 11, 0.5)
    losses = [mlp_losses64(at64(space, theta), data) for theta in probe.coordinates]
    return probe, data, np.stack(losses)


@pytest.mark.parametrize("part", ["delta", "centered"])
@pytest.mark.parametrize("source", ["arrays", "iterator"])
def test_in_one_call_it_is_the_estimate_from_all_losses(network, part, source):
    probe, data, losses = network
    if source == "iterator":
        data = iter([jax.tree.map(lambda x, a=a: x[a : a + 40], data) for a in (0, 40, 80)])
    got = js.loss_variance(mlp_loss, probe, data, part=part, level=0.8)
    want = js.estimate_loss_variance(evidence_of(jnp.asarray(losses, jnp.float32)), part, level=0.8)
    index = ["delta", "centered"].index(part)
    np.testing.assert_allclose(got.interval.value, variances64(losses)[index], rtol=1e-5)
    np.testing.assert_allclose(jax.tree.leaves(got), jax.tree.leaves(want), rtol=2e-5)


@pytest.mark.slow
def test_in_one_call_where_the_losses_are_too_many_to_hold(network):
    few, data, _ = network
    probe = js.gaussian(jax.random.key(2), few.space, 2**15, 0.5)
    assert HELD < 101 * 2**15 < 2 * HELD
    losses = js.evaluate(mlp_loss, probe, data, js.reductions.losses(2**15), point_batch=512)
    got = js.loss_variance(mlp_loss, probe, data, point_batch=512)
    want = js.estimate_loss_variance(evidence_of(losses))
    np.testing.assert_allclose(jax.tree.leaves(got), jax.tree.leaves(want), rtol=1e-4)


def test_in_one_call_under_jit(network):
    probe, data, losses = network
    find = jax.jit(functools.partial(js.loss_variance, mlp_loss, fixed_points=True))
    np.testing.assert_allclose(find(probe, data).interval.value, variances64(losses)[0], rtol=1e-5)


def test_what_one_call_cannot_use_is_said(network):
    probe, data, _ = network
    one = jax.tree.map(lambda leaf: leaf[:1], data)
    broken = data | {"inputs": data["inputs"].at[3].set(jnp.nan)}
    for samples, word in ((one, "at least 2 samples"), (broken, "infinity for 1 of 101 samples")):
        with pytest.raises(InputError, match=word):
            js.loss_variance(mlp_loss, probe, samples)
    with pytest.raises(InputError, match="at least 2 points"):
        js.loss_variance(mlp_loss, js.single(probe.space.origin), data)


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


@pytest.mark.parametrize("level", [0.5, 0.9, 0.99])
def test_quantiles_are_those_of_scipy(level):
    freedom = np.array([0.5, 1, 1.7, 3, 10, 29.9, 30, 31, 500, 6e4, 1e7], np.float32)
    want = stats.t.ppf((1 + level) / 2, freedom.astype(float))
    got = two_sided(level, freedom)
    np.testing.assert_allclose(got, want, rtol=2e-4 if level > 0.9 else 1e-5)


def test_without_a_degree_of_freedom_nothing_is_known():
    np.testing.assert_array_equal(two_sided(0.9, np.array([0.0, -1.0])), np.inf)
