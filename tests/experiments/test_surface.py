import json

import cases
import command
import drawing
import jax
import numpy as np
import pytest

import jaxscape as js
from experiments import surface
from experiments.common import surfaces


class Mlp:
    """What ``surfaces.evaluate`` needs of a problem."""

    loss = staticmethod(cases.mlp_loss)
    params, samples = cases.mlp_problem(n=150)


def test_a_grid_equals_numpy_at_twenty_points():
    space = js.random_subspace(jax.random.key(1), Mlp.params, 2, normalization="filter")
    ks, steps = (1, 2, 149, 150), np.stack([np.linspace(-1, 1, 41), np.linspace(0, 3, 41)])
    found = surfaces.evaluate(Mlp, space, steps, ks)
    assert found.loss.shape == (4, 41, 41)
    rng = np.random.default_rng(0)
    for i, j in rng.integers(41, size=(20, 2)):
        theta = (found.steps[0, i], found.steps[1, j])
        losses = cases.mlp_losses64(cases.at64(space, theta), Mlp.samples)
        means = np.array([losses[:k].mean() for k in ks])
        np.testing.assert_allclose(found.loss[:, i, j], means, rtol=1e-5)
        steps = cases.increments64(losses[None])[0][np.array(ks[:3]) - 1]
        np.testing.assert_allclose(found.increment[:3, i, j], steps, rtol=1e-5, atol=3e-7)
    assert np.isnan(found.increment[3]).all()


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    return [*command.clouds(tmp_path_factory.mktemp("data") / "clouds.npz")[:-4], "--num", "5"]


def test_the_trajectory_ends_at_the_trained_point(flags, tmp_path, capsys):
    out = tmp_path / "run"
    with drawing.coarsely():
        assert surface.main([*flags, "--subspace", "trajectory", "--out", str(out)]) == 0
    found = json.loads((out / "summary.json").read_text())
    with np.load(out / "results.npz") as arrays:
        np.testing.assert_array_equal(arrays["k"], [1, 15, 250])
        np.testing.assert_allclose(arrays["trajectory"][-1], 0, atol=1e-6)
        np.testing.assert_array_equal(
            arrays["steps"], surfaces.around(arrays["trajectory"], 5).astype(arrays["steps"].dtype)
        )
        whole = arrays["loss"][-1]
        assert found["surfaces"][-1]["lowest_loss"] == whole.min()
        origin = whole[tuple(np.argmin(np.abs(arrays["steps"]), 1))]
        assert found["surfaces"][-1]["loss_at_origin"] == origin
    assert f"{origin:.4g}" in capsys.readouterr().out
    assert drawing.drawn(out) == {"loss", "loss_3d", "increment", "increment_3d"}


def test_moves_are_of_the_surface_less_that_at_the_trained_point():
    loss = np.random.default_rng(0).normal(size=(2, 3, 5, 5))
    loss[0, 1, 4, 0] = -9.0
    found = surface.moves(loss)
    for p, i, x, y in np.ndindex(2, 2, 5, 5):
        shift = loss[p, i, 2, 2] - loss[p, 2, 2, 2]
        want = loss[p, i, x, y] - loss[p, 2, x, y] - shift
        np.testing.assert_allclose(found["change"][p, i, x, y], want, atol=1e-12)
    np.testing.assert_array_equal(found["lowest"][0, 1], [1, -1])


@pytest.mark.slow
def test_planes_beside_each_other_are_as_wide_as_raises_the_loss_by_half(flags, tmp_path, capsys):
    out, ks = tmp_path / "run", ("--ks", "100", "10")
    tight = ["--subspace", "beside", "--finish", "300", "--weight-decay", "0.1", *ks]
    with drawing.coarsely():
        assert surface.main([*flags, *tight, "--out", str(out)]) == 0
    with np.load(out / "results.npz") as arrays:
        loss = arrays["loss"][:, -1]
        assert arrays["loss"].shape == (3, 3, 5, 5)
        hessian = loss[1]
        rim = np.mean([hessian[0, 2], hessian[-1, 2], hessian[2, 0], hessian[2, -1]])
        assert abs((rim - hessian[2, 2]) / hessian[2, 2] / surface.RISE - 1) < 0.35
        np.testing.assert_array_equal(arrays["k"], [10, 100, 250])
    printed = capsys.readouterr().out
    assert all(plane in printed for plane in surface.PLANES)


@pytest.mark.parametrize("num", [3, 5, 41])
def test_the_steps_around_a_path_hold_it_and_the_trained_point(num):
    for path in ([[-40.0, 12], [-13, -7], [0, 0]], [[3.0, 0], [0, 0]], [[0.1, 9.0], [4, -9]]):
        steps = surfaces.around(np.array(path), num)
        assert steps.shape == (2, num)
        for along, row in zip(np.array(path).T, steps, strict=True):
            assert np.abs(row).min() < 1e-12 * np.abs(row).max()
            assert row[0] < min(along.min(), 0) <= max(along.max(), 0) < row[-1]
            np.testing.assert_allclose(np.diff(row), row[1] - row[0])


def test_an_interactive_surface_holds_every_k(flags, tmp_path):
    pytest.importorskip("plotly")
    sheet = np.arange(1.0, 10).reshape(1, 3, 3)
    loss = np.concatenate([sheet, sheet**2])
    sheets = surfaces.Sheets(surfaces.square(1.0, 3), np.array([1, 9]), loss, loss)
    surface.write_html(tmp_path / "s.html", sheets, "T")
    page = (tmp_path / "s.html").read_text()
    assert all(name in page for name in ("k = 1", "k = 9"))
    assert "<script src=" not in page


def test_bad_input_is_one_line(flags, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(surface.importlib.util, "find_spec", lambda name: None)
    for more, word in (
        (["--num", "4"], "odd"),
        (["--ks", "251"], "from 1 to --k-max"),
        (["--radius", "0"], "above 0"),
        (["--subspace", "trajectory", "--epochs", "1"], "trajectory"),
        (["--interactive"], "pip install plotly"),
    ):
        assert surface.main([*flags, *more, "--out", str(tmp_path / "run")]) == 2
        err = capsys.readouterr().err
        assert word in err
        assert len(err.splitlines()) == 1
    assert not (tmp_path / "run").exists()
