"""The main command with other directions, data, or models."""

import json

import command
import drawing
import jax
import numpy as np
import pytest
from cases import at64, increments64, sequence_losses64, transformer64
from command import FAST, odd
from jax.experimental.compilation_cache import compilation_cache
from scipy.stats import norm
from sweeps import flax_losses64, load, read, restored, run

import jaxscape as js
from experiments.common import cli, prepare, problem
from experiments.sweep import __main__ as sweep
from jaxscape.lab import glyphs
from jaxscape.lab.readers import Arrays


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["filter", "influence", "isotropic"])
def test_other_directions(clouds, kind, tmp_path, capsys):
    out = tmp_path / kind
    assert run([*clouds, "--subspace", kind, "--sigmas", "0.1"], out, capsys)[0] == 0
    arrays, summary = read(out)
    assert np.isfinite(arrays["delta"]).all()
    assert arrays["eigenvalues"].size == 0
    assert summary["eigenvalues"] == []
    assert (out / "report.html").read_text().count("data:image/png") == (
        4 if kind == "isotropic" else 6
    )
    if kind == "isotropic":
        assert arrays["coordinates"].shape == (1, 5, 0)
        found, config, store = restored([*clouds, "--subspace", kind], out)
        params = prepare.trained(found, config, store)
        probe = js.isotropic(found.keys["probe"], params, 5, 0.1)
        rows = [flax_losses64(probe.at(i), found.samples) for i in range(5)]
        want = (increments64(rows) ** 2).mean(0)
        np.testing.assert_allclose(arrays["delta"][0], want, rtol=1e-5)


@pytest.mark.slow
def test_sobol_points_have_the_errors_of_their_nets(clouds, tmp_path, capsys):
    argv = [*clouds, "--subspace", "random", "--points", "32", "--points-from", "sobol"]
    assert run(argv, tmp_path / "run", capsys)[0] == 0
    arrays, summary = read(tmp_path / "run")
    assert arrays["point_groups"] == 8
    found, (space, *_) = load([*clouds, "--subspace", "random"], tmp_path / "run")
    for s in range(2):
        theta = arrays["coordinates"][s]
        assert len(np.unique(np.floor(4 * norm.cdf(theta[:4, 0] / arrays["sigma"][s])))) == 4
        rows = np.stack([flax_losses64(at64(space, t), found.samples) for t in theta])
        squares = (increments64(rows) ** 2).reshape(8, 4, -1).mean(1)
        np.testing.assert_allclose(arrays["delta"][s], squares.mean(0), rtol=1e-4)
        sem = squares.std(0, ddof=1) / np.sqrt(8)
        np.testing.assert_allclose(arrays["delta_sem"][s], sem, rtol=1e-2, atol=1e-2 * sem.mean())
        levels = rows.var(1, ddof=1).reshape(8, 4).mean(1)
        sem = levels.std(ddof=1) / np.sqrt(8)
        np.testing.assert_allclose(arrays["loss_variance_sem"][s], sem, rtol=1e-3)
        low, high = summary["sigmas"][s]["order_law_k2_ci"]
        assert low < arrays["loss_variance"][s] < high


@pytest.mark.slow
def test_auto_without_mnist_says_that_it_is_glyphs(alone, tmp_path, capsys, monkeypatch):
    arrays = Arrays(*glyphs.draw(300, 0), *glyphs.draw(20, 1))
    monkeypatch.setattr(glyphs, "split", lambda: arrays)
    argv = ["--k-max", "300", *FAST, "--out", str(tmp_path / "run")]
    with drawing.nothing():
        found = sweep.run(cli.parse("sweep", sweep.SweepConfig, argv))
    assert all("FALLBACK DATA" in figure.get_suptitle() for figure in found.figures.values())
    assert capsys.readouterr().out.startswith("note: glyphs in place of mnist")
    assert read(tmp_path / "run")[1]["dataset"] == "glyphs"
    assert "glyphs in place of mnist" in (tmp_path / "run" / "report.html").read_text()
    assert "glyphs in place" in (tmp_path / "run" / "config.json").read_text()


@pytest.mark.slow
def test_what_runs_off_the_cpu_gives_the_same(clouds, tmp_path, capsys, monkeypatch):
    """No setting is read that JAX lacks there, and programs are kept on disk."""
    assert run(clouds, tmp_path / "cpu", capsys)[0] == 0
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    jax.clear_caches()
    compilation_cache.reset_cache()
    try:
        assert run(clouds, tmp_path / "tpu", capsys)[0] == 0
        assert any((tmp_path / "jaxscape" / "programs").iterdir())
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
        compilation_cache.reset_cache()
    one, other = (read(tmp_path / name)[0] for name in ("cpu", "tpu"))
    np.testing.assert_array_equal(one["order"], other["order"])
    for name in ("delta", "law_total"):  # eigenvectors agree to their tolerance of 1e-4
        np.testing.assert_allclose(other[name].mean(1), one[name].mean(1), rtol=1e-3)


