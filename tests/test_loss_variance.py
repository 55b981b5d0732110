import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import increments64

from jaxscape import InputError
from jaxscape.loss_variance import estimate, evidence_of, extend, start

LOSSES = np.random.default_rng(0).pareto(2.5, (5, 300)).astype(np.float32)


def variances64(losses):
    """E_q S² of Δ and of centered delta, by their definitions."""
    losses = np.asarray(losses, np.float64)
    m = len(losses)
    shape = losses - losses.mean(0)
    return losses.var(1, ddof=1).mean(), shape.var(1, ddof=1).mean() * m / (m - 1)


def test_shape_variance_is_the_level_of_its_order_law_over_all_720_orders():
    losses = np.random.default_rng(1).exponential(size=(3, 6))
    orders = [increments64(losses[:, list(order)]) for order in itertools.permutations(range(6))]
    assert len(orders) == 720
    mean = np.var(orders, axis=1, ddof=1).mean(0)
    k = np.arange(1, 6)
    np.testing.assert_allclose(mean * k * (k + 1), variances64(losses)[1], rtol=1e-6)
    got = estimate(evidence_of(losses), "centered").interval.value
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
        got = estimate(state, part)
        np.testing.assert_allclose(got.interval.value, want, rtol=1e-5)
        whole = estimate(evidence_of(LOSSES), part)
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
    got = estimate(state, part).effective
    np.testing.assert_allclose(got, terms.sum() ** 2 / (terms**2).sum(), rtol=1e-5)


def test_samples_met_before_change_nothing():
    state = evidence_of(LOSSES[:, :100])
    again = extend(state, LOSSES[:, 90:110], jnp.arange(20) >= 10)
    want = extend(state, LOSSES[:, 100:110])
    assert int(again.prefix.num_samples) == 110
    for part in ("delta", "centered"):
        np.testing.assert_allclose(
            jax.tree.leaves(estimate(again, part)),
            jax.tree.leaves(estimate(want, part)),
            rtol=1e-5,
        )


@pytest.mark.parametrize("part", ["delta", "centered"])
def test_intervals_of_90_percent_cover_the_expectation_over_samples_and_points(part):
    """ℓ_i(w) = x_i a(w) + 3 y_i, with x and y exponential and a(w)² gamma-distributed."""
    rng = np.random.default_rng(2)
    x, y = rng.exponential(size=(2, 400, 1, 200))
    a = np.sqrt(rng.gamma(2.0, size=(400, 16, 1))) * rng.choice([-1, 1], (400, 16, 1))
    losses = (x * a + 3 * y).astype(np.float32)
    truth = 2.0 + (9.0 if part == "delta" else 0.0)
    find = jax.jit(jax.vmap(lambda pilot: estimate(evidence_of(pilot), part)))
    low, _, high = find(losses).interval
    assert 0.85 <= float(jnp.mean((low <= truth) & (truth <= high))) <= 0.97


def test_with_one_point_there_is_no_shape():
    state = evidence_of(LOSSES[:1])
    assert np.isnan(estimate(state, "centered", fixed_points=True).interval.value)
    assert np.isfinite(estimate(state, fixed_points=True).interval.high)


def test_bad_input_is_said():
    state = evidence_of(LOSSES)
    with pytest.raises(InputError, match=r"\(5, samples\).*found \(4, 300\)"):
        extend(state, LOSSES[:4])
    with pytest.raises(InputError, match="found 'form'"):
        estimate(state, "form")
    with pytest.raises(InputError, match=r"found 1\.5"):
        estimate(state, level=1.5)
