"""The command that refits networks, against float64 NumPy and dense Hessians.

What it concludes, on numbers of which the answer is known.
"""

import json

import drawing
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import at64, float64

import jaxscape as js
from experiments.common import cli, prepare, problem, refits
from experiments.refit import __main__ as refit
from experiments.refit import compare, prediction
from jaxscape.lab import checkpoint, learning_curve


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    """300 samples of three overlapping clouds, and settings for a small network."""
    rng = np.random.default_rng(0)
    targets = rng.integers(3, size=400)
    inputs = (rng.normal(size=(400, 6)) + 1.5 * np.eye(3, 6)[targets]).astype(np.float32)
    path = tmp_path_factory.mktemp("data") / "clouds.npz"
    np.savez(path, inputs=inputs[:300], targets=targets[:300], test_inputs=inputs[300:],
             test_targets=targets[300:])  # fmt: skip
    return [
        *("--dataset", f"npz:{path}", "--k-max", "280", "--hidden", "8", "--layers", "1"),
        *("--epochs", "2", "--learning-rate", "0.02", "--batch-size", "8"),
        *("--num-ks", "9", "--repeats", "2", "--dim", "3", "--points", "6"),
        *("--sigmas", "0.01", "0.5", "--shares", "1", "0.3", "0.1", "--weight-decay", "0.05"),
        *("--schedule", "cosine", "--finish", "30", "--starts", "100", "--lanczos-steps", "60"),
    ]


@pytest.fixture(scope="module")
def finished(flags, tmp_path_factory):
    """A run of the command in this process."""
    out = tmp_path_factory.mktemp("runs") / "run"
    with drawing.coarsely():
        assert refit.main([*flags, "--out", str(out)]) == 0
    assert drawing.drawn(out) == {"networks", "forecasts"}
    with np.load(out / "results.npz", allow_pickle=False) as arrays:
        return out, dict(arrays), json.loads((out / "summary.json").read_text())


def restored(flags, out):
    """The problem, its networks [K], and the directions, from the run's checkpoint."""
    config = cli.parse("refit", refit.RefitConfig, flags)
    found = problem.load(config)
    stacked = jax.tree.map(lambda x: np.zeros((9, *x.shape), x.dtype), found.initial)
    store = out / "checkpoint"
    networks = checkpoint.restore(store, "refitted", {"params": stacked})["params"]
    last = jax.tree.map(lambda x: x[-1], networks)
    space, _ = prepare.eigenspace(found, last, config.dim, store)
    return found, networks, space


def margins64(params, inputs):
    z = np.asarray(inputs, np.float64)
    for i in range(2):
        layer = float64(params[f"Dense_{i}"])
        z = z @ layer["kernel"] + layer["bias"]
        z = np.maximum(z, 0) if i == 0 else z
    return z


def losses64(params, samples):
    """Per-sample cross-entropy in float64 NumPy."""
    z, targets = margins64(params, samples["inputs"]), np.asarray(samples["targets"])
    return np.log(np.exp(z).sum(1)) - z[np.arange(len(z)), targets]


@pytest.mark.slow
def test_the_losses_of_the_run_are_those_of_its_networks(flags, finished):
    out, arrays, summary = finished
    found, networks, _ = restored(flags, out)
    data = found.dataset
    assert arrays["k"].tolist() == [8, 12, 19, 30, 47, 74, 115, 180, 280]  # from 280 / 32
    assert arrays["orders"].shape == (2, 280)
    assert all(sorted(order) == list(range(280)) for order in arrays["orders"])
    for row, k in enumerate(arrays["k"]):
        params = jax.tree.map(lambda x, row=row: x[row], networks)
        own = losses64(params, found.samples)
        np.testing.assert_allclose(arrays["train_loss"][0, row], own[:k].mean(), rtol=1e-4)
        np.testing.assert_allclose(arrays["full_loss"][0, row], own.mean(), rtol=1e-4)
        test = losses64(params, {"inputs": data.test_inputs, "targets": data.test_targets})
        np.testing.assert_allclose(arrays["test_loss"][0, -1, row], test.mean(), rtol=1e-4)
        right = margins64(params, data.test_inputs).argmax(1) == data.test_targets
        np.testing.assert_allclose(arrays["test_accuracy"][0, -1, row], right.mean(), rtol=1e-5)
        entry = summary["networks"][row]
        np.testing.assert_allclose(entry["test_loss"], arrays["test_loss"][:, -1, row].mean())


@pytest.mark.slow
def test_the_landscape_of_the_run_is_a_float64_loop(flags, finished):
    """E_q S² of the samples and of new ones, around the network of all samples."""
    out, arrays, _ = finished
    found, networks, space = restored(flags, out)
    last = jax.tree.map(lambda x: x[-1], networks)
    for row, sigma in enumerate((0.01, 0.5)):
        probe = prepare.probe(found, last, space, 6, sigma)
        points = [at64(space, theta) for theta in probe.coordinates]
        for name, samples in (("loss", found.samples), ("fresh", found.fresh.samples)):
            level = np.mean([np.var(losses64(w, samples), ddof=1) for w in points])
            low, value, high = arrays[f"{name}_variance"][row]
            np.testing.assert_allclose(value, level, rtol=1e-4)
            assert low < value < high


