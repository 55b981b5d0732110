"""What pilots predict, against float64 NumPy."""

import json
from types import SimpleNamespace

import drawing
import jax.numpy as jnp
import numpy as np
import pytest

import jaxscape as js
from experiments.common import cli, prepare, problem, segments
from experiments.sample_size import __main__ as sample_size
from experiments.sample_size import measure, report

TOLERANCE, EPSILON = 1e-4, 0.05


@pytest.fixture(scope="module")
def clouds(tmp_path_factory):
    """260 samples of three overlapping clouds, as a file: 100 to train on, 160 new ones."""
    rng = np.random.default_rng(0)
    targets = rng.integers(3, size=260)
    inputs = rng.normal(size=(260, 4)) + np.eye(3, 4)[targets]
    path = tmp_path_factory.mktemp("data") / "clouds.npz"
    np.savez(path, inputs=inputs.astype(np.float32), targets=targets)
    return [
        *("--dataset", f"npz:{path}", "--k-max", "100", "--holdout", "160"),
        *("--hidden", "5", "--layers", "1"),
        *("--epochs", "1", "--dim", "2", "--points", "12", "--pilot-points", "5", "--trials", "25"),
        *("--first-pilot", "20", "--tolerance", str(TOLERANCE), "--epsilon", str(EPSILON)),
    ]


@pytest.fixture(scope="module")
def finished(clouds, tmp_path_factory):
    """A run, with the losses that its pilots saw."""
    out = tmp_path_factory.mktemp("runs") / "run"
    argv = [*clouds, "--sigmas", "0.5", "2"]
    with drawing.coarsely():
        assert sample_size.main([*argv, "--out", str(out)]) == 0
    config = cli.parse("sample_size", sample_size.SampleSizeConfig, argv)
    found = problem.load(config)
    params = prepare.trained(found, config, out / "checkpoint")
    space, _ = prepare.eigenspace(found, params, config.dim, out / "checkpoint")
    probes = [prepare.probe(found, params, space, config.points, s) for s in config.sigmas]
    seen = [np.asarray(segments.losses_at(found.fresh, probe), np.float64) for probe in probes]
    with np.load(out / "results.npz", allow_pickle=False) as arrays:
        return out, dict(arrays), seen


def test_pilots_and_all_samples_equal_numpy(finished):
    _, arrays, seen = finished
    assert arrays["pilot"].tolist() == [20, 40, 80]
    for row, losses in enumerate(seen):
        own = losses[:5]
        levels = [own[:, :n].var(1, ddof=1).mean() for n in arrays["pilot"]]
        np.testing.assert_allclose(arrays["own_loss_variance"][row, :, 1], levels, rtol=1e-5)
        sizes = np.log(np.abs(own).mean(0))
        for n, found in zip(arrays["pilot"], arrays["own_trend"][row], strict=True):
            trend = np.corrcoef(np.arange(n), sizes[:n])[0, 1] * np.sqrt(n - 1)
            np.testing.assert_allclose(found, trend, atol=0.01)
        level = losses.var(1, ddof=1).mean()
        np.testing.assert_allclose(arrays["true_loss_variance"][row, 1], level, rtol=1e-5)
        k = np.arange(1, 10**6, dtype=np.float64)
        assert arrays["true_law"][row, 1] == k[level / (k * (k + 1)) < TOLERANCE][0]
        assert arrays["true_distance"][row, 1] == k[level / k < EPSILON**2][0]


def test_the_sample_size_of_an_order_equals_a_slow_loop(finished):
    _, arrays, seen = finished
    for row, losses in enumerate(seen):
        own, size = losses[:5], 1
        for k in range(1, own.shape[1]):
            step = own[:, : k + 1].mean(1) - own[:, :k].mean(1)
            size = size if (step**2).mean() < TOLERANCE else k + 1
        assert arrays["own_k"][row] == size


