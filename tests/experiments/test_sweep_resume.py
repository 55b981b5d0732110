"""Runs interrupted, killed, short of disk space or finished before, then resumed bit for bit."""

import contextlib
from unittest import mock

import drawing
import numpy as np
import pytest
from command import process
from sweeps import read, run

from experiments.common import console, run_folder, segments
from experiments.sweep import __main__ as main
from jaxscape import quadratic, sweep
from jaxscape.lab import checkpoint, plot

resource = pytest.importorskip("resource", reason="limits of a process are a matter of Unix")

SEGMENTS = 3 * 7
"""Of 40 samples each: 250 at w* and at the points of both σ."""

NEW = 2 * 2  # segments of the samples that w* has not seen


@pytest.fixture(autouse=True)
def short_segments(monkeypatch):
    monkeypatch.setattr(segments, "SIZE", 40)


@pytest.fixture(scope="module")
def argv(clouds):
    return [*clouds, "--checkpoint-every", "0", "--resume"]


@pytest.fixture(scope="module")
def undisturbed(argv, tmp_path_factory):
    """The folder of a run that nothing disturbs."""
    out = tmp_path_factory.mktemp("whole") / "run"
    with drawing.nothing(), mock.patch.object(segments, "SIZE", 40):
        assert main.main([*argv, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def whole(undisturbed):
    """The arrays of that run."""
    return read(undisturbed)[0]


def check_resumed(argv, out, capsys, whole):
    """The command once more ends well, with the same arrays."""
    assert not out.exists()
    assert run(argv, out, capsys)[0] == 0
    found, _ = read(out)
    assert set(found) == set(whole)
    for name, array in whole.items():
        assert found[name].tobytes() == array.tobytes(), name
    assert not [path for path in out.rglob("*") if "new" in path.name or "tmp" in path.name]


def counted(monkeypatch, module, name, *stops):
    """The calls of a function from now on; Ctrl-C in those that ``stops`` numbers."""
    calls, function = [], getattr(module, name)

    def call(*args, **kwargs):
        calls.append(1)
        if len(calls) in stops:
            raise KeyboardInterrupt
        return function(*args, **kwargs)

    monkeypatch.setattr(module, name, call)
    return calls


def test_an_interrupted_sweep_goes_on_where_it_was(clouds, tmp_path, capsys, whole, monkeypatch):
    out = tmp_path / "run"
    calls = counted(monkeypatch, sweep, "advance", 4, 9)
    status, err = run(clouds, out, capsys)
    assert status == 130
    assert "to resume: python -m experiments.sweep" in err
    assert "--resume" in err
    assert run([*clouds, "--resume"], out, capsys)[0] == 130
    check_resumed([*clouds, "--resume"], out, capsys, whole)
    assert len(calls) == SEGMENTS + 2 + NEW  # two are done twice


@contextlib.contextmanager
def files_of_at_most(size):
    """A disk that is full for every longer file."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


@pytest.mark.slow
def test_no_room_for_a_save_the_results_or_a_figure(argv, tmp_path, capsys, whole):
    out = tmp_path / "run"
    for size, what in ((4_000, "write checkpoint 'sweep-1'"), (20_000, "room on the disk")):
        with files_of_at_most(size):
            status, err = run(argv, out, capsys)
        assert status == 2
        (line,) = (line for line in err.splitlines() if line.startswith("python"))
        assert "File too large" in line
        assert what in line
        assert f"what was done is kept in {out}.partial; to resume: python -m experim" in line
        assert err.splitlines()[-1] == line
    check_resumed(argv, out, capsys, whole)


def test_a_finished_run_is_left_as_it_is(argv, undisturbed, capsys):
    out = undisturbed
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    assert run(argv, out, capsys)[0] == 0
    status, err = run(argv[:-1], out, capsys)  # without --resume
    assert status == 2
    assert "a finished run" in err
    assert "--resume" in err
    status, err = run([*argv, "--points", "6"], out, capsys)
    assert status == 2
    assert "points = 6, found points = 5" in err
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before


def test_an_unfinished_run_is_not_overwritten(clouds, tmp_path, capsys):
    (tmp_path / "run.partial").mkdir()
    status, err = run(clouds, tmp_path / "run", capsys)
    assert status == 2
    assert "--resume" in err


def test_a_damaged_run_is_refused(clouds, tmp_path, capsys):
    (tmp_path / "run.partial").mkdir()
    (tmp_path / "run.partial" / "config.json").write_text("{")
    status, err = run([*clouds, "--resume"], tmp_path / "run", capsys)
    assert status == 2
    assert "damaged" in err


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
segments.SIZE = 40
sys.addaudithook(count)
sys.exit(sweep.main(argv))
"""


@pytest.mark.slow
def test_killed_at_random_file_operations(argv, tmp_path, capsys, whole):
    out = tmp_path / "run"  # an undisturbed run opens, renames, ... about 600 times in its folder
    for left in np.random.default_rng(0).integers(200, size=3):
        done = process("-c", KILLED, left, *argv, "--out", out)
        assert done.returncode == -9, done.stderr
    check_resumed(argv, out, capsys, whole)


KILLED_IN_SWEEP = """
import os, signal, sys
from experiments.common import segments
from experiments.sweep import __main__ as main
from jaxscape import sweep
segments.SIZE = 40
advance, calls = sweep.advance, []
def killed(*args, **kwargs):
    calls.append(1)
    if len(calls) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return advance(*args, **kwargs)
sweep.advance = killed
sys.exit(main.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_kill_loses_one_segment_at_most(argv, tmp_path, capsys, whole, monkeypatch):
    done = process("-c", KILLED_IN_SWEEP, *argv, "--out", tmp_path / "run")
    assert done.returncode == -9, done.stderr
    calls = counted(monkeypatch, sweep, "advance")
    check_resumed(argv, tmp_path / "run", capsys, whole)
    assert len(calls) == SEGMENTS - 4 + NEW


STAGES = {
    "training": (checkpoint, "save", 1),
    "directions": (console, "stage", 2),
    "eigenpairs": (checkpoint, "save", 1),
    "sweep": (sweep, "advance", 3),
    "theory": (quadratic, "advance", 1),
    "figures": (plot, "delta_k2", 1),
    "report": (run_folder, "render", 1),
    "summary": (run_folder, "write_json", 3),
}


@pytest.mark.slow
def test_interrupted_in_every_stage(argv, tmp_path, capsys, whole, monkeypatch):
    out = tmp_path / "run"
    for module, name, number in STAGES.values():
        with monkeypatch.context() as patch:
            calls = counted(patch, module, name, number)
            status, err = run(argv, out, capsys)
        assert status == 130, name
        assert err.splitlines()[-1].startswith("interrupted; to resume: python -m experiments.sw")
        assert len(calls) >= number
    check_resumed(argv, out, capsys, whole)