@pytest.mark.slow
def test_the_minima_are_those_of_the_dense_hessians(flags, finished):
    """T from the gradients of all test samples, so without an error."""
    _, arrays, _ = finished
    found, networks, _ = restored(flags, finished[0])
    samples, test = found.samples, found.fresh.samples
    unravel = jax.flatten_util.ravel_pytree(jax.tree.map(lambda x: x[0], networks))[1]
    each = lambda w, data: found.loss(unravel(w), data)  # noqa: E731
    seen = lambda k: jnp.arange(280) < k  # noqa: E731
    mean = lambda w, k: jnp.mean(each(w, samples), where=seen(k))  # noqa: E731
    hessian, slope = jax.jit(jax.hessian(mean)), jax.jit(jax.grad(mean))
    jacobian = jax.jit(jax.jacobian(lambda w: each(w, test)))
    assert arrays["takeuchi_rows"].tolist() == [3, 5, 8]
    for row, k in enumerate(arrays["k"]):
        params = jax.tree.map(lambda x, row=row: x[row], networks)
        w = jax.flatten_util.ravel_pytree(params)[0]
        norm = np.linalg.norm(slope(w, k) + 0.05 * w)
        np.testing.assert_allclose(arrays["gradient_norm"][0, row], norm, rtol=0.1, atol=1e-5)
        own, new = losses64(params, samples)[:k], losses64(params, test)
        np.testing.assert_allclose(
            arrays["gap"][row], new.mean() - own.mean(), rtol=1e-3, atol=1e-5
        )
        error = np.sqrt(own.var() / k + new.var() / 100)
        np.testing.assert_allclose(arrays["gap_sem"][row], error, rtol=1e-3)
        if row in arrays["takeuchi_rows"]:
            place = arrays["takeuchi_rows"].tolist().index(row)
            dense = np.asarray(hessian(w, k), np.float64) + 0.05 * np.eye(len(w))
            covariance = np.cov(np.asarray(jacobian(w), np.float64).T)
            trace = np.trace(np.linalg.solve(dense, covariance))
            np.testing.assert_allclose(arrays["takeuchi_value"][place], trace, rtol=1e-2)
            assert arrays["takeuchi_sem"][place] == 0


def law(level, epsilon, root=False):
    """The smallest k with level·(1/k − 1/280) below ε, or its root."""
    values = level * (1 / np.arange(1, 281) - 1 / 280)
    return 1 + int(np.argmax((np.sqrt(values) if root else values) < epsilon))


@pytest.mark.slow
def test_the_forecasts_of_the_summary_follow_from_the_arrays(finished):
    _, arrays, summary = finished
    k, n = arrays["k"], 280
    loss = arrays["test_loss"][:, -1].astype(np.float64)
    of = {"test loss": loss, "lowest test loss": arrays["test_loss"].astype(np.float64).min(1),
          "test error": 1 - arrays["test_accuracy"][:, -1].astype(np.float64)}  # fmt: skip
    assert set(summary["truth"]) == set(of)
    for name, values in of.items():
        excess = (values - values[:, -1:]).mean(0)
        for share, entry in zip((1, 0.3, 0.1), summary["truth"][name], strict=True):
            np.testing.assert_allclose(entry["epsilon"], share * values[:, -1].mean())
            last = max((i for i in range(9) if excess[i] >= entry["epsilon"]), default=-1)
            assert entry["networks"] == [int(k[last]) if last >= 0 else 0, int(k[last + 1])]
    variance = dict(zip(("K, σ = 0.01", "K, σ = 0.5"), arrays["loss_variance"][:, 1], strict=True))
    fresh = arrays["fresh_variance"][:, 1]
    variance |= dict(zip([f"{name}, new samples" for name in variance], fresh, strict=True))
    traces = dict(zip(k[arrays["takeuchi_rows"]], arrays["takeuchi_value"], strict=True))
    seen = set()
    for entry in summary["forecasts"]:
        truth, factors = summary["truth"][entry["of"]], []
        kind = {"gap curve": loss - arrays["train_loss"]}.get(entry["name"], of[entry["of"]])
        used = k <= entry["samples"]
        for one in truth:
            (low, high), epsilon = one["networks"], one["epsilon"]
            if not max(1, entry["samples"] * (entry["samples"] < n)) <= low < high < n:
                continue
            if entry["name"] in variance:
                sizes = [law(variance[entry["name"]], epsilon, root=True)]
            elif entry["name"] == "minimum's law":
                sizes = [law(traces[entry["samples"]] / 2, epsilon)]
            elif entry["name"].startswith("guess"):
                sizes = [np.sqrt(entry["samples"] * n)]
            else:
                floor = None if entry["name"] == "learning curve" else 0.0
                curves = [learning_curve.fit(jax.random.key(0), k[used], row[None], floor=floor)
                          for row in kind[:, used]]  # fmt: skip
                sizes = [curve.within(epsilon, of=n).interval.value for curve in curves]
            factors += [prediction.factor(size, low, high) for size in sizes]
        np.testing.assert_allclose(entry["factors"], factors, rtol=1e-6)
        if factors:
            seen.add(entry["name"])
            np.testing.assert_allclose(entry["miss"], np.exp(np.mean(np.abs(np.log(factors)))))
            near = [0.499 < factor < 2.001 for factor in factors]
            np.testing.assert_allclose(entry["within"], np.mean(near))
    assert seen == {entry["name"] for entry in summary["forecasts"]}


