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
from experiments.common import cli, prepare, problem
from experiments.refit import __main__ as refit
from experiments.refit import measure, prediction, report
from jaxscape.lab import checkpoint

pytestmark = pytest.mark.usefixtures("in_haste")


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
        *("--epochs", "2", "--learning-rate", "0.02", "--batch-size", "8", "--k-min", "10"),
        *("--num-ks", "5", "--repeats", "3", "--dim", "3", "--points", "6"),
        *("--sigmas", "0.01", "0.5", "--shares", "1", "0.3", "0.1"),
    ]


@pytest.fixture(scope="module")
def finished(flags, tmp_path_factory):
    """A run of the command in this process."""
    out = tmp_path_factory.mktemp("runs") / "run"
    with drawing.coarsely():
        assert refit.main([*flags, "--out", str(out)]) == 0
    assert drawing.drawn(out) == {"networks", "distance", "sizes", "overlap"}
    with np.load(out / "results.npz", allow_pickle=False) as arrays:
        return out, dict(arrays), json.loads((out / "summary.json").read_text())


def restored(flags, out):
    """The problem, its networks [K], and the directions, from the run's checkpoint."""
    config = cli.parse("refit", refit.RefitConfig, flags)
    found = problem.load(config)
    stacked = jax.tree.map(lambda x: np.zeros((5, *x.shape), x.dtype), found.initial)
    store = out / "checkpoint"
    networks = checkpoint.restore(store, "refitted", {"params": stacked})["params"]
    last = jax.tree.map(lambda x: x[-1], networks)
    return found, networks, prepare.directions(found, last, "hessian", config.dim, store)


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


def test_the_losses_of_the_run_are_those_of_its_networks(flags, finished):
    out, arrays, summary = finished
    found, networks, _ = restored(flags, out)
    data = found.dataset
    assert arrays["k"].tolist() == [10, 23, 53, 122, 280]
    assert arrays["orders"].shape == (3, 280)
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
    assert summary["steps"] == 2 * 35


def test_the_landscape_of_the_run_is_a_float64_loop(flags, finished):
    out, arrays, _ = finished
    found, _, directions = restored(flags, out)
    for row in range(2):
        losses = [
            losses64(at64(directions.space, theta), found.samples)
            for theta in arrays["coordinates"][row]
        ]
        variance = np.mean([np.var(values, ddof=1) for values in losses])
        np.testing.assert_allclose(arrays["loss_variance"][row, 1], variance, rtol=1e-4)
        points = [at64(directions.space, theta) for theta in arrays["coordinates"][row]]
        new = np.mean([np.var(losses64(w, found.fresh.samples), ddof=1) for w in points])
        np.testing.assert_allclose(arrays["fresh_variance"][row, 1], new, rtol=1e-4)
        for repeat, order in enumerate(arrays["orders"]):
            for column, k in enumerate(arrays["k"][:-1]):
                gaps = [values.mean() - values[order[:k]].mean() for values in losses]
                measured = arrays["distance"][row, repeat, column]
                np.testing.assert_allclose(measured, np.mean(np.square(gaps)), rtol=1e-3)
                shape = arrays["distance_centered"][row, repeat, column]
                np.testing.assert_allclose(shape, np.var(gaps, ddof=1), rtol=2e-3)
    assert not arrays["distance"][:, :, -1].any()


def test_the_overlaps_are_those_of_the_dense_hessians(flags, finished):
    out, arrays, _ = finished
    found, networks, directions = restored(flags, out)
    basis = [
        np.asarray(x, np.float64).reshape(3, -1) for x in jax.tree.leaves(directions.space.basis)
    ]
    reference = np.concatenate(basis, 1)
    last = jax.tree.map(lambda x: x[-1], networks)
    flat, unravel = jax.flatten_util.ravel_pytree(last)
    seen = lambda k: jnp.arange(280) < k  # noqa: E731
    hessian = jax.jit(
        jax.hessian(lambda w, k: jnp.mean(found.loss(unravel(w), found.samples), where=seen(k)))
    )
    for row in (1, 3):
        params = jax.tree.map(lambda x, row=row: x[row], networks)
        points = {"refitted": jax.flatten_util.ravel_pytree(params)[0], "fixed": flat}
        for where, point in points.items():
            dense = np.asarray(hessian(point, arrays["k"][row]), np.float64)
            values, vectors = np.linalg.eigh(dense)
            top = vectors[:, ::-1][:, :3].T
            expected = np.sum((top @ reference.T) ** 2) / 3
            np.testing.assert_allclose(arrays[f"overlap_{where}"][row], expected, atol=5e-3)
            found_values = arrays[f"eigenvalues_{where}"][row]
            np.testing.assert_allclose(found_values, values[::-1][:3], rtol=2e-3)


