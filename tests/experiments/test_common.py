"""What commands share: progress lines, segments, the numbers of a curve, the verdict on a law."""

import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxscape as js
from experiments.common import console, problem, segments, tables
from experiments.common.config import ProblemConfig
from experiments.common.tables import decay_exponent
from jaxscape.quadratic import QuadraticDelta

K = np.arange(100, 20_000)


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_lines_come_every_few_seconds_with_rate_and_time_left(clock, capsys):
    with console.progress("sweep", 100_000, "samples", done=20_000) as advance:
        for _ in range(8):
            clock[0] += 3
            advance(9_000)
        clock[0] += 3
        advance(8_000)
    assert capsys.readouterr().err.splitlines() == [
        "sweep: 38,000 of 100,000 samples, 3,000 per second, 21 s left",
        "sweep: 56,000 of 100,000 samples, 3,000 per second, 15 s left",
        "sweep: 74,000 of 100,000 samples, 3,000 per second, 9 s left",
        "sweep: 92,000 of 100,000 samples, 3,000 per second, 3 s left",
    ]


def test_slow_work_has_a_rate_too(clock, capsys):
    with console.progress("training", 10, "epochs") as advance:
        clock[0] += 80
        advance(1)
    assert capsys.readouterr().err == ("training: 1 of 10 epochs, 0.013 per second, 12 min left\n")


def test_a_silent_command_says_that_it_is_at_work(monkeypatch, capsys):
    """And is quiet where something else speaks."""
    monkeypatch.setattr(console, "SILENT", 0.0)
    with console.alive():
        console.stage("training", "10 epochs", 3.0)
        time.sleep(1.5)
    said = capsys.readouterr().err.splitlines()
    assert said
    assert all("at work for" in line and line.endswith("last: training") for line in said)
    monkeypatch.setattr(console, "SILENT", 60.0)
    with console.alive():
        time.sleep(1.2)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (99.4, "99 s"), (100, "2 min"), (5_900, "98 min"), (12_000, "3 h 20 min")],
)
def test_times_in_words(seconds, words):
    assert console.in_words(seconds) == words


def test_keys_are_independent_of_each_other():
    keys = jax.random.split(jax.random.key(0), len(problem.KEYS))
    assert len({tuple(np.asarray(jax.random.key_data(k))) for k in keys}) == len(problem.KEYS)


@pytest.mark.parametrize(("total", "size", "done"), [(1, 5, 0), (10, 5, 0), (11, 4, 3), (9, 4, 9)])
def test_each_sample_comes_once(total, size, done):
    values = np.arange(total)
    given = types.SimpleNamespace(order=values, read=lambda positions: values[positions])
    parts = list(segments.of(given, size, done))
    new = [part.samples[part.skip :] for part in parts]
    np.testing.assert_array_equal(np.concatenate([[], *new]), values[done:])
    assert len({part.stop - part.start for part in parts}) <= 1
    assert all(part.samples.shape == (part.stop - part.start,) for part in parts)


def test_rows_are_those_of_all_samples_at_once(monkeypatch):
    monkeypatch.setattr(segments, "SIZE", 4)
    values = np.random.default_rng(0).normal(size=(11, 2)).astype(np.float32)
    given = types.SimpleNamespace(order=np.arange(11), read=lambda positions: values[positions])
    found = segments.rows(given, lambda part: {"twice": 2 * part})
    np.testing.assert_array_equal(found["twice"], 2 * values)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 3.0])
def test_an_exact_power_law_is_found(alpha):
    fit = decay_exponent(jnp.asarray(K), jnp.asarray(7e-3 * K**-alpha, jnp.float32))
    np.testing.assert_allclose(fit.exponent, alpha, atol=2e-4)
    assert fit.sem < 1e-4


def test_the_error_covers_the_truth_under_heavy_tails():
    """Squares of heavy-tailed values, as Δ_k is: 2 standard errors cover about 95 %."""
    k = np.arange(100, 4000)
    y = np.random.default_rng(0).exponential(size=(100, len(k))) ** 2 * k**-2.0
    fit = jax.vmap(lambda row: decay_exponent(jnp.asarray(k), row))(jnp.asarray(y, jnp.float32))
    inside = abs(fit.exponent - 2) < 2 * fit.sem
    assert 0.88 <= inside.mean() <= 1.0


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


@pytest.mark.parametrize(
    ("ratio", "sem", "verdict"),
    [(1.02, 0.02, True), (0.77, 0.095, None), (0.77, 0.02, False), (1.0, 0.06, None)],
)
def test_the_verdict_on_the_law_allows_for_the_error(ratio, sem, verdict):
    ones = np.ones((1, 5))
    arrays = {"k": np.arange(1, 6), "delta": ones, "delta_sem": sem * ones}
    arrays |= {f"law_{part}": ratio * ones for part in QuadraticDelta._fields}
    found = tables.agreement(arrays, 0, np.ones(5, bool))
    assert found["law_holds"] is verdict
    assert abs(found["law_over_monte_carlo"] - ratio) < 1e-6
    words = {True: "holds", False: "does not hold", None: "cannot tell"}[verdict]
    assert tables.law_table([{"sigma": 1.0, **found}, {"sigma": 2.0}])[1][-1] == words


