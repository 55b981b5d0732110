import json
import re
import shlex
from typing import get_args

import command
import drawing
import jax
import markupsafe
import numpy as np
import pytest

from experiments.common import cli
from experiments.paper import __main__ as paper
from experiments.paper import bench as benches
from experiments.paper import bench as configs

pytestmark = pytest.mark.usefixtures("in_haste")
MADE = ["fig6", "fig7"]
SMALL = [
    *("--hidden", "32", "--layers", "1", "--epochs", "2", "--points", "4", "--many-points", "8"),
    *("--num", "3", "--networks", "3", "--network-samples", "100", "--network-dim", "2"),
    *("--widths", "2", "3", "--depths", "1", "--orders", "2"),
]


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "clouds.npz"
    return [*command.clouds(path)[:2], "--k-max", "300", *SMALL]


@pytest.fixture(scope="module")
def made(flags, tmp_path_factory):
    """The folder of the figures in ``MADE``."""
    out = tmp_path_factory.mktemp("runs") / "paper"
    with drawing.coarsely():
        assert paper.main([*MADE, *flags, "--out", str(out)]) == 0
    return out


def arrays_of(folder):
    with np.load(folder / "results.npz") as arrays:
        return dict(arrays)


def test_every_name_has_a_figure():
    assert list(paper.FIGURES) == list(get_args(configs.Name))


def test_every_figure_has_arrays_pictures_and_a_paragraph(made):
    page = (made / "report.html").read_text()
    for name in MADE:
        folder = made / name
        seen = json.loads((folder / "summary.json").read_text())["seen"]
        assert seen.endswith(".")
        assert str(markupsafe.escape(seen)) in page
        assert not re.search(r"\b(nan|inf)\b", seen)
        pictures = list((folder / "figures").glob("*.png"))
        assert pictures
        assert all(path.with_suffix(".pdf").exists() for path in pictures)
        assert arrays_of(folder)


def test_a_figure_that_is_there_is_left_as_it_is(made, flags, capsys):
    before = (made / "fig6" / "results.npz").stat().st_mtime_ns
    assert paper.main(["fig6", *flags, "--out", str(made)]) == 0
    assert "finished before" in capsys.readouterr().out
    assert (made / "fig6" / "results.npz").stat().st_mtime_ns == before
    assert paper.main(["fig6", *flags, "--points", "5", "--out", str(made)]) == 2
    assert "points = 5" in capsys.readouterr().err


def test_bad_input_is_one_line(flags, tmp_path, capsys):
    for more, word in (
        ([], "or else names of figures"),
        (["--all", "fig4"], "or else names of figures"),
        (["fig10"], "fig10"),
        (["fig4", "--k-max", "255"], "at least 256"),
        (["fig4", "--num", "4"], "odd"),
        (["fig5", "--hidden", "2"], "256"),
        (["fig1", "--network-hidden", "1", "--network-dim", "99"], "--network-dim"),
        (["unraveling", "--dataset", "sums", "--model", "transformer"], "sequences of tokens"),
    ):
        argv = [*more[:1], *flags, "--out", str(tmp_path / "o"), *more[1:]]
        assert paper.main(argv) == 2
        err = capsys.readouterr().err
        assert word in err
        assert len(err.splitlines()) == 1
    assert not (tmp_path / "o").exists()


def test_quick_makes_everything_smaller():
    config = configs.PaperConfig(all=True, quick=True, points=4)
    small = config.sized()
    assert small.k_max == 3000
    assert small.points == 4
    named = configs.PaperConfig(figures=("fig1",), **configs.QUICK | {"points": 4})
    assert small.settings() == named.settings()


def test_the_report_says_how_to_get_a_figure_again(made):
    config = configs.PaperConfig(figures=("fig4",), dataset="npz:a b.npz", as_published=False)
    for settings in (config, configs.PaperConfig(all=True, quick=True, widths=(2, 3)).sized()):
        words = shlex.split(paper._flags(settings))
        again = cli.parse("paper", configs.PaperConfig, ["fig4", *words])
        assert again.settings() == settings.settings()
    assert "experiments.paper fig6 --dataset" in (made / "report.html").read_text()


def test_points_of_fewer_directions_are_those_of_more():
    class Bench:
        problem = type("Problem", (), {"keys": {"probe": jax.random.key(0)}})

    few, many = (benches.normals(Bench, 5, dim) for dim in (2, 9))
    np.testing.assert_array_equal(few, many[:, :2])
