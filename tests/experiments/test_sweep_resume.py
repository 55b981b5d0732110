"""Runs repeated, interrupted, killed or finished before, bit for bit."""

import numpy as np
from command import process
from sweeps import read, run

from experiments.common import segments


def test_another_run_is_bit_identical(clouds, finished, tmp_path, capsys):
    assert run(clouds, tmp_path / "again", capsys)[0] == 0
    for name, array in read(tmp_path / "again")[0].items():
        np.testing.assert_array_equal(array, read(finished[0])[0][name], err_msg=name)


def test_interrupted_then_resumed_is_bit_identical(clouds, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(segments, "SEGMENT", 40)
    out = tmp_path / "run"
    write, calls = segments._write, []

    def interrupted(*args):
        calls.append(1)
        if len(calls) in (4, 9):
            raise KeyboardInterrupt
        return write(*args)

    monkeypatch.setattr(segments, "_write", interrupted)
    status, err = run(clouds, out, capsys)
    assert status == 130
    assert "to resume: python -m experiments.sweep" in err
    assert "--resume" in err
    assert not out.exists()
    assert run([*clouds, "--resume"], out, capsys)[0] == 130
    assert run([*clouds, "--resume"], out, capsys)[0] == 0
    assert len(calls) == 2 * 7 + 2
    whole = tmp_path / "whole"
    assert run(clouds, whole, capsys)[0] == 0
    for name, array in read(out)[0].items():
        np.testing.assert_array_equal(array, read(whole)[0][name], err_msg=name)


KILLED = """
import os, signal, sys
from experiments import monte_carlo, sweep
monte_carlo.SEGMENT = 40
write, calls = monte_carlo._write, []
def killed(*args):
    calls.append(1)
    if len(calls) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return write(*args)
monte_carlo._write = killed
sys.exit(sweep.main(sys.argv[1:]))
"""


def test_killed_then_resumed_is_bit_identical(clouds, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(segments, "SEGMENT", 40)
    argv = [*clouds, "--checkpoint-every", "0"]
    done = process("-c", KILLED, *argv, "--out", tmp_path / "run")
    assert done.returncode == -9, done.stderr
    assert not (tmp_path / "run").exists()
    write, calls = segments._write, []
    monkeypatch.setattr(segments, "_write", lambda *args: calls.append(1) or write(*args))
    assert run([*argv, "--resume"], tmp_path / "run", capsys)[0] == 0
    assert len(calls) == 2 * 7 - 4
    assert run(argv, tmp_path / "whole", capsys)[0] == 0
    for name, array in read(tmp_path / "run")[0].items():
        np.testing.assert_array_equal(array, read(tmp_path / "whole")[0][name], err_msg=name)


def test_a_finished_run_is_left_as_it_is(clouds, finished, capsys):
    out, _ = finished
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    assert run([*clouds, "--resume"], out, capsys)[0] == 0
    status, err = run(clouds, out, capsys)
    assert status == 2
    assert "in use" in err
    status, err = run([*clouds, "--points", "6", "--resume"], out, capsys)
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