@pytest.mark.slow
def test_runs_are_compared_by_what_they_found(finished, tmp_path, capsys, monkeypatch):
    """Twice the same run, and one of another weight decay: pooled, and each in its column."""
    out, _, summary = finished
    other = tmp_path / "other"
    other.mkdir()
    changed = summary | {"weight_decay": 0.25}
    for entry in changed["forecasts"]:
        entry["factors"] = [2 * factor for factor in entry["factors"]]
    (other / "summary.json").write_text(json.dumps(changed))
    figure = tmp_path / "drawn" / "all"
    with drawing.coarsely():
        assert compare.main([*map(str, (out, out, other)), "--figure", str(figure)]) == 0
    head, *rows = [line[2:-2].split(" | ") for line in capsys.readouterr().out.splitlines()]
    assert [name.split("/")[-1] for name in head[3:5]] == [
        "clouds.npz, λ = 0.05", "clouds.npz, λ = 0.25"
    ]  # fmt: skip
    row = next(row for row in rows if row[0] == "K, σ = 0.01")
    double = next(e["factors"] for e in changed["forecasts"] if e["name"] == "K, σ = 0.01")
    misses = [np.exp(np.mean(np.abs(np.log(np.array(double) / by)))) for by in (2, 1)]
    assert row[3:5] == [f"{miss:.2g}" for miss in misses]
    assert figure.with_suffix(".png").exists()
    monkeypatch.chdir(tmp_path)
    assert compare.main([str(out)]) == 0
    assert not list(tmp_path.glob("*.p*"))  # no figure unless it is asked for
    assert compare.main([str(tmp_path)]) == 2
    assert "run folders of refit" in capsys.readouterr().err


def test_bad_input_is_one_line_and_leaves_nothing(flags, tmp_path, capsys):
    bare = tmp_path / "bare.npz"
    np.savez(bare, inputs=np.zeros((300, 6), np.float32), targets=np.zeros(300, np.int32))
    for more, words in (
        (["--k-min", "280"], "below --k-max"),
        (["--num-ks", "1"], "at least 2"),
        (["--repeats", "0"], "at least 1"),
        (["--epochs", "0"], "--epochs of at least 1"),
        (["--shares", "0"], "above 0"),
        (["--sigmas", "nan"], "above 0"),
        (["--starts", "1"], "at least 2"),
        (["--dim", "1000"], "from 1 to 83"),
        (["--dataset", f"npz:{bare}"], "test split"),
    ):
        assert refit.main([*flags, *more, "--out", str(tmp_path / "run")]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_an_order_of_the_data_set_stays_in_every_repeat(flags):
    config = cli.parse("refit", refit.RefitConfig, [*flags, "--order", "dataset"])
    found = refits.orders(problem.load(config), 2, 0)
    np.testing.assert_array_equal(found, np.tile(np.arange(280), (2, 1)))


def test_the_bracket_ends_one_past_the_last_exceedance():
    k, excess = np.array([10, 20, 40, 80]), np.array([5.0, 0.5, 2.0, 0.0])
    assert prediction.bracket(k, excess, 1.0) == (40, 80)
    assert prediction.bracket(k, excess, 2.1) == (10, 20)
    assert prediction.bracket(k, excess, 6.0) == (0, 10)
    assert prediction.bracket(k, excess, 0.5) == (40, 80)
    sizes = {30: 1.0, 40: 1.0, 20: 1.0, 19: 0.95, 80: 2.0}
    for size, miss in sizes.items():
        assert prediction.factor(size, 19 if size == 20 else 20, 40) == miss


@pytest.mark.parametrize(
    ("excess", "epsilon", "words"),
    [([1.0, np.nan, 0.0], 0.5, "found excesses .*nan"), ([1.0, 0.5, 0.0], 0.0, "above 0")],
)
def test_a_loss_that_is_no_number_or_0_has_no_bracket(excess, epsilon, words):
    with pytest.raises(js.InputError, match=words):
        prediction.bracket(np.array([10, 20, 40]), np.array(excess), epsilon)


def test_an_endless_level_needs_all_samples():
    k, levels = np.array([10, 100, 1000]), np.array([[1.0, 4.0, np.inf]], np.float32)
    losses = np.ones((1, 1, 3), np.float32)
    arrays = {"k": k, "sigma": [1.0], "loss_variance": levels, "fresh_variance": levels,
              "test_loss": losses, "train_loss": losses[0], "takeuchi_rows": []}  # fmt: skip
    (found, _) = prediction.forecasts(arrays, {"test loss": np.array([0.1])}, 0.0)
    assert found.sizes.tolist() == [[[91, 286, 1000]]]  # S²/(ε² + S²/n) < k
