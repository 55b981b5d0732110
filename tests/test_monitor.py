import jax
import numpy as np
import pytest
from cases import increments64

import jaxscape as js
from jaxscape.sample_size import monitor

LOSSES = np.random.default_rng(0).exponential(size=(4, 6000)).astype(np.float32)
TOLERANCE = 2e-6
# each has a program of its own
WATCH = monitor(num_points=4, tolerance=TOLERANCE)
EASY = monitor(num_points=4, tolerance=1e9, at_least=120)


@pytest.fixture(scope="module")
def watched():
    """Every decision while samples come in batches of 60."""

    @jax.jit
    def follow(batches):
        def step(state, batch):
            state = WATCH.update(state, batch)
            return state, WATCH.decide(state)

        return jax.lax.scan(step, WATCH.init(), batches)

    state, decisions = follow(LOSSES.reshape(4, 100, 60).transpose(1, 0, 2))
    return state, jax.tree.map(np.asarray, decisions)


def test_the_stream_ends_with_the_variance_of_the_whole(watched):
    _, decisions = watched
    want = LOSSES.astype(float).var(1, ddof=1).mean()
    np.testing.assert_allclose(decisions.loss_variance.interval.value[-1], want, rtol=1e-5)
    np.testing.assert_array_equal(decisions.num_samples, 60 * np.arange(1, 101))


def test_it_stops_where_definition_4_would_within_its_interval(watched):
    _, decisions = watched
    at = np.argmax(decisions.stop)
    assert decisions.stop[at]
    delta = (increments64(LOSSES) ** 2).mean(0)
    k = int(js.sufficient_size(delta, TOLERANCE).k)
    last = decisions.exceedance
    assert last.low.k[at] <= k <= last.high.k[at] <= decisions.num_samples[at]
    assert decisions.num_samples[at - 1] < last.high.k[at - 1]
    variance = LOSSES.astype(float).var(1, ddof=1).mean()
    law = variance / np.arange(1, 6000) / np.arange(2, 6001)
    k = int(js.sufficient_size(law, TOLERANCE).k)
    assert decisions.law.low.k[at] <= k <= decisions.law.high.k[at]


def test_batches_of_any_size_give_the_same_end(watched):
    state, _ = watched
    other = WATCH.init()
    for part in np.split(LOSSES, [1, 2, 1000, 4321], axis=1):
        other = WATCH.update(other, part)
    rounded = (state.prefix.mean, state.prefix.num_samples, state.delta, state.centered)
    again = (other.prefix.mean, other.prefix.num_samples, other.delta, other.centered)
    for a, b in zip(jax.tree.leaves(rounded), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-2)  # low halves of sums near 1e4


def test_it_never_stops_on_too_few_samples_or_none():
    state = EASY.init()
    assert not EASY.decide(state).stop
    for count in (119, 120):
        met = EASY.update(state, LOSSES[:, :count])
        assert bool(EASY.decide(met).stop) == (count >= 120)


def test_it_never_stops_while_a_few_samples_carry_all():
    rare = LOSSES[:, :2000].copy()
    assert EASY.decide(EASY.update(EASY.init(), rare)).stop
    rare[:, 1000:1009] = 1e3
    decision = EASY.decide(EASY.update(EASY.init(), rare))
    assert 8 < decision.loss_variance.effective < 10
    assert int(decision.law.high.k) < 2000 > int(decision.exceedance.high.k)
    assert not decision.stop


@pytest.mark.parametrize(
    "setting", [{"num_points": 0}, {"tolerance": 0.0}, {"level": 1.0}, {"at_least": 0}]
)
def test_bad_settings_are_said(setting):
    ((name, value),) = setting.items()
    with pytest.raises(js.InputError, match=f"{name} .*found {value}"):
        monitor(**{"num_points": 4, "tolerance": 1.0} | setting)


def test_a_loss_that_is_not_finite_is_counted_and_leaves_no_size():
    broken = LOSSES.copy()
    broken[1, 500] = np.nan
    broken[2, 500:502] = np.inf
    found = WATCH.decide(WATCH.update(WATCH.init(), broken))
    assert int(found.nonfinite) == 2
    assert not found.stop
    for sizes in (found.law, found.exceedance):
        assert not any(bool(size.reached) for size in sizes)


def test_the_samples_seen_may_be_some_of_all():
    """K is compared with their total; what is estimated is the same."""
    state = WATCH.update(WATCH.init(), LOSSES[:, :1000])
    few, many = WATCH.decide(state), WATCH.decide(state, 1_000_000)
    assert not few.stop
    assert many.stop
    assert int(many.num_samples) == 1000
    limit = max(int(many.law.high.k), int(many.exceedance.high.k))
    assert WATCH.decide(state, limit).stop
    assert not WATCH.decide(state, limit - 1).stop
