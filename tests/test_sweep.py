"""The main command, as a process and in this one."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import pytest
from cases import at64, increments64
from PIL import Image

import jaxscape as js
from experiments import monte_carlo, prepare, problem, run_folder, summary, sweep, sweep_report
from jaxscape.lab import checkpoint

ROOT = Path(__file__).parent.parent
FAST = ["--hidden", "6", "--layers", "1", "--epochs", "2", "--dim", "3", "--points", "5"]
SHAPES = {
    "k": "K", "order": "n", "sigma": "s", "delta": "sK", "delta_sem": "sK", "delta_shape": "sK",
    "delta_first_order": "sK", "loss_variance": "s", "loss_variance_sem": "s", "eigenvalues": "d",
    "eigenvalue_residuals": "d", "loss_at_origin": "n", "coordinates": "smd",
    "law_total": "sK", "law_offset": "sK", "law_mixed": "sK", "law_gradient": "sK",
    "law_curvature": "sK", "law_diagonal": "sK", "law_shape": "sK",
}  # fmt: skip


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """300 samples of three overlapping clouds, as a file."""
    rng = np.random.default_rng(0)
    targets = rng.integers(3, size=340)
    inputs = (rng.normal(size=(340, 7)) + np.eye(3, 7)[targets]).astype(np.float32)
    path = tmp_path_factory.mktemp("data") / "clouds.npz"
    np.savez(path, inputs=inputs[:300], targets=targets[:300], test_inputs=inputs[300:],
             test_targets=targets[300:])  # fmt: skip
    return ["--dataset", f"npz:{path}", "--k-max", "250", *FAST]


@pytest.fixture(scope="module")
def finished(dataset, tmp_path_factory):
    """A run of the command as a process."""
    out = tmp_path_factory.mktemp("runs") / "run"
    command = [sys.executable, "-m", "experiments.sweep", *dataset, "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out, done


def read(out):
    with np.load(out / "results.npz", allow_pickle=False) as found:
        return dict(found), json.loads((out / "summary.json").read_text())


def blank(figure, folder, name):
    """A one-pixel picture in place of a figure: drawing takes half the time of a small run."""
    folder.mkdir(exist_ok=True)
    for kind in ("png", "pdf"):
        Image.new("L", (1, 1)).save(folder / f"{name}.{kind}")


def run(argv, out, capsys, figures=False):
    """Exit status and stderr of the command in this process."""
    draw = sweep_report.plot.save if figures else blank
    with mock.patch.object(sweep_report.plot, "save", draw):
        status = sweep.main([*argv, "--out", str(out)])
    return status, capsys.readouterr().err


def test_the_run_folder_is_whole(finished):
    out, done = finished
    assert sorted(p.name for p in out.iterdir()) == [
        "checkpoint", "config.json", "figures", "report.html", "results.npz", "summary.json"
    ]  # fmt: skip
    assert [p.name for p in out.parent.iterdir()] == ["run"]
    arrays, summary = read(out)
    sizes = {"K": 249, "n": 250, "s": 2, "d": 3, "m": 5}
    assert {name: a.shape for name, a in arrays.items()} == {
        name: tuple(sizes[letter] for letter in letters) for name, letters in SHAPES.items()
    }
    np.testing.assert_array_equal(arrays["k"], np.arange(1, 250))
    assert len(set(arrays["order"])) == 250
    assert arrays["order"].max() < 300
    names = {"delta", "delta_k2", "shape_part", "eigenvalues", "law", "law_parts", "sizes"}
    assert {p.name for p in (out / "figures").iterdir()} == {
        f"{name}.{kind}" for name in names for kind in ("png", "pdf")
    }
    assert summary["num_parameters"] == 7 * 6 + 6 + 6 * 3 + 3
    assert "K, this order" in done.stdout
    config = json.loads((out / "config.json").read_text())
    assert config["settings"]["points"] == 5
    assert set(config["dataset"]["sha256"]) == {
        "train_inputs", "train_targets", "test_inputs", "test_targets"
    }  # fmt: skip


def load(argv, out):
    """The problem, w* and subspace of a finished run, from its checkpoint."""
    config = sweep.cli.parse("sweep", sweep.SweepConfig, argv)
    found = problem.load(config)
    params, _ = prepare.trained(found, config, out / "checkpoint")
    kind, dim = config.subspace, config.dim
    return found, prepare.directions(found, params, kind, dim, out / "checkpoint")


def flax_losses64(params, samples):
    """Per-sample cross-entropy of a Flax MLP in float64 NumPy."""
    z = np.asarray(samples["inputs"], np.float64).reshape(len(samples["targets"]), -1)
    for i in range(len(params)):
        layer = params[f"Dense_{i}"]
        z = z @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"], np.float64)
        if i < len(params) - 1:
            z = np.maximum(z, 0)
    margins = z - z[np.arange(len(z)), np.asarray(samples["targets"])][:, None]
    top = margins.max(1)
    others = np.arange(z.shape[1]) != np.asarray(samples["targets"])[:, None]
    rest = (np.exp(margins - top[:, None]) * others).sum(1)
    return np.where(top > 0, top + np.log(np.exp(-top) + rest), np.log1p(rest))


def test_the_curves_match_a_float64_loop_over_the_same_points(dataset, finished):
    out, _ = finished
    arrays, summary = read(out)
    found, (space, pairs, _) = load(dataset, out)
    np.testing.assert_array_equal(found.order, arrays["order"])
    for s in range(2):
        rows = [flax_losses64(at64(space, t), found.samples) for t in arrays["coordinates"][s]]
        steps = increments64(rows)
        # where ℓ_{k+1} happens to be close to L_k, the rounding of the float32 loss is what is left
        first, rounding = abs(steps).mean(0), 1e-6 * abs(steps).mean()
        square = (steps**2).mean(0)
        assert (abs(arrays["delta"][s] - square) <= 1e-5 * square + 2 * first * rounding).all()
        np.testing.assert_allclose(arrays["delta_first_order"][s], first, rtol=1e-5, atol=rounding)
        np.testing.assert_allclose(arrays["delta_shape"][s], steps.var(0, ddof=1), rtol=1e-3)
        np.testing.assert_allclose(
            arrays["loss_variance"][s], np.var(rows, 1, ddof=1).mean(), rtol=1e-5
        )
        scaled = (steps**2).mean(0)[99:] * np.arange(100, 250) ** 2.0
        np.testing.assert_allclose(summary["sigmas"][s]["mean_delta_k2"], scaled.mean(), rtol=1e-5)
    at_origin = flax_losses64(space.origin, found.samples)
    np.testing.assert_allclose(arrays["loss_at_origin"], at_origin, rtol=1e-4)
    np.testing.assert_allclose(summary["train_loss"], at_origin.mean(), rtol=1e-5)
    np.testing.assert_array_equal(arrays["eigenvalues"], pairs.values)
    for theta in arrays["coordinates"][1]:
        assert np.all(theta != 0)  # every direction is used


def test_the_law_agrees_with_monte_carlo_where_the_points_stay_close(dataset, tmp_path, capsys):
    sigmas = ["--sigmas", "0.001", "30", "--points", "400"]
    assert run([*dataset, *sigmas], tmp_path / "run", capsys)[0] == 0
    arrays, summary = read(tmp_path / "run")
    close, far = summary["sigmas"]
    assert close["law_holds"]
    assert abs(close["law_over_monte_carlo"] - 1) < 0.02
    np.testing.assert_allclose(
        close["law_over_monte_carlo"],
        arrays["law_total"][0][99:].mean() / arrays["delta"][0][99:].mean(),
        rtol=1e-5,
    )
    assert far["law_holds"] is False
    np.testing.assert_allclose(sum(close["law_parts"].values()), 1, rtol=1e-5)


def test_sizes_in_the_summary_are_definition_4(finished):
    arrays, summary = read(finished[0])
    for s, entry in enumerate(summary["sigmas"]):
        for size in entry["sufficient_size"]:
            above = np.flatnonzero(arrays["delta"][s] >= np.float32(size["tolerance"]))
            last = above[-1] + 1 if above.size else 0
            assert size["reached"] == (last < 249)
            assert size["k"] == (last + 1 if last < 249 else None)


def test_a_late_size_is_marked():
    more = {"ci": [1, 9], "law_k": 4, "law_ci": [3, None]}
    found = [(96, True), (95, True), (None, False)]
    sizes = [{"tolerance": 1.0, "k": k, "reached": r, **more} for k, r in found]
    rows = summary.sizes_table([{"sigma": 1.0, "sufficient_size": sizes}], 100)
    assert [row[2] for row in rows[1:]] == ["96*", "95", "not by 100"]
    assert rows[1][3:] == ["1 to 9", "4", "3 to beyond 2^31"]
    assert summary.is_marked(rows)


def test_intervals_hold_what_they_are_intervals_of(finished):
    arrays, found = read(finished[0])
    for s, entry in enumerate(found["sigmas"]):
        low, high = entry["order_law_k2_ci"]
        assert low < arrays["loss_variance"][s] < high
        for size in entry["sufficient_size"]:
            assert size["law_ci"][0] <= size["law_k"] <= size["law_ci"][1]
            want = np.sqrt(arrays["loss_variance"][s] / size["tolerance"] + 0.25) - 0.5
            assert size["law_k"] - 1 <= want * (1 + 1e-4)
            assert size["law_k"] + 1 >= want * (1 - 1e-4)
            assert size["ci"][0] <= size["ci"][1]


def test_the_report_is_one_file(finished):
    html = (finished[0] / "report.html").read_text()
    assert html.count("data:image/png;base64,") == 7
    assert "http" not in html
    assert "Definition 4" in html


def test_another_run_is_bit_identical(dataset, finished, tmp_path, capsys):
    assert run(dataset, tmp_path / "again", capsys)[0] == 0
    for name, array in read(tmp_path / "again")[0].items():
        np.testing.assert_array_equal(array, read(finished[0])[0][name], err_msg=name)


def test_interrupted_then_resumed_is_bit_identical(
    dataset, finished, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(monte_carlo, "SEGMENT", 40)
    out = tmp_path / "run"
    segment, calls = monte_carlo._segment, []

    def interrupted(*args):
        calls.append(1)
        if len(calls) in (4, 9):
            raise KeyboardInterrupt
        return segment(*args)

    monkeypatch.setattr(monte_carlo, "_segment", interrupted)
    status, err = run(dataset, out, capsys)
    assert status == 130
    assert "to resume: python -m experiments.sweep" in err
    assert "--resume" in err
    assert not out.exists()
    assert run([*dataset, "--resume"], out, capsys)[0] == 130
    assert run([*dataset, "--resume"], out, capsys)[0] == 0
    assert len(calls) == 2 * 7 + 2
    whole = tmp_path / "whole"
    assert run(dataset, whole, capsys)[0] == 0
    for name, array in read(out)[0].items():
        np.testing.assert_array_equal(array, read(whole)[0][name], err_msg=name)


KILLED = """
import os, signal, sys
from experiments import monte_carlo, sweep
monte_carlo.SEGMENT = 40
segment, calls = monte_carlo._segment, []
def killed(*args):
    calls.append(1)
    if len(calls) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return segment(*args)
