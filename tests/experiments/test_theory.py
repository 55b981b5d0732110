"""Where the quadratic law holds, over a grid of sigma."""

import json
from unittest import mock

import drawing
import numpy as np
import pytest

from experiments import theory
from experiments.common import segments


def flags(tmp_path, scale=1.0):
    rng = np.random.default_rng(0)
    targets = rng.integers(3, size=150)
    inputs = scale * (rng.normal(size=(150, 4)) + np.eye(3, 4)[targets])
    np.savez(tmp_path / "clouds.npz", inputs=inputs.astype(np.float32), targets=targets)
    return [
        *("--dataset", f"npz:{tmp_path / 'clouds.npz'}", "--k-max", "150", "--hidden", "5"),
        *("--layers", "1", "--epochs", "1", "--dim", "2", "--points", "1000"),
        *("--sigma-min", "0.001", "--sigma-max", "30", "--num-sigmas", "3"),
    ]


@pytest.mark.slow
def test_the_law_holds_at_small_sigma_and_not_far_away(tmp_path, capsys, monkeypatch):
    """Of a run that takes over what an interrupted one has left."""
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(segments, "law", mock.Mock(side_effect=KeyboardInterrupt))
        assert theory.main([*flags(tmp_path), "--out", str(out)]) == 130
    assert "to start again" in capsys.readouterr().err
    assert (tmp_path / "run.partial").exists()
    with drawing.coarsely():
        assert theory.main([*flags(tmp_path), "--out", str(out)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clouds.npz", "run"]
    printed = capsys.readouterr().out
    entries = json.loads((out / "summary.json").read_text())["sigmas"]
    with np.load(out / "results.npz") as arrays:
        np.testing.assert_allclose(
            [e["sigma"] for e in entries], [1e-3, 3**0.5 / 10, 30], rtol=1e-5
        )
        for index, entry in enumerate(entries):
            weight = arrays["k"][74:] * (arrays["k"][74:] + 1.0)
            law, delta = (arrays[name][index][74:] for name in ("law_total", "delta"))
            ratio = (weight * law).sum() / (weight * delta).sum()
            np.testing.assert_allclose(entry["law_over_monte_carlo"], ratio, rtol=1e-5)
    assert entries[0]["law_holds"] is True
    assert abs(entries[0]["law_over_monte_carlo"] - 1) < 0.01
    assert entries[2]["law_holds"] is False
    assert "does not hold" in printed
    assert drawing.drawn(out) == {"agreement"}


def test_bad_input_is_one_line(tmp_path, capsys):
    for more, word in (
        (["--dim", "33"], "from 1 to 32"),
        (["--sigma-max", "0.0001"], "above --sigma-min"),
        (["--num-sigmas", "1"], "at least 2"),
    ):
        assert theory.main([*flags(tmp_path), *more, "--out", str(tmp_path / "run")]) == 2
        err = capsys.readouterr().err
        assert word in err
        assert len(err.splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_losses_that_never_change_have_no_ratio(tmp_path, capsys):
    argv = flags(tmp_path)
    np.savez(
        tmp_path / "clouds.npz",
        inputs=np.ones((150, 4), np.float32),
        targets=np.zeros(150, np.int32),
    )
    assert theory.main([*argv, "--out", str(tmp_path / "run")]) == 2
    assert "differ between samples" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
