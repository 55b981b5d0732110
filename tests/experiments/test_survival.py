"""Runs ended in any stage, by a kill, by Ctrl-C or for want of room, then resumed bit for bit."""

import contextlib
from unittest import mock

import drawing
import numpy as np
import pytest
from command import process
from sweeps import read, run

from experiments.common import report as html
from experiments.common import run_folder, segments
from experiments.sweep import __main__ as sweep
from experiments.sweep import report
from jaxscape import quadratic
from jaxscape.lab import stream, train

resource = pytest.importorskip("resource", reason="limits of a process are a matter of Unix")


@pytest.fixture(autouse=True)
def short_segments(monkeypatch):
    monkeypatch.setattr(segments, "SEGMENT", 40)


@pytest.fixture(scope="module")
def argv(clouds):
    return [*clouds, "--checkpoint-every", "0", "--resume"]


@pytest.fixture(scope="module")
def whole(argv, tmp_path_factory):
    """The arrays of a run that nothing disturbs."""
    out = tmp_path_factory.mktemp("whole") / "run"
    with drawing.nothing(), mock.patch.object(segments, "SEGMENT", 40):
        assert sweep.main([*argv, "--out", str(out)]) == 0
    return read(out)[0]


def check_resumed(argv, out, capsys, whole):
    """The command once more ends well, with the same arrays."""
    assert not out.exists()
    assert run(argv, out, capsys)[0] == 0
    found, _ = read(out)
    assert set(found) == set(whole)
    for name, array in whole.items():
        assert found[name].tobytes() == array.tobytes(), name
    assert not [path for path in out.rglob("*") if "new" in path.name or "tmp" in path.name]


KILLED = """
import os, signal, sys
left, *argv = sys.argv[1:]
left = int(left)
def count(event, arguments):
    global left
    paths = [os.fspath(a) for a in arguments if isinstance(a, (str, os.PathLike))]
    if any(".partial" in path for path in paths):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
from experiments.common import segments
from experiments.sweep import __main__ as sweep
segments.SEGMENT = 40
sys.addaudithook(count)
sys.exit(sweep.main(argv))
"""


def test_killed_at_random_file_operations(argv, tmp_path, capsys, whole):
    out = tmp_path / "run"  # an undisturbed run opens, renames, ... about 600 times in its folder
    for left in np.random.default_rng(0).integers(200, size=3):
        done = process("-c", KILLED, left, *argv, "--out", out)
        assert done.returncode == -9, done.stderr
    check_resumed(argv, out, capsys, whole)


STAGES = {
    "training": (train, "_epoch", 2),
    "eigenpairs": (stream, "wait", 1),
    "sweep": (segments, "_write", 3),
    "theory": (quadratic, "advance", 1),
    "figures": (report, "figures_of", 1),
    "report": (html, "write", 1),
    "summary": (run_folder, "write_json", 3),
}


def test_interrupted_in_every_stage(argv, tmp_path, capsys, whole, monkeypatch):
    out = tmp_path / "run"
    for module, name, number in STAGES.values():
        calls, function = [], getattr(module, name)

        def interrupted(*args, calls=calls, function=function, number=number, **kwargs):
            calls.append(1)
            if len(calls) == number:
                raise KeyboardInterrupt
            return function(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(module, name, interrupted)
            status, err = run(argv, out, capsys)
        assert status == 130, name
        assert err.splitlines()[-1].startswith("interrupted; to resume: python -m experiments.sw")
        assert len(calls) == number
    check_resumed(argv, out, capsys, whole)


@contextlib.contextmanager
def files_of_at_most(size):
    """A disk that is full for every longer file."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


def test_no_room_for_a_save_the_results_or_a_figure(argv, tmp_path, capsys, whole):
    out = tmp_path / "run"
    for size, what in ((6_000, "write checkpoint 'sweep'"), (20_000, "room on the disk")):
        with files_of_at_most(size):
            status, err = run(argv, out, capsys)
        assert status == 2
        (line,) = (line for line in err.splitlines() if line.startswith("python"))
        assert "File too large" in line
        assert what in line
        assert f"what was done is kept in {out}.partial; to resume: python -m experim" in line
        assert err.splitlines()[-1] == line
    check_resumed(argv, out, capsys, whole)
