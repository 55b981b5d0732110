"""The paper command: its figures' folders, its settings, what figures share."""

import json
from types import SimpleNamespace
from typing import get_args

import command
import drawing
import jax
import markupsafe
import numpy as np
import pytest

from experiments.paper import __main__ as paper
from experiments.paper import bench as benches
from experiments.paper.bench import Bench, PaperConfig

MADE = ["fig4"]
SMALL = [
    *("--hidden", "32", "--layers", "1", "--epochs", "2", "--points", "4"),
    *("--num", "3", "--networks", "3", "--network-dim", "2"),
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


def check_folders(out, names):
    """Arrays, pictures and tables of each figure, the tables also on the page."""
    page = (out / "report.html").read_text()
    for name in names:
        folder = out / name
        found = json.loads((folder / "summary.json").read_text())
        cells = [cell for table in found["tables"] for row in table for cell in row]
        cells += found["notes"]
        assert len(cells) > 3
        assert not {"nan", "inf"} & set(" ".join(cells).split())
        assert all(str(markupsafe.escape(cell)) in page for cell in cells)
        pictures = list((folder / "figures").glob("*.png"))
        assert pictures
        assert all(path.with_suffix(".pdf").exists() for path in pictures)
        with np.load(folder / "results.npz") as arrays:
            numbers = {name: x for name, x in arrays.items() if x.dtype.kind == "f"}
        numbers.pop("increment", None)  # after the last sample there is none
        assert numbers
        assert all(x.size and np.isfinite(x).all() for x in numbers.values())
        assert f"<h2>{name}: " in page


def test_every_figure_has_arrays_pictures_and_a_table(made):
    check_folders(made, MADE)


@pytest.mark.slow
def test_all_figures_are_made(flags, tmp_path):
    names = [name for name in get_args(benches.Name) if name != "claims"]
    with drawing.coarsely():
        assert paper.main([*names, *flags, "--out", str(tmp_path / "o")]) == 0
    check_folders(tmp_path / "o", names)
    for name, words in (("fig4", "trained as published"), ("family", "of this project")):
        notes = json.loads((tmp_path / "o" / name / "summary.json").read_text())["notes"]
        assert words in notes[0]


def test_every_name_has_a_figure():
    assert list(paper.FIGURES) == list(get_args(benches.Name))


def test_a_figure_that_is_there_is_left_as_it_is(made, flags, capsys):
    before = (made / "fig4" / "results.npz").stat().st_mtime_ns
    assert paper.main(["fig4", *flags, "--out", str(made)]) == 0
    assert "finished before" in capsys.readouterr().out
    assert (made / "fig4" / "results.npz").stat().st_mtime_ns == before
    assert paper.main(["fig4", *flags, "--points", "5", "--out", str(made)]) == 2
    assert "points = 5" in capsys.readouterr().err


def test_bad_input_is_one_line(flags, tmp_path, capsys):
    for more, word in (
        ([], "or else names of figures"),
        (["fig4", "--all"], "or else names of figures"),
        (["fig10"], "fig10"),
        (["fig4", "--k-max", "255"], "at least 256"),
        (["fig4", "--num", "4"], "odd"),
        (["fig4", "--widths", "4", "0"], "--widths"),
        (["fig5", "--hidden", "2"], "found 256"),
        (["fig1", "--hidden", "1", "--network-dim", "99"], "found 99"),
        (["bounds", "--model", "cnn"], "--model mlp for bounds"),
        (["fig4", "--dataset", "sums", "--model", "transformer"], "sequences of tokens"),
    ):
        argv = [*more[:1], *flags, "--out", str(tmp_path / "o"), *more[1:]]
        assert paper.main(argv) == 2
        err = capsys.readouterr().err
        assert word in err
        assert len(err.splitlines()) == 1
    assert not (tmp_path / "o").exists()


def test_quick_makes_everything_smaller():
    small = PaperConfig(all=True, quick=True, points=4).sized()
    assert small.k_max == 3000
    assert small.points == 4
    named = PaperConfig(figures=("fig1",), **benches.QUICK | {"points": 4})
    assert small.settings() == named.settings()


def test_points_of_fewer_directions_are_those_of_more():
    bench = Bench(SimpleNamespace(keys={"probe": jax.random.key(0)}), None, None)
    few, many = (bench.normals(5, dim) for dim in (2, 9))
    np.testing.assert_array_equal(few, many[:, :2])
