"""What a finished run of the main command holds, against float64 NumPy."""

import functools
import json
import sys

import command
import numpy as np
import pytest
from cases import at64, increments64
from sweeps import check_same, flax_losses64, load, read, restored, run

from experiments.common import problem
from experiments.sweep import report
from jaxscape.lab import train

SHAPES = {
    "k": "K", "order": "n", "sigma": "s", "delta": "sK", "delta_sem": "sK", "delta_centered": "sK",
    "delta_first_order": "sK", "loss_variance": "s", "loss_variance_sem": "s", "eigenvalues": "d",
    "mean_loss": "s", "delta_fresh": "sF", "loss_variance_fresh": "s",
    "loss_variance_fresh_sem": "s",
    "eigenvalue_residuals": "d", "loss_at_origin": "n", "coordinates": "smd",
    "law_total": "sK", "law_offset": "sK", "law_mixed": "sK", "law_gradient": "sK",
    "law_curvature": "sK", "law_diagonal": "sK", "law_centered": "sK",
}  # fmt: skip


def test_the_run_folder_is_whole(finished):
    out, done = finished
    assert sorted(p.name for p in out.iterdir()) == [
        "checkpoint", "config.json", "figures", "report.html", "results.npz", "summary.json"
    ]  # fmt: skip
    assert [p.name for p in out.parent.iterdir()] == ["run"]
    arrays, summary = read(out)
    sizes = {"K": 249, "n": 250, "s": 2, "d": 3, "m": 5, "F": 39}
    assert {name: a.shape for name, a in arrays.items()} == {
        name: tuple(sizes[letter] for letter in letters) for name, letters in SHAPES.items()
    }
    np.testing.assert_array_equal(arrays["k"], np.arange(1, 250))
    assert len(set(arrays["order"])) == 250
    assert arrays["order"].max() < 300
    names = {"delta", "delta_k2", "centered", "eigenvalues", "law", "law_parts", "sizes"}
    assert {p.name for p in (out / "figures").iterdir()} == {
        f"{name}.{kind}" for name in names for kind in ("png", "pdf")
    }
    assert summary["num_parameters"] == 7 * 6 + 6 + 6 * 3 + 3
    rise = summary["near_sigma"] ** 2 / 2 * arrays["eigenvalues"].sum()
    np.testing.assert_allclose(rise, 0.1 * arrays["loss_at_origin"].mean(), rtol=1e-5)
    assert f"at σ = {summary['near_sigma']:.2g}" in done.stdout
    answer = done.stdout.index("σ = ")
    assert answer < done.stdout.index("K: the k from which on") < done.stdout.index("tolerance  ")
    config = json.loads((out / "config.json").read_text())
    assert config["settings"]["points"] == 5
    assert set(config["dataset"]["sha256"]) == {
        "train_inputs", "train_targets", "test_inputs", "test_targets"
    }  # fmt: skip


def test_the_curves_match_a_float64_loop_over_the_same_points(clouds, finished):
    out, _ = finished
    arrays, summary = read(out)
    found, (space, pairs) = load(clouds, out)
    np.testing.assert_array_equal(found.order, arrays["order"])
    for s in range(2):
        rows = [flax_losses64(at64(space, t), found.samples) for t in arrays["coordinates"][s]]
        steps = increments64(rows)
        # where ℓ_{k+1} happens to be close to L_k, the rounding of the float32 loss is what is left
        first, rounding = abs(steps).mean(0), 1e-6 * abs(steps).mean()
        square = (steps**2).mean(0)
        assert (abs(arrays["delta"][s] - square) <= 1e-5 * square + 2 * first * rounding).all()
        np.testing.assert_allclose(arrays["delta_first_order"][s], first, rtol=1e-5, atol=rounding)
        np.testing.assert_allclose(arrays["delta_centered"][s], steps.var(0, ddof=1), rtol=1e-3)
        np.testing.assert_allclose(
            arrays["loss_variance"][s], np.var(rows, 1, ddof=1).mean(), rtol=1e-5
        )
        scaled = (steps**2).mean(0)[99:] * np.arange(100, 250) ** 2.0
        np.testing.assert_allclose(summary["sigmas"][s]["mean_delta_k2"], scaled.mean(), rtol=1e-5)
    at_origin = flax_losses64(space.origin, found.samples)
    np.testing.assert_allclose(arrays["loss_at_origin"], at_origin, rtol=1e-4)
    np.testing.assert_allclose(summary["train_loss"], at_origin.mean(), rtol=1e-5)
    trend = np.corrcoef(np.arange(250), np.log(at_origin))[0, 1] * np.sqrt(249)
    np.testing.assert_allclose(summary["trend"], trend, atol=0.01)
    np.testing.assert_array_equal(arrays["eigenvalues"], pairs.values)
    for theta in arrays["coordinates"][1]:
        assert np.all(theta != 0)  # every direction is used


