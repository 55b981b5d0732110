"""What the main command refuses, in one line."""

import os
import pty
import subprocess
import sys

import pytest
from command import ROOT, process
from sweeps import run

from experiments.common import run_folder
from experiments.sweep.__main__ import SweepConfig


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--k-max", "1"], "--k-max of at least 2, found 1"),
        (["--k-max", "301"], "--k-max of at most 300"),
        (["--k-max", "many"], "--k-max"),
        (["--dim", "0"], "--dim of at least 1, found 0"),
        (["--dim", "70"], "dimension from 1 to 69"),
        (["--sigmas", "-1"], "--sigmas"),
        (["--sigmas", "nan"], "found nan"),
        (["--sigmas", "1", "inf"], "found 1 inf"),
        (["--sigmas"], "found none"),
        (["--points", "1"], "--points of at least 2"),
        (["--points", "12", "--points-from", "sobol"], "--points 8 times a power of two"),
        (
            ["--points", "16", "--points-from", "sobol", "--subspace", "isotropic"],
            "--subspace not isotropic",
        ),
        (["--tolerances", "0"], "--tolerances"),
        (["--epochs", "-1"], "--epochs"),
        (["--batch-size", "0"], "--batch-size"),
        (["--learning-rate", "nan"], "--learning-rate"),
        (["--weight-decay", "-1"], "--weight-decay"),
        (["--learning-rate", "1e30"], "finite training loss"),
        (["--hidden", "0"], "--hidden"),
        (["--layers", "-1"], "--layers"),
        (["--seed", "-1"], "--seed"),
        (["--devices", "99"], "--devices"),
        (["--devices", "0"], "--devices"),
        (["--checkpoint-every", "-1"], "--checkpoint-every"),
        (["--model", "rnn"], "--model"),
        (["--model", "cnn"], "images"),
        (["--model", "transformer"], "expected sequences of tokens for --model transformer"),
        (["--dataset", "sums"], "found sequences of tokens in sums"),
        (["--dataset", "sums", "--model", "cnn"], "found sequences of tokens in sums"),
        (["--dataset", "imagenet"], "imagenet"),
        (["--dataset", "npz:nowhere.npz"], "nowhere.npz"),
        (["--dataset", "mnist", "--data-dir", "nowhere"], "nowhere"),
        (["--sigmas", "1e30"], "finite losses"),
        (["--sigmas", "1e14"], "fit float32"),
        (["--no-such-flag"], "no-such-flag"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(flags, word, clouds, tmp_path, capsys):
    status, err = run([*clouds, *flags], tmp_path / "deep" / "run", capsys)
    assert status == 2
    assert word in err
    progress = "training:", "subspace:", "sweep-", "at work for"
    lines = [line for line in err.splitlines() if not line.startswith(progress)]
    assert len(lines) == 1, err
    assert not list(tmp_path.rglob("run*"))


def test_bad_input_as_a_process(tmp_path):
    argv = ["-m", "experiments.sweep", "--points", "x", "--out", "run"]
    done = process(*argv, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert "--points" in done.stderr
    assert not list(tmp_path.iterdir())


def test_several_processes_where_jax_finds_no_cluster(clouds, tmp_path, capsys):
    status, err = run([*clouds, "--distributed"], tmp_path / "run", capsys)
    assert status == 2
    assert "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID" in err
    assert len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("blocked", ["file/run", "full"])
def test_an_output_that_cannot_be_written(blocked, clouds, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    if blocked == "full":

        def full(*_, **__):
            raise OSError(28, "No space left on device", "results.npz")

        monkeypatch.setattr(run_folder, "write_json", full)
    status, err = run(clouds, tmp_path / blocked, capsys)
    assert status == 2
    assert len(err.splitlines()) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


def test_a_folder_without_a_name_is_refused(clouds, capsys):
    status, err = run(clouds, "/", capsys)
    assert status == 2
    assert "folder with a name" in err


def test_a_mistyped_flag_is_one_plain_line_in_a_terminal_too():
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "experiments.sweep", "--k-mx", "5"]
    done = subprocess.run(command, stdout=theirs, stderr=theirs, stdin=theirs, cwd=ROOT)
    os.close(theirs)
    said = os.read(ours, 10_000).decode()
    assert done.returncode == 2
    assert said.startswith("python -m experiments.sweep: ")
    assert "--k-mx" in said
    assert not [mark for mark in ("\x1b", "│", "╮") if mark in said]


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, ("sobol", 128)),
        ({"points": 64}, ("sobol", 64)),
        ({"points": 100}, ("gaussian", 100)),
        ({"points_from": "gaussian"}, ("gaussian", 256)),
        ({"subspace": "isotropic"}, ("gaussian", 256)),
    ],
)
def test_points_are_sobol_nets_where_they_can_be(given, found):
    config = SweepConfig(**given)
    assert (config.points_from, config.points) == found
