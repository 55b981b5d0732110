"""Samples that arrive until the monitor says stop, against float64 NumPy."""

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
from jaxscape.lab import checkpoint

pytestmark = pytest.mark.usefixtures("in_haste")
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
        *("--epochs", "2", "--learning-rate", str(RATE), "--batch-size", "8"),
        *("--arrivals", "40", "--at-least", "40", "--dim", "3", "--points", "6", "--growth", "1.5"),
        *("--sigma", "0.5", "--tolerance", "1e-3"),
    ]


def finish(argv, out):
    """Arrays, summary and names of the figures of a run in this process."""
    with drawing.coarsely():
        assert collect.main([*argv, "--out", str(out)]) == 0
    with np.load(out / "results.npz", allow_pickle=False) as arrays:
        summary = json.loads((out / "summary.json").read_text())
        return dict(arrays), summary, drawing.drawn(out)


def of(argv, out, names):
    """The problem, settings and networks of a finished run."""
    config = cli.parse("collect", collect.CollectConfig, argv)
    found = problem.load(config)
    like = dict.fromkeys(names, found.initial)
    return found, config, checkpoint.restore(out / "checkpoint", "collected", like)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stopped")
    argv = clouds(folder / "clouds.npz")
    return argv, folder / "run", *finish(argv, folder / "run")


@pytest.fixture(scope="module")
def spaces(stopped):
    """By the samples met: those trained on, directions and eigenvalues. Training once more."""
    argv, out, arrays, _, _ = stopped
    found, config, _ = of(argv, out, ("all", "stopped"))
    state, train = measure.trainer(found, config)
    directions = {}
    for number, k in enumerate(arrays["k"].tolist()):
        if k in arrays["look_k"]:  # before the network trains on what has arrived
            seen = int(arrays["k"][number - 1]) if number else k
            directions[k] = seen, *measure.directions(found, config, state.params, seen)
        state = train(state, number, k)
    return directions


def test_the_stop_is_the_first_look_that_has_met_what_the_limits_ask_for(stopped):
    _, _, arrays, summary, names = stopped
    assert names == {"monitor", "test_loss", "test_error"}
    assert arrays["k"].tolist() == [40, 80, 120, 160, 200, 240, 270]
    assert arrays["look_k"].tolist() == [40, 80, 120, 200, 270]
    highest = np.maximum(arrays["law"][:, 2], arrays["exceedance"][:, 2])
    enough = (highest <= arrays["look_k"]) & (arrays["effective"] >= 10)
    first = int(np.argmax(enough))
    assert 0 < first < 4
    assert enough[first]
    np.testing.assert_array_equal(arrays["stop"], enough)
    assert summary["stopped_k"] == arrays["look_k"][first]
    np.testing.assert_array_equal(
        arrays["stopped_k"], arrays["k"][arrays["k"] >= summary["stopped_k"]]
    )


def test_the_looks_grow_by_the_ratio_and_hold_the_end():
    counts = measure.arrivals(10, 3)
    assert counts.tolist() == [3, 6, 10]  # a single sample would have no variance
    assert measure.arrivals(11, 3).tolist() == [3, 6, 9, 11]
    assert measure.looks(counts, 1.0).tolist() == [3, 6, 10]
    assert measure.looks(counts, 2.5).tolist() == [3, 10]
    assert measure.looks(counts, 9.0).tolist() == [3, 10]
    assert measure.arrivals(2, 3).tolist() == [2]


def softmax64(w, inputs):
    z = np.asarray(inputs, np.float64) @ w["kernel"] + w["bias"]
    z -= z.max(1, keepdims=True)
    return z - np.log(np.exp(z).sum(1, keepdims=True))


def losses64(params, inputs, targets):
    """Per-sample cross-entropy of softmax regression."""
    w = float64(params)["Dense_0"]
    return -softmax64(w, inputs)[np.arange(len(inputs)), np.asarray(targets)]