def test_a_single_k_has_a_ratio_without_an_error():
    one = np.ones((1, 1))
    arrays = {"k": np.ones(1, int), "delta": one, "delta_sem": 0 * one}
    arrays |= {f"law_{part}": one for part in QuadraticDelta._fields}
    found = tables.agreement(arrays, 0, np.ones(1, bool), 5)
    assert found["law_over_monte_carlo"] == 1
    assert found["law_over_monte_carlo_sem"] is None  # as JSON has it
    assert found["law_holds"] is None
    assert tables.law_table([{"sigma": 1.0, **found}])[1][-1] == "cannot tell"


def test_the_ratio_weights_each_k_by_its_order_law():
    """Against a loop; where Δ_k falls as 1/k², a plain mean would be that of the first few k."""
    rng = np.random.default_rng(0)
    k = np.arange(100, 400)
    delta = rng.exponential(size=300) / (k * (k + 1.0))
    law = {part: delta * rng.uniform(0, 1, 300) for part in tables.PARTS}
    law["total"] = sum(law.values())
    arrays = {"k": k, "delta": delta[None], "delta_sem": 0.1 * delta[None]}
    arrays |= {f"law_{part}": values[None] for part, values in law.items()}
    found = tables.agreement(arrays, 0, np.ones(300, bool))
    above = below = squares = curvature = 0.0
    for i, at in enumerate(k.tolist()):
        above += at * (at + 1) * law["total"][i]
        below += at * (at + 1) * delta[i]
        squares += (at * (at + 1) * delta[i]) ** 2
        curvature += at * (at + 1) * law["curvature"][i]
    np.testing.assert_allclose(found["law_over_monte_carlo"], above / below)
    np.testing.assert_allclose(found["law_over_monte_carlo_effective"], below**2 / squares)
    np.testing.assert_allclose(found["law_parts"]["curvature"], curvature / above)


def test_the_error_of_the_ratio_holds_the_scatter_of_the_samples():
    """Heavy-tailed samples without any error over points: two errors cover about 95 %."""
    rng, held = np.random.default_rng(0), 0
    k, ones = np.arange(1, 2001), np.ones(2000, bool)
    for _ in range(200):
        terms = rng.exponential(size=2000) ** 2
        delta = terms / (k * (k + 1.0))
        law = 0.5 * delta * rng.exponential(size=2000)  # of mean 0.5
        arrays = {"k": k, "delta": delta[None], "delta_sem": 0 * delta[None]}
        arrays |= {f"law_{part}": law[None] for part in QuadraticDelta._fields}
        found = tables.agreement(arrays, 0, ones)
        error = found["law_over_monte_carlo_sem"]
        held += abs(found["law_over_monte_carlo"] - 0.5) < 2 * error
    assert 0.9 < held / 200 < 0.99


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (46.58, 10, "47 ± 10"),
        (0.6836, 0.0834, "0.684 ± 0.083"),
        (1.5e-9, 2e-10, "1.5e-09 ± 2e-10"),
        (0.9991, 0.02, "0.999 ± 0.020"),
        (3.0, 0.0, "3 ± 0"),
        (0.06836, None, "0.0684"),
    ],
)
def test_a_value_is_written_to_the_digits_of_its_error(value, error, text):
    assert tables.plus_minus(value, error) == text


def test_a_number_that_is_missing_is_a_dash():
    assert [tables.cell(x, ".1%") for x in (0.25, 0.0, None)] == ["25.0%", "0.0%", "-"]


def test_the_level_is_a_mean_over_late_k():
    values = np.random.default_rng(0).exponential(size=300).astype(np.float32)
    late = [k * k * float(values[k - 1]) for k in range(100, 301)]
    np.testing.assert_allclose(tables.level(values), sum(late) / len(late), rtol=1e-12)
    few = [k * k * float(values[k - 1]) for k in range(4, 8)]  # the later half of seven
    np.testing.assert_allclose(tables.level(values[:7]), sum(few) / len(few), rtol=1e-12)


def test_a_table_has_columns_of_equal_width():
    rows = [["k", "value"], ["1,000", tables.between([1, None])]]
    assert tables.as_text(rows) == "    k             value\n1,000  1 to beyond 2^31"


def test_a_single_test_sample_is_no_test_split():
    for tests in (None, np.zeros((1, 2))):
        given = types.SimpleNamespace(dataset=types.SimpleNamespace(name="few", test_inputs=tests))
        with pytest.raises(js.InputError, match="at least 2 samples, found fewer in few"):
            problem.check_test_split(given, None)


@pytest.mark.parametrize(("model", "stored"), [("mlp", "file"), ("mlp", "folder"), ("cnn", "file")])
def test_an_mlp_gets_flat_samples_but_where_they_stay_in_their_files(model, stored, tmp_path):
    rng = np.random.default_rng(0)
    inputs = rng.random((20, 4, 4, 1), dtype=np.float32)
    arrays = {"inputs": inputs[:12], "targets": np.arange(12) % 3, "test_inputs": inputs[12:],
              "test_targets": np.arange(8) % 3}  # fmt: skip
    path = tmp_path / ("digits.npz" if stored == "file" else "digits")
    if stored == "file":
        np.savez(path, **arrays)
    else:
        path.mkdir()
        for name, values in arrays.items():
            np.save(path / f"{name}.npy", values)
    config = ProblemConfig(dataset=f"npz:{path}", k_max=12, model=model, order="dataset")
    found = problem.load(config)
    shape = (-1, 16) if (model, stored) == ("mlp", "file") else (-1, 4, 4, 1)
    for one, want in ((found, inputs[:12]), (found.fresh, inputs[12:])):
        np.testing.assert_array_equal(one.samples["inputs"], want.reshape(shape))
