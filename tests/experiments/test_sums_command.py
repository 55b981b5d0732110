"""The main command on sequences: a transformer on sums."""

import json

import numpy as np
import pytest
from cases import at64, increments64, sequence_losses64, transformer64
from sweeps import load, read, run

pytestmark = pytest.mark.usefixtures("in_haste")

SMALL = ["--dataset", "sums", "--model", "transformer", "--k-max", "60", "--hidden", "8",
         "--layers", "1", "--epochs", "2", "--dim", "2", "--points", "400",
         "--sigmas", "0.001", "1"]  # fmt: skip


def test_the_run_equals_float64_loops(tmp_path, capsys):
    assert run(SMALL, tmp_path / "run", capsys)[0] == 0
    arrays, summary = read(tmp_path / "run")
    found, (space, _, _) = load(SMALL, tmp_path / "run")
    at_origin = sequence_losses64(space.origin, found.samples)
    np.testing.assert_allclose(arrays["loss_at_origin"], at_origin, rtol=1e-5)

    rows = [sequence_losses64(at64(space, t), found.samples) for t in arrays["coordinates"][1]]
    steps = increments64(rows)
    rounding = 1e-6 * abs(steps).mean()
    expected = (steps**2).mean(0)
    error = abs(arrays["delta"][1] - expected)
    assert (error <= 1e-5 * expected + 2 * abs(steps).mean(0) * rounding).all()

    close = summary["sigmas"][0]
    assert abs(close["law_over_monte_carlo"] - 1) < 0.02
    assert close["law_holds"]

    tests = found.dataset
    best = transformer64(space.origin, tests.test_inputs, 4).argmax(-1)
    right = (best == tests.test_targets).all(1)
    np.testing.assert_allclose(summary["test_accuracy"], np.mean(right), atol=1e-4)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["dataset"]["sha256"] == tests.sha256
