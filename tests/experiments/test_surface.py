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

pytestmark = pytest.mark.usefixtures("in_haste")


class Mlp:
    """What ``surfaces.evaluate`` needs of a problem."""

    loss = staticmethod(cases.mlp_loss)
    params, samples = cases.mlp_problem(n=150)


def test_a_grid_equals_numpy_at_twenty_points():
    space = js.random_subspace(jax.random.key(1), Mlp.params, 2, normalization="filter")
    ks = (1, 2, 149, 150)
    found = surfaces.evaluate(Mlp, space, 1.0, 41, ks)
    assert found.loss.shape == (4, 41, 41)
    rng = np.random.default_rng(0)
    for i, j in rng.integers(41, size=(20, 2)):
        theta = (found.steps[i], found.steps[j])
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
        far = np.abs(arrays["trajectory"]).max()
        np.testing.assert_allclose(arrays["steps"][-1], surfaces.REACH * far, rtol=1e-6)
        whole = arrays["loss"][-1]
        assert found["surfaces"][-1]["lowest_loss"] == whole.min()
        assert found["surfaces"][-1]["loss_at_origin"] == whole[2, 2]
    assert f"{whole[2, 2]:.4g}" in capsys.readouterr().out
    assert drawing.drawn(out) == {"loss", "loss_3d", "increment", "increment_3d"}


def test_an_interactive_surface_holds_every_k(flags, tmp_path):
    pytest.importorskip("plotly")
    steps = np.linspace(-1, 1, 3)
    sheet = np.arange(1.0, 10).reshape(3, 3)
    names = {"k = 1": sheet, "k = 9": sheet**2}
    surface.write_html(tmp_path / "s.html", steps, names, title="T", quantity="L")
    page = (tmp_path / "s.html").read_text()
    assert all(name in page for name in names)
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
