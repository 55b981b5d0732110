"""Two processes at one sweep: the arrays of one process; what they find wrong ends both."""

import command
import drawing
import numpy as np
import pytest
from sweeps import check_same, read, run

from experiments.sweep.__main__ import main
from jaxscape import sweep

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def single(clouds, tmp_path_factory):
    """The folder of the sweep that one process, this one, has made."""
    out = tmp_path_factory.mktemp("single") / "run"
    with drawing.nothing():
        assert main([*clouds, "--out", str(out)]) == 0
    return out


def start(argv, out):
    """What became of both processes of the command."""
    argv = ["-m", "experiments.sweep", *argv, "--distributed", "--out", out]
    return command.hosts(lambda address, number: argv)


def test_two_processes_make_the_same_folder(clouds, single, tmp_path):
    out = tmp_path / "run"
    first, second = start(clouds, out)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "K: the k from which" in first.stdout
    assert "data:" not in second.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
    assert {p.name for p in out.iterdir()} == {p.name for p in single.iterdir()}
    check_same(read(out)[0], read(single)[0])


def test_two_processes_resume_the_run_of_one(clouds, single, tmp_path, capsys, monkeypatch):
    advance, calls = sweep.advance, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return advance(*args, **kwargs)

    monkeypatch.setattr(sweep, "advance", interrupted)
    assert run(clouds, tmp_path / "run", capsys)[0] == 130
    both = start([*clouds, "--resume"], tmp_path / "run")
    assert [done.returncode for done in both] == [0, 0], [done.stderr for done in both]
    check_same(read(tmp_path / "run")[0], read(single)[0])


def test_bad_input_ends_both_in_one_line(clouds, tmp_path):
    for done in start([*clouds, "--dim", "70"], tmp_path / "run"):
        assert done.returncode == 2
        (line,) = (text for text in done.stderr.splitlines() if "experiments.sweep" in text)
        assert "dimension from 1 to 69" in line
    assert not list(tmp_path.iterdir())


def test_other_data_in_one_of_them_end_both(clouds, tmp_path):
    path = clouds[1].removeprefix("npz:")
    with np.load(path) as arrays:
        np.savez(tmp_path / "other.npz", **{**arrays, "targets": arrays["targets"][::-1]})

    def argv(address, number):
        data = clouds[1] if number == 0 else f"npz:{tmp_path / 'other.npz'}"
        flags = ["--dataset", data, *clouds[2:], "--distributed", "--out", tmp_path / "run"]
        return ["-m", "experiments.sweep", *flags]

    for done in command.hosts(argv):
        assert done.returncode == 2
        assert "the same settings and data in every process" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["other.npz"]
