"""Learning curves, against curves of which the parameters are known and SciPy's own fit."""

import doctest

import jax
import numpy as np
import pytest
from scipy.optimize import least_squares

from jaxscape import InputError
from jaxscape.lab import learning_curve

KEY = jax.random.key(0)
K = np.array([125, 250, 500, 1000, 2000])
TRUE = (0.05, 5.0, 0.5)


def curve(k, floor=TRUE[0], scale=TRUE[1], exponent=TRUE[2]):
    return floor + scale * np.asarray(k, float) ** -exponent


def noisy(rng, orders, relative=0.02, truth=TRUE):
    """Losses whose errors at neighbouring k go together, as those of one order's prefixes do."""
    z = rng.normal(size=(orders, len(K)))
    for column in range(1, len(K)):
        z[:, column] = 0.7 * z[:, column - 1] + 0.51**0.5 * z[:, column]
    return curve(K, *truth) * (1 + relative * z)


@pytest.mark.parametrize("truth", [TRUE, (0.0, 3.0, 0.3), (0.2, 400.0, 1.1)])
@pytest.mark.parametrize("orders", [1, 3])
def test_of_a_curve_without_noise_it_is_the_curve(truth, orders):
    found = learning_curve.fit(KEY, K, np.tile(curve(K, *truth), (orders, 1)))
    got = found.floor[0], found.scale[0], found.exponent[0]
    np.testing.assert_allclose(got, truth, rtol=1e-4, atol=1e-5)
    ahead = np.array([1e4, 1e6, np.inf])
    np.testing.assert_allclose(np.stack(found.at(ahead)), [curve(ahead, *truth)] * 3, atol=1e-4)
    fixed = learning_curve.fit(KEY, K, np.tile(curve(K, *truth), (orders, 1)), floor=truth[0])
    got = fixed.floor[0], fixed.scale[0], fixed.exponent[0]
    np.testing.assert_allclose(got, truth, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(
    ("power", "floor", "known"), [(-0.5, 0.05, None), (0.5, 0.0, None), (0.5, 0.05, 0.02)]
)
def test_it_is_the_least_squares_fit_of_scipy(power, floor, known):
    """Of orders whose scatter is a power of k, so that the weights are known."""
    mean = curve(K, floor) * (1 + 0.05 * np.array([1, -1, 0, 1.5, -1]))
    scatter = 0.01 * (K / 125.0) ** power
    losses = mean + scatter * np.array([-1, 0, 1])[:, None]
    found = learning_curve.fit(KEY, K, losses, floor=known)

    def residuals(w):
        return (curve(K, *w) - mean) / scatter

    c = (0, np.inf) if known is None else (known - 1e-12, known + 1e-12)
    own = least_squares(residuals, [known or 0.05, *TRUE[1:]], bounds=([c[0], 0, 0.02],
                        [c[1], np.inf, 4]), xtol=1e-15, ftol=1e-15, gtol=1e-15,
                        x_scale=TRUE)  # fmt: skip
    np.testing.assert_allclose(found.at(np.array([300, 16e3])).value, curve([300, 16e3], *own.x),
                               rtol=1e-4)  # fmt: skip
    left = 2 if known is None else 3  # of 5 losses, which are means of 3
    misfit = np.sqrt(np.sum(own.fun**2) * 3 / left)
    np.testing.assert_allclose(found.misfit, misfit, rtol=1e-5)


def test_the_example_gives_what_it_says():
    assert doctest.testmod(learning_curve).failed == 0


def test_sizes_are_where_the_curve_first_falls_below():
    found = learning_curve.fit(KEY, K, noisy(np.random.default_rng(0), 5))
    own = [part[0] for part in (found.floor, found.scale, found.exponent)]
    every = curve(np.arange(1, 2_000_000), *own)
    for size, level in (
        (found.within(0.02, of=16_000), curve(16_000, *own) + 0.02),
        (found.within(0.02), own[0] + 0.02),
        (found.below(0.12), 0.12),
    ):
        assert size.interval.value == 1 + np.argmax(every < level)
        assert size.interval.low < size.interval.value < size.interval.high
    assert found.within(0.02, of=16_000).interval.high < 16_000
    assert found.below(1e3).interval == (1, 1, 1)


def test_what_further_samples_gain_is_below_epsilon_from_the_size_within_it_on():
    found = learning_curve.fit(KEY, K, noisy(np.random.default_rng(0), 5))
    size = found.within(0.02, of=16_000).interval
    for side, k in enumerate(size):
        assert found.gain(k, 16_000)[side] < 0.02 <= found.gain(k - 1, 16_000)[side]
    gained = found.at(4000).value - found.at(16_000).value
    np.testing.assert_allclose(found.gain(4000, 16_000).value, gained)


def test_the_answer_says_what_the_limits_allow():
    found = learning_curve.fit(KEY, K, noisy(np.random.default_rng(0), 5))
    low, value, high = found.below(0.12).interval
    assert found.below(0.12).answer == "reached"
    assert found.below(0.12, by=high).answer == "reached"
    assert found.below(0.12, by=value).answer == "cannot tell"
    assert found.below(0.12, by=low - 1).answer == "not by"
    assert found.below(0.01).answer == "not by"  # below the floor
    assert found.below(found.at(np.inf).value).answer == "cannot tell"
    width = found.at(np.inf).high - found.at(np.inf).low
    assert found.within(1.01 * width).answer == "reached"
    assert found.within(0.99 * width).answer == "cannot tell"  # the floor is not known so well
    rising = learning_curve.fit(KEY, K, noisy(np.random.default_rng(0), 5)[:, ::-1])
    assert rising.scale[0] == 0
    assert rising.below(1.0).answer == rising.within(0.1, of=1e4).answer == "cannot tell"


@pytest.mark.parametrize(("orders", "truth"), [(3, TRUE), (10, (0.0, 5.0, 0.5))])
def test_intervals_cover_at_their_level(orders, truth):
    """Over 200 repetitions, of the forecast, of a size and of the floor, which may be 0."""
    rng, hits = np.random.default_rng(1), []
    end = curve(16_000, *truth)
    size = 1 + np.argmax(curve(np.arange(1, 16_000), *truth) < 1.3 * end)
    for seed in range(200):
        found = learning_curve.fit(
            jax.random.key(seed), K, noisy(rng, orders, truth=truth), num_draws=200
        )
        triples = found.at(16_000.0), found.within(0.3 * end, of=16_000).interval, found.at(np.inf)
        hits.append([
            low <= want <= high
            for (low, _, high), want in zip(triples, (end, size, truth[0]), strict=True)
        ])  # fmt: skip
    held = np.mean(hits, 0)
    assert (held > 0.84).all(), held
    assert (held < 0.97).all(), held


@pytest.mark.parametrize(
    ("k", "losses", "changes", "message"),
    [(K[:3], np.ones((2, 3)), {}, "at least 4"), (K, np.ones((2, 4)), {}, r"\(2, 4\)"),
     (K, np.ones((0, 5)), {}, "row per order"), (K, np.full((1, 5), np.nan), {}, "nan at k = 125"),
     (K, -np.ones((1, 5)), {}, "at least 0"),
     (K, np.ones((1, 5)), {"level": 1.0}, "level"), (K, np.ones((1, 5)), {"num_draws": 5}, "100"),
     (K - 125, np.ones((1, 5)), {}, "above 0")],
)  # fmt: skip
def test_bad_input_is_one_line(k, losses, changes, message):
    with pytest.raises(InputError, match=message):
        learning_curve.fit(KEY, k, losses, **changes)


def test_no_k_takes_all_weight_by_chance():
    """One k whose orders agree, or where a single order's loss is 0: the others still count."""
    k = np.array([250.0, 500, 1000, 2000, 4000])
    truth = 0.02 + 3 / np.sqrt(k)
    noise = 1 + 0.02 * np.random.default_rng(3).normal(size=(3, 5))
    usual = learning_curve.fit(KEY, k, truth * noise).at(16_000).value
    agreed = truth * noise
    agreed[:, 0] = agreed[:, 0].mean()
    assert abs(learning_curve.fit(KEY, k, agreed).at(16_000).value / usual - 1) < 0.2
    single = (truth * noise)[:1]
    single[0, 2] = 0
    assert learning_curve.fit(KEY, k, single).at(16_000).value > 0.01


@pytest.mark.parametrize("slope", [0.0, 0.1])
@pytest.mark.parametrize("floor", [0.0, None])
def test_losses_that_do_not_fall_cannot_tell(slope, floor):
    noise = 1 + 0.01 * np.random.default_rng(0).normal(size=(5, len(K)))
    found = learning_curve.fit(KEY, K, (0.2 + slope * np.log(K / K[0])) * noise, floor=floor)
    assert found.below(0.1).answer == "cannot tell"
    assert found.within(0.05, of=16_000).answer == "cannot tell"


@pytest.mark.parametrize("changes", [{"floor": -1.0}, {"floor": np.nan}, {"floor": 9.0}])
def test_a_floor_below_the_losses(changes):
    k = np.array([250.0, 500, 1000, 2000])
    with pytest.raises(InputError, match="expected a floor from 0 to"):
        learning_curve.fit(KEY, k, (3 / np.sqrt(k))[None], **changes)


def test_sizes_are_asked_for_with_numbers():
    k = np.array([250.0, 500, 1000, 2000])
    curve = learning_curve.fit(KEY, k, (3 / np.sqrt(k))[None], floor=0.0)
    for ask in (lambda: curve.within(np.nan), lambda: curve.within(0.1, of=0),
                lambda: curve.below(np.nan)):  # fmt: skip
        with pytest.raises(InputError, match="change"):
            ask()