def test_what_is_held_is_what_lies_inside(finished):
    out, arrays, _ = finished
    for at in np.ndindex(2, 25, 3):
        row, trial, _ = at
        low, _, high = arrays["trial_loss_variance"][at]
        true = arrays["true_loss_variance"][row, 1]
        assert arrays["held_loss_variance"][at] == (low <= true <= high)
        low, _, high = arrays["trial_exceedance"][at]
        assert high <= 160
        inside = low <= arrays["trial_k"][row, trial] <= high
        assert arrays["held_exceedance"][at] == inside
    answers = json.loads((out / "summary.json").read_text())["answers"]
    assert [answer["sigma"] for answer in answers] == [0.5, 2.0]
    counted = 0
    for row, answer in enumerate(answers):
        reached = arrays["trial_k"][row] < 160  # K := 160 where it is not: nothing to hold
        held = arrays["held_exceedance"][row][reached, 2]
        found = answer["pilots"][2]["coverage"]["exceedance"]
        assert found == (held.mean() if held.size >= 20 else None)
        counted += held.size
    assert 0 < counted < 50


def test_what_the_run_does_not_reach_is_told(finished):
    summary = json.loads((finished[0] / "summary.json").read_text())
    pilot = summary["answers"][0]["pilots"][0]
    pilot |= {
        "exceedance": [150.0, 160.0, 160.0],
        "coverage": {"loss_variance": 1, "exceedance": None},
    }
    row = next(line for line in report.text(summary).splitlines() if line.split()[:1] == ["20"])
    assert "150 to not by 160  " in row
    assert " - " in row
    bars = report.pilots(summary, "nats").axes[0].containers[1]
    assert np.isnan(bars[0].get_ydata()[0])


def test_pilots_are_of_samples_that_the_network_has_not_seen(clouds, finished, tmp_path, capsys):
    out, _, _ = finished
    found = problem.load(cli.parse("sample_size", sample_size.SampleSizeConfig, clouds))
    assert not set(found.held_out) & set(found.order)
    assert json.loads((out / "summary.json").read_text())["num_samples"] == 160
    at = clouds.index("--holdout")
    none = [*clouds[:at], *clouds[at + 2 :]]
    assert sample_size.main([*none, "--out", str(tmp_path / "run")]) == 2
    assert "w* has not seen" in capsys.readouterr().err


def test_random_orders_differ_and_use_every_sample(finished):
    _, arrays, seen = finished
    levels = arrays["trial_loss_variance"][0, :, 2, 1]
    assert len(set(levels.tolist())) == 25
    # a pilot of half the samples at some of the points scatters around all of them
    assert abs(levels.mean() / seen[0].var(1, ddof=1).mean() - 1) < 0.5


@pytest.mark.parametrize(
    ("first", "n", "sizes"),
    [(250, 6000, (250, 500, 1000, 2000)), (20, 160, (20, 40, 80)), (3, 6, (3,))],
)
def test_pilots_double_up_to_half(first, n, sizes):
    assert measure.doubling(first, n) == sizes


def test_bad_input_is_one_line(clouds, tmp_path, capsys):
    for more, word in (
        (["--first-pilot", "81"], "at most 80, half of 160 new samples"),
        (["--pilot-points", "1"], "at least 2"),
        (["--tolerance", "0"], "--tolerance above 0"),
        (["--epsilon", "nan"], "--epsilon above 0"),
        (["--trials", "0"], "at least 1"),
    ):
        assert sample_size.main([*clouds, *more, "--out", str(tmp_path / "run")]) == 2
        err = capsys.readouterr().err
        assert len(err.splitlines()) == 1
        assert word in err
    assert not (tmp_path / "run").exists()


def test_losses_that_are_not_finite_are_refused():
    space = js.Subspace({"w": jnp.zeros(2)}, {"w": jnp.eye(2)})
    probe = js.points(space, jnp.array([[0.0, 0.0], [1.0, 0.0]]))
    here = SimpleNamespace(loss=lambda w, x: x / (1 - w["w"][0]), samples=jnp.ones(3))
    with pytest.raises(js.InputError, match="lower σ"):
        segments.losses_at(here, probe)
