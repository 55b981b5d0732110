"""Points needed, against pools of known variance and a regression whose model is exact."""

import json

import numpy as np
import pytest
from cases import at64, increments64

from experiments import variance
from experiments.common import cli, prepare, problem

pytestmark = [pytest.mark.usefixtures("in_haste"), pytest.mark.slow]
SIGMA = 0.5


def test_of_independent_points_it_is_the_variance_by_the_square_of_the_error():
    values = np.random.default_rng(0).normal(5, 2, (40_000, 1, 3))
    needed = variance.points_needed(values, np.full(3, 5.0), 1)
    np.testing.assert_allclose(needed, (2 / 5 / 0.01) ** 2, rtol=0.03)


def test_of_nets_it_is_where_the_falling_variance_is_small_enough():
    """The mean of u over 2^j points of a van der Corput net, shifted at random, is V(2^−j)."""
    rng = np.random.default_rng(0)
    digits = (np.arange(64)[:, None] >> np.arange(6)) & 1
    net = digits @ 0.5 ** np.arange(1, 7)
    shift = rng.integers(2, size=(4000, 1, 6)) @ 0.5 ** np.arange(1, 7)
    exact = (64 * net).astype(int) ^ (64 * shift).astype(int)
    values = ((exact + rng.random((4000, 1))) / 64)[..., None]
    for j in range(7):
        found = values.reshape(4000, -1, 2**j).mean(2).var()
        np.testing.assert_allclose(found, 4.0**-j / 12, rtol=0.1)
    mean = np.array([0.5])
    # 8 nets of n/8 points: (n/8)^−2 / 12 / 8 = (0.01 / 2)²
    want = 8 / np.sqrt(96 * (variance.ERROR / 2) ** 2)
    np.testing.assert_allclose(variance.points_needed(values, mean, 1), want, rtol=0.05)
    # beyond the largest measured net, of 4 points: variance per point as there
    want = 4 * 4.0**-2 / 12 / (variance.ERROR / 2) ** 2
    found = variance.points_needed(values[:, :4], mean, 1)
    np.testing.assert_allclose(found, want, rtol=0.05)


@pytest.fixture(scope="module")
def line(in_haste, tmp_path_factory):
    """A linear regression: the flags, the run's folder, its arrays."""
    folder = tmp_path_factory.mktemp("line")
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(40, 4)).astype(np.float32)
    np.savez(folder / "line.npz", inputs=inputs, targets=inputs.sum(1) + rng.normal(size=40))
    argv = [
        *("--dataset", f"npz:{folder / 'line.npz'}", "--k-max", "40", "--layers", "0"),
        *("--epochs", "1", "--dim", "2", "--sigmas", str(SIGMA), "--points", "2048"),
    ]
    assert variance.main([*argv, "--out", str(folder / "run")]) == 0
    with np.load(folder / "run" / "results.npz") as arrays:
        return argv, folder / "run", dict(arrays)


def test_independent_points_need_what_a_float64_loop_says(line):
    argv, out, arrays = line
    config = cli.parse("variance", variance.VarianceConfig, argv)
    found = problem.load(config)
    params = prepare.trained(found, config, out / "checkpoint")
    space = prepare.directions(found, params, "hessian", 2, out / "checkpoint").space
    x, y = (np.asarray(found.samples[name], np.float64) for name in ("inputs", "targets"))
    theta = SIGMA * np.random.default_rng(2).normal(size=(20_000, 2))
    corners = [at64(space, corner)["Dense_0"] for corner in ([0, 0], [1, 0], [0, 1])]
    origin, *slopes = (x @ w["kernel"][:, 0] + w["bias"] for w in corners)
    outputs = origin + theta @ (np.stack(slopes) - origin)
    losses = (outputs - y.reshape(-1)) ** 2 / 2
    steps = increments64(losses)[:, arrays["k"] - 1]
    for name, squares in (
        ("delta", steps**2),
        ("centered", (steps - steps.mean(0)) ** 2),
        ("level", losses.var(1, ddof=1)),
    ):
        want = squares.var(0) / (0.01 * squares.mean(0)) ** 2
        ratio = np.median(arrays[f"needed_{name}"][0, 0] / want)
        assert 0.8 < ratio < 1.25, name


def test_nets_need_fewer_points_than_independent_ones(line):
    _, out, arrays = line
    needed = np.median(arrays["needed_delta"][0], -1)
    assert needed[0] > 100
    assert needed[2] < 0.4 * needed[0]
    (entry,) = json.loads((out / "summary.json").read_text())["sigmas"]
    assert [found["delta"] for found in entry["estimators"]] == needed.tolist()
    assert [found["name"] for found in entry["estimators"]] == list(variance.ESTIMATORS)
    assert (out / "figures" / "points.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.slow
def test_bad_input_is_one_line(line, tmp_path, capsys):
    argv = line[0]
    for more, word in (
        (["--points", "100"], "power of two"),
        (["--sigmas", "0"], "above 0"),
    ):
        assert variance.main([*argv, *more, "--out", str(tmp_path / "run")]) == 2
        err = capsys.readouterr().err
        assert word in err
        assert len(err.splitlines()) == 1
    np.savez(tmp_path / "same.npz", inputs=np.ones((40, 4), np.float32), targets=np.ones(40))
    same = ["--dataset", f"npz:{tmp_path / 'same.npz'}", "--dim", "1"]
    assert variance.main([*argv, *same, "--out", str(tmp_path / "run")]) == 2
    assert "differ between samples" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