def test_what_is_said_of_new_samples_comes_from_new_samples(clouds, finished):
    """The test split, at the same points, by float64 loops; w* has never seen it."""
    out, done = finished
    arrays, summary = read(out)
    found, (space, _) = load(clouds, out)
    new = {"inputs": found.dataset.test_inputs, "targets": found.dataset.test_targets}
    own = flax_losses64(space.origin, new)
    np.testing.assert_allclose(summary["test_loss"], own.mean(), rtol=1e-5)
    for s, entry in enumerate(summary["sigmas"]):
        points = [at64(space, t) for t in arrays["coordinates"][s]]
        rows = [flax_losses64(w, new) for w in points]
        square = (increments64(rows) ** 2).mean(0)
        np.testing.assert_allclose(arrays["delta_fresh"][s], square, rtol=1e-3, atol=1e-9)
        variance = np.var(rows, 1, ddof=1)
        np.testing.assert_allclose(arrays["loss_variance_fresh"][s], variance.mean(), rtol=1e-5)
        error = variance.std(ddof=1) / np.sqrt(5)
        np.testing.assert_allclose(arrays["loss_variance_fresh_sem"][s], error, rtol=1e-3)
        ratio = variance.mean() / arrays["loss_variance"][s]
        np.testing.assert_allclose(entry["fresh_over_own"], ratio, rtol=1e-5)
        mean = np.mean([flax_losses64(w, found.samples).mean() for w in points])
        np.testing.assert_allclose(entry["mean_loss"], mean, rtol=1e-5)
        for size in entry["sufficient_size"]:  # to the population: from new samples alone
            want = variance.mean() / size["tolerance"]
            assert abs(size["distance_k"] - 1 - want) <= 1 + 1e-4 * want
    assert "New samples (40 of the test split)" in done.stdout


def entry_of(**changed):
    """A summary's sigma: a K of 60 of 100 samples, new ones with twice the variance."""
    size = {"tolerance": 2e-4, "k": 60, "reached": True, "fresh_ci": [70, 90]}
    found = {"sigma": 0.1, "mean_loss": 0.5, "order_law_k2": 4.0, "effective_samples": 30.0}
    found |= {"fresh_order_law_k2": 8.0, "fresh_over_own": 2.0, "fresh_effective_samples": 20.0}
    return found | {"sufficient_size": [size]} | changed


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, ["a close look", "by 0.02 nats", "below 0.0141 nats (tolerance 0.0002) from K = 60 on",
              "2 times the variance E S²: of a stream of them K at that tolerance is 70 to 90",
              "Trust in E S²: good (effective sample size 30 of these, 20 of new ones;"]),
        ({"mean_loss": 2.0}, ["a middling look"]),
        ({"mean_loss": 20.0}, ["a wide look"]),
        ({"fresh_effective_samples": 3.0}, ["Trust in E S²: little", "30 of these, 3 of new"]),
        ({"sufficient_size": [{"tolerance": 1e-2, "k": 99, "reached": True,
                               "fresh_ci": [50, 140]}]},
         ["is below 0.1 nats (tolerance 0.01) from 99 on: too few follow",
          "50 to 140 (90 %, partly beyond this run)"]),
        ({"sufficient_size": [{"tolerance": 1e-2, "k": None, "reached": False,
                               "fresh_ci": [120, None]}]},
         ["is not below 0.1 nats", "Δ_k is below 0.002 nats² from half of these samples on",
          "beyond this run)"]),
    ],
)  # fmt: skip
def test_the_answer_in_words_follows_from_the_numbers(changed, words):
    found = {
        "num_samples": 100,
        "unit": "nats²",
        "train_loss": 0.5,
        "fresh": "9 held out",
        "trend": 3.0,
        "near_sigma": None,
    }
    (said,) = report.verdicts(found | {"sigmas": [entry_of(**changed)]})
    for word in words:
        assert word in said


def test_samples_in_an_order_are_said_to_be():
    found = {"num_samples": 100, "unit": "nats²", "train_loss": 0.5, "fresh": "9 held out"}
    found |= {"sigmas": [entry_of()], "trend": -7.24, "near_sigma": 0.25}
    _, said, more = report.verdicts(found)
    assert "a trend of -7.2 standard errors" in said
    assert "at σ = 0.25" in more


def test_the_answer_without_new_samples_or_without_any_loss():
    found = {"num_samples": 100, "unit": "loss²", "train_loss": 0.0, "fresh": "", "trend": 0.0}
    found["near_sigma"] = None
    entry = {k: v for k, v in entry_of(mean_loss=0.0).items() if not k.startswith("fresh_")}
    (said,) = report.verdicts(found | {"sigmas": [entry]})
    assert "there are none" in said
    still = entry_of(mean_loss=0.0, order_law_k2=0.0, effective_samples=None)
    del still["fresh_over_own"]
    (said,) = report.verdicts(found | {"fresh": "9 held out", "sigmas": [still]})
    assert "a close look" in said
    assert "New samples (9 held out) have some variance" in said
    assert "Trust in E S²: little" in said