def adam64(found, config, ks):
    """Adam written out on softmax regression: after arrival j, steps on the first ks[j] samples."""
    w = float64(found.initial)["Dense_0"]
    x, y = float64(found.samples["inputs"]), np.eye(3)[np.asarray(found.samples["targets"])]
    first = second = jax.tree.map(np.zeros_like, w)
    steps = -(-2 * 270 // (8 * 7))
    time = 0
    for number, k in enumerate(ks):
        keys = jax.random.split(jax.random.fold_in(found.keys["train"], number), steps)
        for key in keys:
            time += 1
            rows = np.asarray(jax.random.randint(key, (8,), 0, int(k)))
            gap = (np.exp(softmax64(w, x[rows])) - y[rows]) / 8
            g = {"kernel": x[rows].T @ gap, "bias": gap.sum(0)}
            first = jax.tree.map(lambda m, v: 0.9 * m + 0.1 * v, first, g)
            second = jax.tree.map(lambda m, v: 0.999 * m + 0.001 * v**2, second, g)
            c1, c2 = 1 - 0.9**time, 1 - 0.999**time
            for name in w:
                step = (first[name] / c1) / (np.sqrt(second[name] / c2) + 1e-8)
                w = w | {name: w[name] - RATE * step}
    assert time == 70
    return w


def test_both_networks_are_adam_on_the_samples_met_with_equal_steps(stopped):
    argv, out, arrays, summary, _ = stopped
    found, config, networks = of(argv, out, ("all", "stopped"))
    ks = {"all": arrays["k"], "stopped": np.minimum(arrays["k"], summary["stopped_k"])}
    for name, network in networks.items():
        wanted = adam64(found, config, ks[name])
        for leaf in ("kernel", "bias"):
            np.testing.assert_allclose(network["Dense_0"][leaf], wanted[leaf], atol=1e-4)


def test_what_is_reported_of_them_is_what_they_do_on_the_test_split(stopped):
    argv, out, arrays, summary, _ = stopped
    found, _, networks = of(argv, out, ("all", "stopped"))
    x, y = found.dataset.test_inputs, found.dataset.test_targets
    rows = {}
    for name, network in networks.items():
        right = softmax64(float64(network)["Dense_0"], x).argmax(1) == y
        rows[name] = {"test_loss": losses64(network, x, y), "test_accuracy": right.astype(float)}
    for metric in ("test_loss", "test_accuracy"):
        entry = summary[metric]
        for name in rows:
            np.testing.assert_allclose(entry[name], rows[name][metric].mean(), rtol=1e-4)
        gaps = rows["stopped"][metric] - rows["all"][metric]
        np.testing.assert_allclose(entry["difference"], gaps.mean(), atol=1e-5)
        np.testing.assert_allclose(entry["difference_sem"], gaps.std(ddof=1) / 10, rtol=1e-3)
        there = list(arrays["k"]).index(summary["stopped_k"])
        assert entry["at_stop"] == arrays[metric][there]
        assert entry["recent_stopped"] == arrays[f"stopped_{metric}"][-1]  # a tenth of 7: the last


def test_no_sample_that_has_not_arrived_has_a_say(stopped, tmp_path):
    _, _, arrays, summary, _ = stopped
    k = summary["stopped_k"]
    other, said, _ = finish(clouds(tmp_path / "clouds.npz", beyond=k), tmp_path / "run")
    assert said["stopped_k"] == k
    for name in ("stopped_test_loss", "stopped_final_test_loss"):
        np.testing.assert_array_equal(other[name], arrays[name])
    met = arrays["look_k"] <= k
    for name in ("loss_variance", "law", "exceedance"):
        np.testing.assert_array_equal(other[name][met], arrays[name][met])
    assert other["test_loss"][-1] != arrays["test_loss"][-1]


def hessian64(params, inputs):
    """The dense Hessian of softmax regression, in the order bias, kernel."""
    p = np.exp(softmax64(float64(params)["Dense_0"], inputs))
    x = np.concatenate([np.ones((len(inputs), 1)), np.asarray(inputs, np.float64)], 1)
    inner = np.einsum("nc,cd->ncd", p, np.eye(3)) - np.einsum("nc,nd->ncd", p, p)
    return np.einsum("na,nb,ncd->acbd", x, x, inner).reshape(21, 21) / len(inputs)


def test_the_directions_of_a_look_are_those_of_the_hessian_of_the_samples_met(stopped, spaces):
    argv, out, arrays, _, _ = stopped
    found, _, _ = of(argv, out, ("all", "stopped"))
    assert sorted(spaces) == arrays["look_k"].tolist()
    for row, (seen, space, values) in enumerate(spaces.values()):
        dense = hessian64(space.origin, found.samples["inputs"][:seen])
        np.testing.assert_allclose(values, np.linalg.eigvalsh(dense)[:-4:-1], rtol=1e-2)
        np.testing.assert_array_equal(arrays["eigenvalues"][row], values)
        top = np.linalg.eigh(dense)[1][:, ::-1][:, :3]
        layer = space.basis["Dense_0"]
        basis = np.concatenate([layer["bias"], layer["kernel"].reshape(3, -1)], 1)
        assert np.sum((basis @ top) ** 2) > 3 * 0.999


def test_the_level_of_a_look_is_a_float64_loop_over_samples_not_yet_trained_on(stopped, spaces):
    argv, out, arrays, _, _ = stopped
    found, _, _ = of(argv, out, ("all", "stopped"))
    x, y = (np.asarray(found.samples[name]) for name in ("inputs", "targets"))
    for row, k in enumerate(arrays["look_k"]):
        seen, space, _ = spaces[k]
        seen = 0 if row == 0 else seen
        probe = prepare.probe(found, space.origin, space, 6, 0.5)
        points = [at64(space, theta) for theta in probe.coordinates]
        level, own = (
            np.mean([np.var(losses64(point, x[rows], y[rows]), ddof=1) for point in points])
            if rows.stop
            else np.nan
            for rows in (slice(seen, k), slice(0, seen))
        )
        np.testing.assert_allclose(arrays["loss_variance"][row, 1], level, rtol=1e-4)
        np.testing.assert_allclose(arrays["loss_variance_seen"][row], own, rtol=1e-4)
        size = 1 + next(j for j in range(10**6) if level / ((j + 1) * (j + 2)) < 1e-3)
        assert arrays["law"][row, 1] == size


def test_the_papers_rule_is_theorem_1_of_the_eigenvalues_that_an_arrival_moves(stopped, spaces):
    """To first order: the curvature of all samples met along the eigenvectors of those before."""
    argv, out, arrays, summary, _ = stopped
    found, _, _ = of(argv, out, ("all", "stopped"))
    assert np.isnan(arrays["theorem1"][0])
    for row, k in enumerate(arrays["look_k"][1:].tolist(), start=1):
        seen, space, _ = spaces[k]
        layer = space.basis["Dense_0"]
        basis = np.concatenate([layer["bias"], layer["kernel"].reshape(3, -1)], 1)
        curved = [
            np.einsum("ja,ab,jb->j", basis, hessian64(space.origin, x), basis)
            for x in (found.samples["inputs"][:seen], found.samples["inputs"][:k])
        ]
        change = curved[1] - curved[0]
        wanted = 0.5**4 / 4 * (2 * np.sum(change**2) + change.sum() ** 2)
        np.testing.assert_allclose(arrays["theorem1"][row], wanted, rtol=0.05, atol=1e-8)
    theorem, values = arrays["theorem1"], arrays["eigenvalues"]
    first = [k for k, x in zip(arrays["look_k"], theorem, strict=True) if x < 1e-3]
    assert summary["paper_stop"]["theorem1"] == (first[0] if first else None)
    still = np.abs(np.diff(values, axis=0) / values[:-1]).max(1) <= 0.1
    both = [k for k, x, s in zip(arrays["look_k"][1:], theorem[1:], still, strict=True)
            if x < 1e-3 and s]  # fmt: skip
    assert summary["paper_stop"]["plateau"] == (both[0] if both else None)


def test_the_samples_of_the_hessian_are_spread_over_those_met():
    for k, size, wanted in ((80, 20, range(0, 80, 4)), (5, 20, range(5)), (7, 3, (0, 2, 4))):
        rows, count = measure.spread(k, size)
        assert len(rows) == size
        assert rows[:count].tolist() == list(wanted)


@pytest.fixture(scope="module")
def unstopped(tmp_path_factory):
    """A regression in random directions, in one arrival, at a tolerance out of reach."""
    folder = tmp_path_factory.mktemp("unstopped")
    argv = clouds(folder / "line.npz", classes=False)
    argv += ["--subspace", "random", "--tolerance", "1e-12", "--arrivals", "300"]
    return argv, folder / "run", *finish(argv, folder / "run")


@pytest.mark.slow
def test_a_regression_that_never_stops_has_its_loss_with_all_data(unstopped):
    argv, out, arrays, summary, names = unstopped
    found, _, networks = of(argv, out, ("all",))
    w, data = float64(networks["all"])["Dense_0"], found.dataset
    residual = (data.test_inputs @ w["kernel"] + w["bias"])[:, 0] - data.test_targets
    wanted = losses.squared_error(residual[:, None], np.zeros((100, 1))).mean()
    np.testing.assert_allclose(summary["test_loss"]["all"], wanted, rtol=1e-4)
    assert summary["stopped"] is False
    assert "test_accuracy" not in summary
    assert arrays["look_k"].tolist() == [270]
    assert not [name for name in arrays if name.startswith("stopped")]
    assert names == {"monitor", "test_loss"}


def test_the_recent_mean_is_over_the_last_tenth_of_the_arrivals():
    arrays = {"k": np.arange(1, 31), "order": np.arange(30), "look_k": np.array([30])}
    loss = np.random.default_rng(0).random(30)
    arrays |= {
        "stopped_k": np.arange(11, 31),
        "test_loss": loss,
        "stopped_test_loss": 1 + loss[10:],
    }
    arrays |= {"final_test_loss": loss, "stopped_final_test_loss": loss}
    looks = {"effective": [9.0], "trend": [0.5], "stop": [True], "loss_variance_seen": [1.0]}
    looks |= {name: np.ones((1, 3)) for name in ("loss_variance", "law", "exceedance")}
    found = report.summarise(arrays | looks, 1e-3)["test_loss"]
    np.testing.assert_allclose(found["recent_all"], (loss[27] + loss[28] + loss[29]) / 3)
    np.testing.assert_allclose(found["recent_stopped"], 1 + found["recent_all"])


@pytest.mark.slow
def test_what_is_printed_follows_from_the_summary(stopped, unstopped):
    summary, never = stopped[3], unstopped[3]
    text = report.text(summary)
    k, entry = summary["stopped_k"], summary["test_accuracy"]
    assert f"stopped at k = {k} of 270 ({k / 270:.1%})" in text
    row = next(line.split() for line in text.splitlines() if line.strip().startswith("accuracy"))
    assert row[1:4] == [f"{entry[name]:.2%}" for name in ("all", "at_stop", "stopped")]
    for name, gap, shown, verdict in (
        ("test_accuracy", -0.03, "-3 ± 1 points", "a cost"),
        ("test_accuracy", 0.03, "+3 ± 1 points", "a gain"),
        ("test_accuracy", 0.019, "+1.9 ± 1 points", "no clear difference"),
        ("test_loss", 0.03, "+0.03 ± 0.01 nats", "a cost"),
        ("test_loss", -0.03, "-0.03 ± 0.01 nats", "a gain"),
    ):
        scores = summary[name] | {"difference": gap, "difference_sem": 0.01}
        lines = report.text(summary | {name: scores}).splitlines()
        (line,) = (line for line in lines if line.strip().startswith(name.removeprefix("test_")))
        assert shown in line
        assert verdict in line
    assert "not stopped by k = 270" in report.text(never)
    assert report.text(never).split()[-1] == f"{never['test_loss']['all']:.4g}"


def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, capsys):
    argv = clouds(tmp_path / "clouds.npz")
    bare = tmp_path / "bare.npz"
    np.savez(bare, inputs=np.zeros((300, 6), np.float32), targets=np.zeros(300, np.int32))
    for more, words in (
        (["--arrivals", "1"], "at least 2"),
        (["--growth", "0.9"], "at least 1"),
        (["--finish", "9"], "constant rate"),
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
