"""The samples segment by segment: each once, from any file, never whole where nothing needs it."""

import types

import command
import jax
import numpy as np
import pytest
from sweeps import read, run

from experiments.common import problem, segments


@pytest.mark.parametrize(("total", "size", "met"), [(1, 5, 0), (10, 5, 0), (11, 4, 3), (9, 4, 9)])
def test_each_sample_comes_once(total, size, met):
    values = np.arange(total)
    given = types.SimpleNamespace(order=values, read=lambda positions: values[positions])
    parts = list(segments.of(given, size, met))
    new = [part.samples[part.skip :] for part in parts]
    np.testing.assert_array_equal(np.concatenate([[], *new]), values[met:])
    assert len({part.stop - part.start for part in parts}) <= 1
    assert all(part.samples.shape == (part.stop - part.start,) for part in parts)


def test_rows_are_those_of_all_samples_at_once(monkeypatch):
    monkeypatch.setattr(segments, "SIZE", 4)
    values = np.random.default_rng(0).normal(size=(11, 2)).astype(np.float32)
    given = types.SimpleNamespace(order=np.arange(11), read=lambda positions: values[positions])
    found = segments.rows(given, lambda part: {"twice": 2 * part})
    np.testing.assert_array_equal(found["twice"], 2 * values)


@pytest.mark.parametrize("kind", ["compressed", "folder"])
def test_a_run_is_the_same_from_any_file(kind, finished, clouds, tmp_path, capsys):
    path = tmp_path / ("data.npz" if kind == "compressed" else "data")
    with np.load(clouds[1].removeprefix("npz:")) as arrays:
        if kind == "compressed":
            np.savez_compressed(path, **arrays)
        else:
            path.mkdir()
            for name, array in arrays.items():
                np.save(path / f"{name}.npy", array)
    argv = ["--dataset", f"npz:{path}", *clouds[2:]]
    assert run(argv, tmp_path / "run", capsys)[0] == 0
    for name, array in read(tmp_path / "run")[0].items():
        np.testing.assert_array_equal(array, read(finished[0])[0][name], err_msg=name)


def test_without_training_or_hessian_no_stage_holds_all_samples(tmp_path, capsys, monkeypatch):
    refused = property(lambda self: pytest.fail("all samples at once"))
    monkeypatch.setattr(problem.Problem, "samples", refused)
    argv = [*command.clouds(tmp_path / "x.npz"), "--epochs", "0", "--subspace", "random"]
    assert run(argv, tmp_path / "run", capsys)[0] == 0
    assert "law_total" in read(tmp_path / "run")[0]


def test_no_room_for_all_samples_is_one_line(clouds, tmp_path, capsys, monkeypatch):
    error = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")

    def full(self, positions):
        raise error

    monkeypatch.setattr(problem.Problem, "read", full)
    status, err = run(clouds, tmp_path / "run", capsys)
    assert status == 2
    assert "expected room for 250 samples on the device, which training and the Hessian" in err
    assert len(err.splitlines()) == 1
    assert not list(tmp_path.glob("run*"))