monte_carlo._segment = killed
sys.exit(sweep.main(sys.argv[1:]))
"""


def test_killed_then_resumed_is_bit_identical(dataset, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(monte_carlo, "SEGMENT", 40)
    argv = [*dataset, "--checkpoint-every", "0"]
    command = [sys.executable, "-c", KILLED, *argv, "--out", str(tmp_path / "run")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    assert not (tmp_path / "run").exists()
    segment, calls = monte_carlo._segment, []
    monkeypatch.setattr(monte_carlo, "_segment", lambda *args: calls.append(1) or segment(*args))
    assert run([*argv, "--resume"], tmp_path / "run", capsys)[0] == 0
    assert len(calls) == 2 * 7 - 4
    assert run(argv, tmp_path / "whole", capsys)[0] == 0
    for name, array in read(tmp_path / "run")[0].items():
        np.testing.assert_array_equal(array, read(tmp_path / "whole")[0][name], err_msg=name)


def test_a_save_that_fails_keeps_the_last_good_one(dataset, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(monte_carlo, "SEGMENT", 40)
    save, calls = checkpoint.save, []

    def full(folder, name, tree):
        calls.append(name)
        if calls.count("sweep") == 3:
            raise OSError(28, "No space left on device", str(folder))
        save(folder, name, tree)

    monkeypatch.setattr(checkpoint, "save", full)
    out = tmp_path / "run"
    status, err = run([*dataset, "--checkpoint-every", "0"], out, capsys)
    assert status == 2
    assert "No space left" in err
    assert not out.exists()
    assert run([*dataset, "--resume"], out, capsys)[0] == 0


def test_a_finished_run_is_left_as_it_is(dataset, finished, capsys):
    out, _ = finished
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    assert run([*dataset, "--resume"], out, capsys)[0] == 0
    status, err = run(dataset, out, capsys)
    assert status == 2
    assert "in use" in err
    status, err = run([*dataset, "--points", "6", "--resume"], out, capsys)
    assert status == 2
    assert "points = 6, found points = 5" in err
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before


def test_an_unfinished_run_is_not_overwritten(dataset, tmp_path, capsys):
    (tmp_path / "run.partial").mkdir()
    status, err = run(dataset, tmp_path / "run", capsys)
    assert status == 2
    assert "--resume" in err


@pytest.mark.parametrize("kind", ["random", "filter", "isotropic"])
def test_other_directions(dataset, kind, tmp_path, capsys):
    out = tmp_path / kind
    assert run([*dataset, "--subspace", kind, "--sigmas", "0.1"], out, capsys)[0] == 0
    arrays, summary = read(out)
    assert np.isfinite(arrays["delta"]).all()
    assert arrays["eigenvalues"].size == 0
    assert summary["eigenvalues"] == []
    assert (out / "report.html").read_text().count("data:image/png") == (
        4 if kind == "isotropic" else 6
    )
    if kind == "isotropic":
        assert arrays["coordinates"].shape == (1, 5, 0)
        params, _ = prepare.trained(*_restored([*dataset, "--subspace", kind], out))
        probe = js.isotropic(_keys(dataset)["probe"], params, 5, 0.1)
        samples = _restored(dataset, out)[0].samples
        rows = [flax_losses64(probe.at(i), samples) for i in range(5)]
        want = (increments64(rows) ** 2).mean(0)
        np.testing.assert_allclose(arrays["delta"][0], want, rtol=1e-5)


def _restored(argv, out):
    config = sweep.cli.parse("sweep", sweep.SweepConfig, argv)
    return problem.load(config), config, out / "checkpoint"


def _keys(argv):
    return problem.load(sweep.cli.parse("sweep", sweep.SweepConfig, argv)).keys


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--k-max", "1"], "--k-max at least 2, found 1"),
        (["--k-max", "301"], "--k-max of at most 300"),
        (["--k-max", "many"], "--k-max"),
        (["--dim", "0"], "--dim at least 1, found 0"),
        (["--dim", "70"], "dimension from 1 to 69"),
        (["--sigmas", "-1"], "--sigmas"),
        (["--sigmas", "nan"], "found nan"),
        (["--sigmas", "1", "inf"], "found 1 inf"),
        (["--sigmas"], "found none"),
        (["--points", "1"], "--points at least 2"),
        (["--tolerances", "0"], "--tolerances"),
        (["--epochs", "-1"], "--epochs"),
        (["--batch-size", "0"], "--batch-size"),
        (["--learning-rate", "nan"], "--learning-rate"),
        (["--learning-rate", "1e30"], "finite training loss"),
        (["--hidden", "0"], "--hidden"),
        (["--layers", "-1"], "--layers"),
        (["--seed", "-1"], "--seed"),
        (["--devices", "99"], "--devices"),
        (["--devices", "0"], "--devices"),
        (["--checkpoint-every", "-1"], "--checkpoint-every"),
        (["--model", "rnn"], "--model"),
        (["--model", "cnn"], "images"),
        (["--dataset", "imagenet"], "imagenet"),
        (["--dataset", "npz:nowhere.npz"], "nowhere.npz"),
        (["--dataset", "mnist", "--data-dir", "nowhere"], "nowhere"),
        (["--sigmas", "1e30"], "finite losses"),
        (["--sigmas", "1e14"], "fit float32"),
        (["--no-such-flag"], "no-such-flag"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(flags, word, dataset, tmp_path, capsys):
    status, err = run([*dataset, *flags], tmp_path / "deep" / "run", capsys)
    assert status == 2
    assert word in err
    lines = [line for line in err.splitlines() if not line.startswith(("training:", "sweep:"))]
    assert len(lines) == 1, err
    assert not list(tmp_path.rglob("run*"))


def test_bad_input_as_a_process(tmp_path):
    command = [sys.executable, "-m", "experiments.sweep", "--points", "x", "--out", "run"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert "--points" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("blocked", ["file/run", "full"])
def test_an_output_that_cannot_be_written(blocked, dataset, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    if blocked == "full":

        def full(*_, **__):
            raise OSError(28, "No space left on device", "results.npz")

        monkeypatch.setattr(run_folder, "write_json", full)
    status, err = run(dataset, tmp_path / blocked, capsys)
    assert status == 2
    assert len(err.splitlines()) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


def test_eigenpairs_that_did_not_converge_are_said_so():
    lines = sweep_report.notes({"dataset_note": "", "eigenvalues": [3.0, 1.0],
                                "eigenvalues_converged": [True, False]})  # fmt: skip
    assert lines == ["1 of 2 eigenpairs did not converge: the directions are approximate."]


def test_many_devices_give_the_same_curve(dataset, finished, tmp_path):
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    command = [sys.executable, "-m", "experiments.sweep", *dataset, "--out", str(tmp_path / "run")]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    many, one = read(tmp_path / "run")[0], read(finished[0])[0]
    np.testing.assert_allclose(many["delta"], one["delta"], rtol=1e-5)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["devices"][7:]


def test_help_names_every_flag(capsys):
    with pytest.raises(SystemExit) as stop:
        sweep.main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for field in dataclasses.fields(sweep.SweepConfig):
        flag = f"--{field.name.replace('_', '-')}"
        assert flag in text


@pytest.mark.skipif(
    "JAXSCAPE_DATA_DIR" not in os.environ, reason="JAXSCAPE_DATA_DIR names no folder with MNIST"
)
def test_all_60000_samples_of_mnist(tmp_path, capsys):
    """The main job with fewer points: every direction, every k, against float64 NumPy."""
    argv = ["--dataset", "mnist", "--epochs", "1", "--points", "3", "--sigmas", "0.01", "1"]
    assert run(argv, tmp_path / "run", capsys)[0] == 0
    arrays, summary = read(tmp_path / "run")
    assert all(summary["eigenvalues_converged"])
    assert summary["hessian_products"] <= 60
    assert (arrays["eigenvalue_residuals"] <= 1e-4 * arrays["eigenvalues"]).all()
    found, (space, *_) = load(argv, tmp_path / "run")
    chosen = np.random.default_rng(0).integers(1, 60_000, 100)
    chosen = np.concatenate([[1, 2, 10, 1000, 59_999], chosen])
    for s in range(2):
        squares = 0
        for theta in arrays["coordinates"][s]:
            ell = flax_losses64(at64(space, theta), found.samples)
            mean = np.cumsum(ell) / np.arange(1, 60_001)
            squares = squares + (mean[1:] - mean[:-1]) ** 2 / 3
        np.testing.assert_allclose(arrays["delta"][s][chosen - 1], squares[chosen - 1], rtol=1e-5)


def test_auto_without_mnist_says_that_it_is_glyphs(alone, tmp_path, capsys):
    argv = ["--k-max", "300", *FAST, "--out", str(tmp_path / "run")]
    assert sweep.main(argv) == 0
    assert capsys.readouterr().out.startswith("note: glyphs in place of mnist")
    assert read(tmp_path / "run")[1]["dataset"] == "glyphs"
    assert "glyphs in place of mnist" in (tmp_path / "run" / "report.html").read_text()
    assert "glyphs in place" in (tmp_path / "run" / "config.json").read_text()


def test_a_cnn_on_images_in_the_order_of_the_data_set(alone, tmp_path, capsys):
    argv = ["--dataset", "glyphs", "--k-max", "120", "--model", "cnn", "--order", "dataset", *FAST]
    assert run(argv, tmp_path / "run", capsys)[0] == 0
    arrays, _ = read(tmp_path / "run")
    np.testing.assert_array_equal(arrays["order"], np.arange(120))
    assert np.isfinite(arrays["delta"]).all()


def odd(path, targets):
    """Flags for a small file with the given targets."""
    inputs = np.random.default_rng(0).normal(size=(len(targets), 4)).astype(np.float32)
    np.savez(path, inputs=inputs, targets=targets)
    return ["--dataset", f"npz:{path}", "--k-max", str(len(targets)), *FAST]


def test_a_regression(tmp_path, capsys):
    argv = odd(tmp_path / "line.npz", np.linspace(-1, 1, 40, dtype=np.float32))
    assert run(argv, tmp_path / "run", capsys)[0] == 0
    _, summary = read(tmp_path / "run")
    assert summary["test_accuracy"] is None
    assert summary["unit"] == "loss²"


def test_one_class_whose_losses_are_all_zero(tmp_path, capsys):
    argv = odd(tmp_path / "one.npz", np.zeros(30, np.int32))
    assert run(argv, tmp_path / "run", capsys, figures=True)[0] == 0
    assert not read(tmp_path / "run")[0]["delta"].any()
    text = (tmp_path / "run" / "summary.json").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text


def test_the_default_folder_of_a_file_is_one_folder(tmp_path, monkeypatch):
    argv = odd(tmp_path / "my data.npz", np.arange(20) % 2)
    monkeypatch.chdir(tmp_path)
    assert sweep.main(argv) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("sweep-my-data-")
    assert "&#39;npz:" in (folder / "report.html").read_text()


def test_a_folder_without_a_name_is_refused(dataset, capsys):
    status, err = run(dataset, "/", capsys)
    assert status == 2
    assert "folder with a name" in err


def test_a_damaged_run_is_refused(dataset, tmp_path, capsys):
    (tmp_path / "run.partial").mkdir()
    (tmp_path / "run.partial" / "config.json").write_text("{")
    status, err = run([*dataset, "--resume"], tmp_path / "run", capsys)
    assert status == 2
    assert "damaged" in err


def test_keys_are_independent_of_each_other():
    keys = jax.random.split(jax.random.key(0), len(problem.KEYS))
    assert len({tuple(np.asarray(jax.random.key_data(k))) for k in keys}) == len(problem.KEYS)