@pytest.mark.slow
@pytest.mark.parametrize("k_max", [2, 3])
def test_the_fewest_samples_have_an_answer(clouds, tmp_path, capsys, k_max):
    argv = list(clouds)
    argv[argv.index("--k-max") + 1] = str(k_max)
    assert run(argv, tmp_path / "run", capsys)[0] == 0
    _, summary = read(tmp_path / "run")
    assert all(entry.get("law_holds") is None for entry in summary["sigmas"])
    assert "NaN" not in (tmp_path / "run" / "summary.json").read_text()


@pytest.mark.slow
def test_samples_held_out_stand_for_new_ones(clouds, tmp_path, capsys):
    assert run([*clouds, "--holdout", "30"], tmp_path / "run", capsys)[0] == 0
    arrays, summary = read(tmp_path / "run")
    assert summary["fresh"] == "30 held out"
    assert arrays["delta_fresh"].shape == (2, 29)
    found = restored([*clouds, "--holdout", "30"], tmp_path / "run")[0]
    assert not set(found.held_out) & set(found.order)
    rows = found.dataset.train_inputs[found.held_out]
    np.testing.assert_array_equal(found.fresh.samples["inputs"], rows)
    for number in ("51", "1"):
        assert run([*clouds, "--holdout", number], tmp_path / "more", capsys)[0] == 2


def test_sizes_in_the_summary_are_definition_4(finished):
    arrays, summary = read(finished[0])
    for s, entry in enumerate(summary["sigmas"]):
        for size in entry["sufficient_size"]:
            above = np.flatnonzero(arrays["delta"][s] >= np.float32(size["tolerance"]))
            last = above[-1] + 1 if above.size else 0
            assert size["reached"] == (last < 249)
            assert size["k"] == (last + 1 if last < 249 else None)
            for name in ("curvature", "diagonal"):  # Theorem 1 in place of Δ
                over = arrays[f"law_{name}"][s] >= np.float32(size["tolerance"])
                last = np.flatnonzero(over)[-1] + 1 if over.any() else 0
                assert size[f"theorem1_{name}_k"] == (last + 1 if last < 249 else None)


def test_a_late_size_is_marked():
    more = {"ci": [1, 9], "law_k": 4, "law_ci": [3, None], "fresh_ci": [2, None]}
    more |= {"fresh_law_k": 7, "fresh_law_ci": [6, 8], "distance_k": None}
    more["distance_ci"] = [30, None]
    found = [(96, True), (95, True), (None, False)]
    sizes = [{"tolerance": 1.0, "k": k, "reached": r, **more} for k, r in found]
    rows = report.sizes_table([{"sigma": 1.0, "sufficient_size": sizes}], 100)
    assert [row[2] for row in rows[1:]] == ["96*", "95", "not by 100"]
    own, new = ["1 to 9", "4, 3 to not by 100"], ["2 to beyond 2^31", "7, 6 to 8"]
    assert rows[1][3:] == [*own, "-", *new, "beyond 2^31, 30 to beyond 2^31"]
    sizes = [{**sizes[0], "theorem1_curvature_k": k} for k in (7, 96, None)]
    rows = report.sizes_table([{"sigma": 1.0, "sufficient_size": sizes}], 100)
    assert [row[5] for row in rows[1:]] == ["7", "96*", "not by 100"]


def test_intervals_hold_what_they_are_intervals_of(finished):
    arrays, found = read(finished[0])
    for s, entry in enumerate(found["sigmas"]):
        low, high = entry["order_law_k2_ci"]
        assert low < arrays["loss_variance"][s] < high
        for size in entry["sufficient_size"]:
            for whose, most in (("", 250), ("fresh_", np.inf)):
                variance = arrays["loss_variance_fresh" if whose else "loss_variance"][s]
                want = np.sqrt(variance / size["tolerance"] + 0.25) - 0.5
                k, limits = size[f"{whose}law_k"], size[f"{whose}law_ci"]
                if k is None:  # not within the run
                    assert want * (1 + 1e-4) > most - 1
                    continue
                assert limits[0] <= k <= (limits[1] or most)
                assert k - 1 <= want * (1 + 1e-4)
                assert k + 1 >= want * (1 - 1e-4)
                low, high = size[f"{whose}ci"]
                assert low <= (high or most)


def test_the_report_is_one_file(finished):
    html = (finished[0] / "report.html").read_text()
    assert html.count("data:image/png;base64,") == 7
    assert "http" not in html
    assert "Definition 4" in html