def test_the_sizes_of_the_summary_follow_from_the_arrays(finished):
    _, arrays, summary = finished
    k = arrays["k"]
    loss = arrays["test_loss"][:, -1].astype(np.float64)
    excess = (loss - loss[:, -1:]).mean(0)
    for row, entry in enumerate(summary["sigmas"]):
        right = []
        for share, size in zip((1, 0.3, 0.1), entry["sizes"], strict=True):
            epsilon = share * loss[:, -1].mean()
            np.testing.assert_allclose(size["epsilon"], epsilon)
            variance = arrays["loss_variance"][row, 1]
            law = [variance * (1 / j - 1 / 280) for j in range(1, 281)]
            size_law = 1 + next(i for i, x in enumerate(law) if x < epsilon**2)
            assert size["k_epsilon"] == size_law
            last = max((i for i in range(5) if excess[i] >= epsilon), default=-1)
            low = int(k[last]) if last >= 0 else 0
            assert size["networks"] == [low, int(k[last + 1])]
            if 0 < low < k[-2]:
                right.append(low / 2 <= size_law <= 2 * k[last + 1])
        assert entry["predicts"] == (all(right) if right else None)
    verdicts = [
        e["predicts"] for key in ("sigmas", "sigmas_lowest", "sigmas_fresh") for e in summary[key]
    ]
    words = {True: "yes", False: "no", None: "cannot tell"}
    assert [row[4] for row in report.verdict_table(summary)[1:]] == [words[v] for v in verdicts]


def test_what_new_samples_say_comes_from_new_samples(finished):
    """E_q S² of the test split at the points of the landscape, and K_ε from it."""
    _, arrays, summary = finished
    assert not np.allclose(arrays["fresh_variance"], arrays["loss_variance"], rtol=1e-2)
    for row, entry in enumerate(summary["sigmas_fresh"]):
        variance = arrays["fresh_variance"][row, 1]
        for size in entry["sizes"]:
            law = [variance * (1 / j - 1 / 280) for j in range(1, 281)]
            expected = 1 + next(i for i, x in enumerate(law) if x < size["epsilon"] ** 2)
            assert size["k_epsilon"] == expected


def test_the_lowest_test_loss_is_judged_as_the_last(finished):
    _, arrays, summary = finished
    lowest = arrays["test_loss"].min(1).astype(np.float64)
    excess = (lowest - lowest[:, -1:]).mean(0)
    for size in summary["sigmas_lowest"][0]["sizes"]:
        np.testing.assert_allclose(size["epsilon"], size["share"] * lowest[:, -1].mean())
        exceeds = [
            0,
            *(int(k) for k, x in zip(arrays["k"], excess, strict=True) if x >= size["epsilon"]),
        ]
        assert size["networks"][0] == exceeds[-1]


def test_bad_input_is_one_line_and_leaves_nothing(flags, tmp_path, capsys):
    bare = tmp_path / "bare.npz"
    np.savez(bare, inputs=np.zeros((300, 6), np.float32), targets=np.zeros(300, np.int32))
    for more, words in (
        (["--k-min", "280"], "below --k-max"),
        (["--num-ks", "1"], "at least 2"),
        (["--repeats", "0"], "at least 1"),
        (["--epochs", "0"], "--epochs of at least 1"),
        (["--together", "0"], "at least 1"),
        (["--shares", "0"], "above 0"),
        (["--sigmas", "nan"], "above 0"),
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
    found = measure.orders(problem.load(config), config)
    np.testing.assert_array_equal(found, np.tile(np.arange(280), (3, 1)))


def test_distances_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    losses, order = rng.gamma(0.3, size=(4, 9)).astype(np.float32), rng.permutation(9)
    found = prediction.distances(losses, order, np.array([1, 4, 9]))
    for column, k in enumerate((1, 4, 9)):
        gaps = []
        for row in losses.astype(np.float64):
            gaps.append(sum(row) / 9 - sum(row[i] for i in order[:k]) / k)
        squares = [gap**2 for gap in gaps]
        shape = sum((gap - sum(gaps) / 4) ** 2 for gap in gaps) / 3
        np.testing.assert_allclose(found["distance"][column], sum(squares) / 4, atol=1e-30)
        np.testing.assert_allclose(found["distance_centered"][column], shape, atol=1e-30)
        np.testing.assert_allclose(found["distance_sem"][column], np.std(squares) / 3**0.5)


def test_the_bracket_ends_one_past_the_last_exceedance():
    k, excess = np.array([10, 20, 40, 80]), np.array([5.0, 0.5, 2.0, 0.0])
    assert prediction.bracket(k, excess, 1.0) == (40, 80)
    assert prediction.bracket(k, excess, 2.1) == (10, 20)
    assert prediction.bracket(k, excess, 6.0) == (0, 10)
    assert prediction.bracket(k, excess, 0.5) == (40, 80)
    sizes = {30: 1.0, 40: 1.0, 20: 1.0, 19: 0.95, 80: 2.0}
    for size, miss in sizes.items():
        assert prediction.factor(size, prediction.Bracket(19 if size == 20 else 20, 40)) == miss


def test_a_loss_that_is_no_number_has_no_bracket():
    k = np.array([10, 20, 40])
    for excess, words in (
        ([1.0, np.nan, 0.0], r"NaN at k = \[20\]"),
        ([np.nan, np.nan, np.nan], "lower --learning-rate"),
    ):
        with pytest.raises(js.InputError, match=words):
            prediction.bracket(k, np.array(excess), 0.5)
    with pytest.raises(js.InputError, match="an ε above"):
        prediction.bracket(k, np.array([1.0, 0.5, 0.0]), 0.0)


def test_an_endless_level_needs_all_samples():
    levels = np.array([[1.0, 4.0, np.inf]], np.float32)
    found = prediction.k_epsilon(levels, np.array([0.1]), 1000)
    assert found[0, 0].tolist() == [91, 286, 1000]  # S²/(ε² + S²/n) < k