@pytest.mark.slow
def test_a_cnn_on_images_in_the_order_of_the_data_set(tmp_path, capsys):
    images, labels = glyphs.draw(120, 0)
    np.savez(tmp_path / "images.npz", inputs=images, targets=labels)
    data = ["--dataset", f"npz:{tmp_path / 'images.npz'}", "--k-max", "120", "--order", "dataset"]
    argv = [*data, "--model", "cnn", *FAST]
    assert run(argv, tmp_path / "run", capsys)[0] == 0
    arrays, _ = read(tmp_path / "run")
    np.testing.assert_array_equal(arrays["order"], np.arange(120))
    assert np.isfinite(arrays["delta"]).all()


@pytest.mark.slow
def test_a_regression(tmp_path, capsys):
    argv = odd(tmp_path / "line.npz", np.linspace(-1, 1, 40, dtype=np.float32))
    assert run(argv, tmp_path / "run", capsys)[0] == 0
    _, summary = read(tmp_path / "run")
    assert summary["test_accuracy"] is None
    assert summary["unit"] == "loss²"


@pytest.mark.slow
def test_one_class_whose_losses_are_all_zero(tmp_path):
    argv = odd(tmp_path / "one.npz", np.zeros(30, np.int32))
    with drawing.coarsely():  # curves of zeros
        assert sweep.main([*argv, "--out", str(tmp_path / "run")]) == 0
    assert not read(tmp_path / "run")[0]["delta"].any()
    text = (tmp_path / "run" / "summary.json").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text


@pytest.mark.slow
def test_the_default_folder_of_a_file_is_one_folder(tmp_path, monkeypatch):
    argv = [*command.clouds(tmp_path / "my data.npz"), "--subspace", "random", "--sigmas", "0.1"]
    monkeypatch.chdir(tmp_path)
    with drawing.nothing():
        assert sweep.main(argv) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("sweep-my-data-")
    assert "<td>settings, dataset</td>" in (folder / "report.html").read_text()


SUMS = ["--dataset", "sums", "--model", "transformer", "--k-max", "60", "--hidden", "8",
         "--layers", "1", "--epochs", "2", "--dim", "2", "--points", "128",
         "--sigmas", "0.001", "1"]  # fmt: skip


@pytest.mark.slow
def test_a_transformer_on_sums_equals_float64_loops(tmp_path, capsys):
    assert run(SUMS, tmp_path / "run", capsys)[0] == 0
    arrays, summary = read(tmp_path / "run")
    found, (space, _) = load(SUMS, tmp_path / "run")
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
    weight = arrays["k"][29:] * (arrays["k"][29:] + 1.0)
    law, delta = (arrays[name][0][29:] for name in ("law_total", "delta"))
    ratio = (weight * law).sum() / (weight * delta).sum()
    np.testing.assert_allclose(close["law_over_monte_carlo"], ratio, rtol=1e-5)
    np.testing.assert_allclose(sum(close["law_parts"].values()), 1, rtol=1e-5)

    tests = found.dataset
    best = transformer64(space.origin, tests.test_inputs, 4).argmax(-1)
    right = (best == tests.test_targets).all(1)
    np.testing.assert_allclose(summary["test_accuracy"], np.mean(right), atol=1e-4)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["dataset"]["sha256"] == tests.sha256


@pytest.mark.slow
def test_without_training_or_hessian_no_stage_holds_all_samples(tmp_path, capsys, monkeypatch):
    refused = property(lambda self: pytest.fail("all samples at once"))
    monkeypatch.setattr(problem.Problem, "samples", refused)
    argv = [*command.clouds(tmp_path / "x.npz"), "--epochs", "0", "--subspace", "random"]
    assert run(argv, tmp_path / "run", capsys)[0] == 0
    assert "law_total" in read(tmp_path / "run")[0]


def test_no_room_for_all_samples_is_one_line(clouds, tmp_path, capsys, monkeypatch):
    error = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")

    def full(self, positions, read=problem.Problem.read):
        if positions == slice(None):
            raise error
        return read(self, positions)

    monkeypatch.setattr(problem.Problem, "read", full)
    status, err = run(clouds, tmp_path / "run", capsys)
    assert status == 2
    assert "expected room for 250 samples on the device, which training and the Hessian" in err
    assert len(err.splitlines()) == 1
    assert not list(tmp_path.glob("run*"))