def test_eigenpairs_that_did_not_converge_are_said_so():
    lines = report.notes({"dataset_note": "", "eigenvalues": [3.0, 1.0],
                                "eigenvalues_converged": [True, False]})  # fmt: skip
    assert lines == ["1 of 2 eigenpairs did not converge: the directions are approximate."]


@pytest.mark.slow
def test_another_run_is_bit_identical(clouds, finished, tmp_path, capsys):
    assert run(clouds, tmp_path / "again", capsys)[0] == 0
    for name, array in read(tmp_path / "again")[0].items():
        np.testing.assert_array_equal(array, read(finished[0])[0][name], err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["compressed", "folder"])
def test_a_run_is_the_same_from_any_file(kind, finished, clouds, tmp_path, capsys):
    path = tmp_path / ("data.npz" if kind == "compressed" else "data")
    with np.load(clouds[1].removeprefix("npz:")) as arrays:
        if kind == "compressed":
            np.savez_compressed(path, **arrays)
        else:
            save_folder(path, **arrays)
    argv = ["--dataset", f"npz:{path}", *clouds[2:]]
    assert run(argv, tmp_path / "run", capsys)[0] == 0
    for name, array in read(tmp_path / "run")[0].items():
        np.testing.assert_array_equal(array, read(finished[0])[0][name], err_msg=name)


def save_folder(path, **arrays):
    path.mkdir()
    for name, array in arrays.items():
        np.save(path / f"{name}.npy", array)
    return ["--dataset", f"npz:{path}"]


@pytest.mark.slow
def test_a_run_that_never_holds_its_samples_gives_the_same(
    finished, clouds, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(problem, "ROOM", 0)
    monkeypatch.setattr(problem, "PART", 70)
    monkeypatch.setattr(train, "PIECE", 70)
    every = functools.cached_property(lambda own: pytest.fail("all samples at once"))
    every.__set_name__(problem.Problem, "samples")
    monkeypatch.setattr(problem.Problem, "samples", every)
    with np.load(clouds[1].removeprefix("npz:")) as arrays:
        argv = [*save_folder(tmp_path / "data", **arrays), *clouds[2:]]
    assert run(argv, tmp_path / "run", capsys)[0] == 0
    check_same(read(tmp_path / "run")[0], read(finished[0])[0])


MEMORY = """
import sys, threading, time
sys.path.insert(0, "tests")
from pathlib import Path
from experiments.common import cli, prepare, problem
from experiments.sweep.__main__ import SweepConfig
from jaxscape.lab import train
problem.ROOM = 2**24
problem.PART = train.PIECE = 500
done, peak = False, 0
def watch():
    global peak
    while not done:
        rows = Path("/proc/self/status").read_text().split("RssAnon:")[1]
        peak = max(peak, int(rows.split()[0]) // 1024)
        time.sleep(0.01)
threading.Thread(target=watch).start()
out, config = Path(sys.argv[1]), cli.parse("sweep", SweepConfig, sys.argv[2:])
own = problem.load(config)
params = prepare.trained(own, config, out)
prepare.directions(own, params, "hessian", config.dim, out)
done = True
print("PEAK", own.is_large, peak)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_training_and_the_hessian_does_not_grow_with_the_samples(tmp_path):
    """20,000 images are 184 MB as float32, and are read 500 at a time."""
    rng = np.random.default_rng(0)
    targets = rng.integers(3, size=20_000)
    images = rng.integers(0, 200, size=(20_000, 48, 48), dtype=np.uint8)
    images[:, 0, :3] += 50 * np.eye(3, dtype=np.uint8)[targets]
    argv = save_folder(tmp_path / "data", inputs=images, targets=targets)
    argv += ["--hidden", "4", "--layers", "1", "--epochs", "1", "--dim", "1"]

    def peak(count):
        done = command.process("-c", MEMORY, tmp_path / str(count), *argv, "--k-max", count)
        assert done.returncode == 0, done.stderr
        is_large, found = done.stdout.split("PEAK")[1].split()
        assert is_large == "True"
        return int(found)

    assert peak(20_000) - peak(2000) < 90  # 35 seen; 490 where all samples are in memory


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "devices"), [(command.as_users_have_it, 1), (command.eight_devices, 8)]
)
def test_every_optimisation_and_many_devices_give_the_same_curve(
    environment, devices, clouds, finished, tmp_path
):
    argv = ["-m", "experiments.sweep", *clouds, "--out", tmp_path / "run"]
    done = command.process(*argv, env=environment())
    assert done.returncode == 0, done.stderr
    check_same(read(tmp_path / "run")[0], read(finished[0])[0])
    assert len(json.loads((tmp_path / "run" / "config.json").read_text())["devices"]) == devices
