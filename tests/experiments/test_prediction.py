"""What is concluded from networks refitted, on numbers of which the answer is known."""

from unittest import mock

import numpy as np
import pytest
from scipy import stats
from scipy.stats import spearmanr

import jaxscape as js
from experiments.common import run_folder
from experiments.refit import prediction, report


def test_distances_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    losses, order = rng.gamma(0.3, size=(4, 9)).astype(np.float32), rng.permutation(9)
    found = prediction.distances(losses, order, np.array([1, 4, 9]))
    for column, k in enumerate((1, 4, 9)):
        gaps = []
        for row in losses.astype(np.float64):
            gaps.append(sum(row) / 9 - sum(row[i] for i in order[:k]) / k)
        squares = [gap**2 for gap in gaps]
        shape = sum((gap - sum(gaps) / 4) ** 2 for gap in gaps) / 3
        np.testing.assert_allclose(found["distance"][column], sum(squares) / 4, atol=1e-30)
        np.testing.assert_allclose(found["distance_centered"][column], shape, atol=1e-30)
        np.testing.assert_allclose(found["distance_sem"][column], np.std(squares) / 3**0.5)


def test_the_bracket_ends_one_past_the_last_exceedance():
    k, excess = np.array([10, 20, 40, 80]), np.array([5.0, 0.5, 2.0, 0.0])
    assert prediction.bracket(k, excess, 1.0) == (40, 80)
    assert prediction.bracket(k, excess, 2.1) == (10, 20)
    assert prediction.bracket(k, excess, 6.0) == (0, 10)
    assert prediction.bracket(k, excess, 0.5) == (40, 80)
    sizes = {30: 1.0, 40: 1.0, 20: 1.0, 19: 0.95, 80: 2.0}
    for size, miss in sizes.items():
        assert prediction.factor(size, prediction.Bracket(19 if size == 20 else 20, 40)) == miss


def test_the_exponent_of_a_power_law():
    distance = np.array([8.0, 4.0, 2.0, 1.0, 0.0])
    excess = np.stack([3 * distance**1.5 * (1 + e) for e in (-0.1, 0.1)])
    excess[:, 3] = (-1, 4)  # not clear of its error, so left out
    found = prediction.slope(distance, excess)
    np.testing.assert_allclose(found, (1.5, 0, 3), atol=1e-7)
    assert np.isnan(prediction.slope(distance, excess * 0).value)


def test_the_error_of_the_exponent_is_that_over_repeats():
    """Repeats of exponents 1, 1.5 and 2: each is a straight line, so only they differ."""
    distance = np.array([[8.0, 4, 2, 1], [9, 3, 2, 1], [7, 4, 3, 1]])
    powers = np.array([1.0, 1.5, 2.0])
    excess = distance ** powers[:, None]
    found = prediction.slope(distance, excess)
    np.testing.assert_allclose(found, (1.5, 0.5 / 3**0.5, 4))
    alone = prediction.slope(distance[1], excess[1:2])
    assert alone.value == pytest.approx(1.5)
    assert np.isnan(alone.sem)


def rate_of(losses, distance):
    gamma = prediction.slope(distance, losses - losses[:, -1:])
    exponent = {"value": gamma.value, "sem": run_folder.plain(gamma.sem), "count": gamma.num_ks}
    quantile = lambda p, nu: stats.t.ppf((1 + p) / 2, nu)  # noqa: E731
    with mock.patch.object(report, "two_sided", quantile):
        return report.rate({"excess_exponent": exponent, "repeats": len(losses)})


def test_noise_alone_is_seldom_taken_for_another_rate():
    """True γ = 1 under a noise that all k of a repeat share: 5 % of claims are wrong, not half."""
    rng = np.random.default_rng(0)
    distance = np.sqrt(1 / np.geomspace(250, 60_000, 12) - 1 / 60_000).clip(0)
    wrong = 0
    for _ in range(200):
        wrong += "is not" in rate_of(15 * distance + 0.01 * rng.normal(size=(3, 12)), distance)
    assert wrong <= 20  # 10 expected
    steep = 15 * distance**2 + 1e-5 * rng.normal(size=(3, 12))
    assert "is not the 1" in rate_of(steep, distance)
    assert "cannot tell" in rate_of(steep[:1], distance)


def test_a_loss_that_is_no_number_has_no_bracket():
    k = np.array([10, 20, 40])
    for excess, words in (
        ([1.0, np.nan, 0.0], r"NaN at k = \[20\]"),
        ([np.nan, np.nan, np.nan], "lower --learning-rate"),
    ):
        with pytest.raises(js.InputError, match=words):
            prediction.bracket(k, np.array(excess), 0.5)
    with pytest.raises(js.InputError, match="an ε above"):
        prediction.bracket(k, np.array([1.0, 0.5, 0.0]), 0.0)


def test_the_rank_correlation_is_spearmans():
    rng = np.random.default_rng(0)
    distance, excess = rng.normal(size=(2, 6, 4))
    expected = np.mean([spearmanr(distance[:, i], excess[:, i])[0] for i in range(3)])
    np.testing.assert_allclose(prediction.rank_correlation(distance, excess), expected)
    assert np.isnan(prediction.rank_correlation(distance[:2], excess[:2]))
    assert np.isnan(prediction.rank_correlation(np.ones((6, 4)), excess))


def test_an_endless_level_needs_all_samples():
    levels = np.array([[1.0, 4.0, np.inf]], np.float32)
    found = prediction.k_epsilon(levels, np.array([0.1]), 1000)
    assert found[0, 0].tolist() == [91, 286, 1000]  # S²/(ε² + S²/n) < k
