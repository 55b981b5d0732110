"""Samples that arrive until a rule says stop, against float64 NumPy."""

import json

import drawing
import jax
import numpy as np
import pytest
from cases import at64, float64

from experiments.collect import __main__ as collect
from experiments.collect import measure, report
from experiments.common import cli, prepare, problem
from jaxscape import losses
from jaxscape.lab import checkpoint, learning_curve, style

RATE = 0.05


def clouds(path, seed=0, beyond=300, classes=True):
    """Flags for 270 of 300 samples of three overlapping clouds; those after ``beyond`` are bent."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(3, size=400)
    inputs = (rng.normal(size=(400, 6)) + 1.5 * np.eye(3, 6)[targets]).astype(np.float32)
    inputs[beyond:300] *= -2
    if not classes:
        targets = (inputs @ rng.normal(size=6)).astype(np.float32)
    np.savez(path, inputs=inputs[:300], targets=targets[:300], test_inputs=inputs[300:],
             test_targets=targets[300:])  # fmt: skip
    return [
        *("--dataset", f"npz:{path}", "--k-max", "270", "--order", "dataset", "--layers", "0"),
        *("--epochs", "2", "--learning-rate", str(RATE), "--batch-size", "8", "--repeats", "2"),
        *("--validation", "40", "--at-least", "40", "--dim", "3", "--points", "6"),
        *("--sigma", "0.5", "--tolerance", "1e-3", "--price", "0.2"),
    ]


def finish(argv, out):
    """Arrays, summary and names of the figures of a run in this process."""
    with drawing.coarsely():
        assert collect.main([*argv, "--out", str(out)]) == 0
    with np.load(out / "results.npz", allow_pickle=False) as arrays:
        summary = json.loads((out / "summary.json").read_text())
        return dict(arrays), summary, drawing.drawn(out)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    argv = clouds(folder / "clouds.npz")
    arrays, summary, names = finish(argv, folder / "run")
    config = cli.parse("collect", collect.CollectConfig, argv)
    found = problem.load(config)
    stack = jax.tree.map(lambda leaf: np.stack([leaf] * len(arrays["k"])), found.initial)
    like = {"params": stack}
    kept = checkpoint.restore(folder / "run" / "checkpoint", "refitted", like)["params"]
    networks = [jax.tree.map(lambda x, i=i: x[i], kept) for i in range(len(arrays["k"]))]
    return found, config, networks, arrays, summary, names


def test_the_sizes_grow_by_the_ratio_and_hold_the_end(run):
    assert run[3]["k"].tolist() == [5, 10, 20, 40, 60, 90, 135, 202, 270]
    assert run[3]["look_k"].tolist() == [80, 100, 130, 175, 242]
    assert run[5] == {"forecast", "monitor"}
    assert measure.sizes(100, 8, 1.01, 2)[3:].tolist() == [*range(8, 99), 100]
    assert measure.sizes(20, 8, 3.0, 12).tolist() == [1, 2, 4, 8, 20]


def softmax64(w, inputs):
    z = np.asarray(inputs, np.float64) @ w["kernel"] + w["bias"]
    z -= z.max(1, keepdims=True)
    return z - np.log(np.exp(z).sum(1, keepdims=True))


def losses64(params, inputs, targets):
    """Per-sample cross-entropy of softmax regression."""
    w = params if "kernel" in params else float64(params)["Dense_0"]
    return -softmax64(w, inputs)[np.arange(len(inputs)), np.asarray(targets)]


def adam64(found, repeat, order, k):
    """Adam written out on softmax regression, at a rate that falls as half a cosine."""
    w = float64(found.initial)["Dense_0"]
    x = float64(found.samples["inputs"])[order]
    y = np.eye(3)[np.asarray(found.samples["targets"])[order]]
    first = second = jax.tree.map(np.zeros_like, w)
    time, total = 0, 2 * 34
    for epoch in jax.random.split(jax.random.fold_in(found.keys["train"], repeat), 2):
        for key in jax.random.split(epoch, 34):
            rate = RATE * (1 + np.cos(np.pi * time / total)) / 2
            time += 1
            rows = np.asarray(jax.random.randint(key, (8,), 0, int(k)))
            gap = (np.exp(softmax64(w, x[rows])) - y[rows]) / 8
            g = {"kernel": x[rows].T @ gap, "bias": gap.sum(0)}
            first = jax.tree.map(lambda m, v: 0.9 * m + 0.1 * v, first, g)
            second = jax.tree.map(lambda m, v: 0.999 * m + 0.001 * v**2, second, g)
            c1, c2 = 1 - 0.9**time, 1 - 0.999**time
            for name in w:
                step = (first[name] / c1) / (np.sqrt(second[name] / c2) + 1e-8)
                w = w | {name: w[name] - rate * step}
    return w


def test_the_losses_are_those_of_networks_refitted_in_float64(run):
    """On the test split and, of networks that are there by then, on the arrival after each look."""
    found, _, networks, arrays, _, _ = run
    x, y = (np.asarray(found.samples[name]) for name in ("inputs", "targets"))
    data, ks = found.dataset, arrays["k"]
    assert sorted(arrays["orders"][1, :40]) == list(range(40))
    assert arrays["orders"][1, :40].tolist() != list(range(40))
    for repeat in range(2):
        order = np.arange(270)
        order[:40] = arrays["orders"][repeat, :40]
        for column, k in enumerate(ks):
            w = adam64(found, repeat, order, k)
            if repeat == 0:
                np.testing.assert_allclose(networks[column]["Dense_0"]["kernel"], w["kernel"],
                                           atol=1e-4)  # fmt: skip
            tested = losses64(w, data.test_inputs, data.test_targets).mean()
            np.testing.assert_allclose(arrays["test_loss"][repeat, column], tested, rtol=1e-3)
            right = softmax64(w, data.test_inputs).argmax(1) == data.test_targets
            assert abs(arrays["test_accuracy"][repeat, column] - right.mean()) < 0.0101
            for look, at in enumerate(ks[3:-1]):
                new = losses64(w, x[at : at + 40], y[at : at + 40]).mean() if k <= at else np.nan
                got = arrays["validated"][look, repeat, column]
                np.testing.assert_allclose(got, new, rtol=1e-3)


def test_the_forecast_is_of_the_curve_through_the_losses_of_the_arrival(run):
    found, _, _, arrays, _, _ = run
    for look, k in enumerate(arrays["k"][3:-1]):
        five = slice(max(0, look - 1), look + 4)
        curve = learning_curve.fit(
            jax.random.fold_in(found.keys["probe"], look + 3),
            arrays["k"][five],
            arrays["validated"][look, :, five],
        )
        at = arrays["forecast_k"]
        wanted = np.where(at < arrays["k"][five][0], np.nan, curve.at(at))
        np.testing.assert_array_equal(arrays["forecast"][look], wanted)
        powers = [float(k) ** -b - 270.0**-b for b in curve.exponent]
        value, *draws = np.array(powers) * curve.scale
        limits = np.quantile(draws, [0.05, 0.95], method="nearest")
        wanted = min(limits[0], value), value, max(limits[1], value)
        np.testing.assert_allclose(arrays["gain"][look], wanted)
        np.testing.assert_array_equal(arrays["misfit"][look], curve.misfit)


def test_no_sample_that_has_not_arrived_has_a_say(run, tmp_path):
    arrays = run[3]
    other, _, _ = finish(clouds(tmp_path / "clouds.npz", beyond=130), tmp_path / "run")
    names = "validated", "gain", "forecast", "law", "exceedance", "theorem1", "eigenvalues"
    for name in names:
        np.testing.assert_array_equal(other[name][:3], arrays[name][:3])
        assert not np.array_equal(other[name][3], arrays[name][3], equal_nan=True)
    assert other["test_loss"][0, -1] != arrays["test_loss"][0, -1]


KS = np.array([125, 250, 500, 1000, 2000, 4000, 8000, 16_000, 64_000])


def looked(losses, tolerance=1e-3):
    """The arrays of looks at 1,000 to 16,000 of which the forecast is from ``losses`` [R, S]."""
    gain = [
        learning_curve.fit(jax.random.key(j), KS[:j], losses[:, :j], num_draws=200).gain(KS[j - 1],
                                                                                        KS[-1])
        for j in range(4, 9)
    ]  # fmt: skip
    ones = np.ones((5, 3))
    return {
        "k": KS, "look_k": KS[3:-1] + 100, "test_loss": losses, "gain": np.array(gain),
        "misfit": np.ones(5), "law": ones, "exceedance": ones, "loss_variance": ones,
        "effective": np.ones(5), "monitor_stop": np.array([False, False, True, False, True]),
        "eigenvalues": np.array([[9.0], [7.0], [6.9], [5.0], [4.9]]),
        "theorem1": tolerance * np.array([2, 0.5, 2, 0.5, 0.5]),
    }  # fmt: skip


def curve(c, a, b):
    return c + a * KS.astype(float) ** -b


@pytest.mark.parametrize("truth", [(0.05, 5, 0.5), (0.0, 3, 0.3), (0.3, 100, 1.0)])
@pytest.mark.parametrize("price", [0.2, 0.05, 0.01, 1e-4])
def test_of_a_curve_without_noise_it_stops_where_the_rest_is_worth_the_price(truth, price):
    losses = np.tile(curve(*truth), (3, 1))
    rules = report.summarise(looked(losses), price, 1e-3)["rules"]
    paid = losses[0] - losses[0, -1]
    wanted = next(k for k, p in zip(KS, paid, strict=True) if k >= 1000 and p < price)
    for name in ("forecast", "estimate", "best"):
        assert rules[name]["k"] == wanted
        assert rules[name]["met"] == wanted + 100 * (name != "best" and wanted < 64_000)
        assert rules[name]["stopped"] == (wanted < 64_000)
    np.testing.assert_allclose(rules["forecast"]["paid"], paid[list(KS).index(wanted)], atol=1e-12)


def test_with_noise_the_limit_keeps_the_price_more_often_than_the_estimate():
    rng = np.random.default_rng(0)
    kept = {"forecast": 0, "estimate": 0}
    for _ in range(20):
        true = curve(0.05, 5, 0.5)
        arrays = looked(true * (1 + 0.1 * rng.normal(size=(3, 9))))
        arrays["test_loss"] = np.tile(true, (3, 1))
        found = report.summarise(arrays, 0.055, 1e-3)["rules"]
        for name in kept:
            kept[name] += found[name]["kept"]
    assert kept["forecast"] >= 18
    assert kept["forecast"] > kept["estimate"]


def test_what_is_saved_and_paid_is_a_loop_over_the_networks():
    losses = curve(0.05, 5, 0.5) + 0.002 * np.random.default_rng(1).normal(size=(3, 9))
    arrays = looked(losses)
    found = report.summarise(arrays | {"test_accuracy": 1 - losses}, 0.03, 1e-3)
    stops = {"monitor": 5, "theorem1": 4, "plateau": 7}  # settled after k = 4,000 and 16,000
    for name, column in stops.items():
        entry = found["rules"][name]
        gaps = [row[column] - row[-1] for row in losses]
        assert (entry["k"], entry["met"]) == (KS[column], KS[column] + 100)
        assert entry["saved"] == 64_000 - entry["met"]
        np.testing.assert_allclose(entry["paid"], sum(gaps) / 3)
        np.testing.assert_allclose(entry["paid_sem"], np.std(gaps, ddof=1) / 3**0.5)
        np.testing.assert_allclose(entry["test_accuracy"], np.mean(1 - losses[:, column]))
    mean = losses.mean(0) - losses[:, -1].mean()
    every = range(1000, 64_001)
    paid = [np.interp(np.log(k), np.log(KS), mean) for k in every]
    np.testing.assert_allclose(found["random"]["paid"], np.mean(paid))
    np.testing.assert_allclose(found["random"]["saved"], np.mean([64_000 - k for k in every]))
    assert found["random"]["keeps_price"] == np.mean([p < 0.03 for p in paid])
    met = found["rules"]["plateau"]["met"]
    good = [p < 0.03 and k <= met for k, p in zip(every, paid, strict=True)]
    assert found["rules"]["plateau"]["random_as_good"] == np.mean(good)
    never = report.summarise(arrays, 1e-9, 1e-9)["rules"]
    for name in ("forecast", "theorem1"):
        assert (never[name]["k"], never[name]["saved"], never[name]["paid"]) == (64_000, 0, 0)


def hessian64(params, inputs):
    """The dense Hessian of softmax regression, in the order bias, kernel."""
    p = np.exp(softmax64(float64(params)["Dense_0"], inputs))
    x = np.concatenate([np.ones((len(inputs), 1)), np.asarray(inputs, np.float64)], 1)
    inner = np.einsum("nc,cd->ncd", p, np.eye(3)) - np.einsum("nc,nd->ncd", p, p)
    return np.einsum("na,nb,ncd->acbd", x, x, inner).reshape(21, 21) / len(inputs)


def test_the_directions_and_theorem_1_are_those_of_dense_hessians(run):
    """To first order: the curvature of all samples met along the eigenvectors of those before."""
    found, config, networks, arrays, _, _ = run
    for row, seen in enumerate(arrays["k"][3:-1].tolist()):
        met = seen + 40
        space, values = measure.directions(found, config, networks[row + 3], seen)
        dense, after = (hessian64(space.origin, found.samples["inputs"][:k]) for k in (seen, met))
        np.testing.assert_allclose(values, np.linalg.eigvalsh(dense)[:-4:-1], rtol=1e-2)
        np.testing.assert_allclose(arrays["eigenvalues"][row], values, rtol=1e-4)
        top = np.linalg.eigh(dense)[1][:, ::-1][:, :3]
        layer = space.basis["Dense_0"]
        basis = np.concatenate([layer["bias"], layer["kernel"].reshape(3, -1)], 1)
        assert np.sum((basis @ top) ** 2) > 3 * 0.999
        change = np.einsum("ja,ab,jb->j", basis, after - dense, basis)
        wanted = 0.5**4 / 4 * (2 * np.sum(change**2) + change.sum() ** 2)
        np.testing.assert_allclose(arrays["theorem1"][row], wanted, rtol=0.05, atol=1e-8)


def test_the_monitor_is_a_float64_loop_over_samples_not_yet_trained_on(run):
    found, config, networks, arrays, _, _ = run
    x, y = (np.asarray(found.samples[name]) for name in ("inputs", "targets"))
    for row, seen in enumerate(arrays["k"][3:-1].tolist()):
        space, _ = measure.directions(found, config, networks[row + 3], seen)
        probe = prepare.probe(found, space.origin, space, 6, 0.5)
        points = [at64(space, theta) for theta in probe.coordinates]
        new = slice(seen, seen + 40)
        level = np.mean([np.var(losses64(point, x[new], y[new]), ddof=1) for point in points])
        np.testing.assert_allclose(arrays["loss_variance"][row, 1], level, rtol=1e-3)
        size = 1 + next(j for j in range(10**6) if level / ((j + 1) * (j + 2)) < 1e-3)
        assert abs(arrays["law"][row, 1] - size) <= 1
    highest = np.maximum(arrays["law"][:, 2], arrays["exceedance"][:, 2])
    enough = (highest <= arrays["look_k"]) & (arrays["effective"] >= 10)
    np.testing.assert_array_equal(arrays["monitor_stop"], enough)


def test_the_losses_have_three_labels_at_least(run):
    arrays = {name: 0.2 + 0.9 * x if "test" in name else x for name, x in run[3].items()}
    figure = report.forecast(arrays, run[4])
    style.thin(figure)
    figure.canvas.draw()
    axis = figure.axes[0].yaxis
    low, high = axis.get_view_interval()
    shown = zip(axis.get_ticklabels(), axis.get_ticklocs(), strict=True)
    assert sum(low <= at <= high and bool(label.get_text()) for label, at in shown) >= 3


def test_what_is_printed_follows_from_the_summary(run):
    summary = run[4]
    text = report.text(summary)
    entry = summary["rules"]["forecast"]
    assert entry["stopped"]
    assert f"stopped at k = {entry['k']}, {entry['met']} met: all 270 are" in text
    (row,) = (line for line in text.splitlines() if report.RULES["forecast"] in line)
    for shown in (entry["k"], entry["saved"], f"{entry['test_loss']:.4g}"):
        assert f" {shown} " in row
    assert ("yes" if entry["kept"] else "no") in row
    never = summary | {"rules": summary["rules"] | {"forecast": entry | {"stopped": False}}}
    assert "not stopped by k = 270" in report.text(never)


@pytest.mark.slow
def test_a_regression_has_its_own_loss_and_no_accuracy(tmp_path):
    argv = [*clouds(tmp_path / "line.npz", classes=False), "--price", "1e-9", "--repeats", "1"]
    arrays, summary, names = finish(argv, tmp_path / "run")
    found = problem.load(cli.parse("collect", collect.CollectConfig, argv))
    like = jax.tree.map(lambda leaf: np.stack([leaf] * len(arrays["k"])), found.initial)
    kept = checkpoint.restore(tmp_path / "run" / "checkpoint", "refitted", {"params": like})
    w, data = float64(kept["params"])["Dense_0"], found.dataset
    residual = (data.test_inputs @ w["kernel"][-1] + w["bias"][-1])[:, 0] - data.test_targets
    wanted = losses.squared_error(residual[:, None], np.zeros((100, 1))).mean()
    np.testing.assert_allclose(summary["rules"]["all"]["test_loss"], wanted, rtol=1e-4)
    assert summary["rules"]["forecast"]["paid_sem"] is None
    assert "test_accuracy" not in arrays
    assert names == {"forecast", "monitor"}


def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, capsys):
    argv = clouds(tmp_path / "clouds.npz")
    bare = tmp_path / "bare.npz"
    np.savez(bare, inputs=np.zeros((300, 6), np.float32), targets=np.zeros(300, np.int32))
    for more, words in (
        (["--validation", "1"], "at least 2"),
        (["--validation", "231"], "40 + 231 samples"),
        (["--at-least", "7"], "above 7"),
        (["--growth", "1"], "above 1"),
        (["--price", "0"], "above 0"),
        (["--epochs", "0"], "--epochs of at least 1"),
        (["--points", "1"], "at least 2"),
        (["--tolerance", "0"], "above 0"),
        (["--sigma", "inf"], "above 0"),
        (["--sigma", "1e30"], "lower --sigma"),
        (["--learning-rate", "1e38"], "--learning-rate"),
        (["--dim", "1000"], "from 1 to 21"),
        (["--dataset", f"npz:{bare}"], "test split"),
    ):
        assert collect.main([*argv, *more, "--out", str(tmp_path / "run")]) == 2
        error = [line for line in capsys.readouterr().err.splitlines() if "left" not in line]
        assert words in error[0]
        assert len(error) == 1
    assert not (tmp_path / "run").exists()
