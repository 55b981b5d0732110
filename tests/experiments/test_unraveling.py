import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import increments64

from experiments.common import problem as problems
from experiments.paper import unraveling, unraveling_report
from experiments.paper.bench import Bench, PaperConfig
from jaxscape import InputError, losses
from jaxscape.lab import checkpoint, models, train

WIDTHS = (2, 5)


def build(width, layers=2, num_outputs=4):
    return models.build("mlp", num_outputs=num_outputs, hidden=width, layers=layers, bias=False)


def corner(leaf, row, like):
    """The part of a stacked leaf that is a narrow network's; the rest."""
    inside = np.zeros(leaf.shape[1:], bool)
    inside[tuple(map(slice, like.shape))] = True
    return leaf[row][inside].reshape(like.shape), leaf[row][~inside]


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_without_biases_outputs_are_homogeneous(name):
    model = models.build(name, num_outputs=3, hidden=8, layers=1, bias=False)
    images = jax.random.normal(jax.random.key(0), (5, 4, 4, 1))
    params = model.init(jax.random.key(1), images)
    assert all(list(layer) == ["kernel"] for layer in params.values())
    once, twice = model.apply(params, images), model.apply(params, 2 * images)
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-5, atol=1e-6)


def test_narrow_networks_train_among_wide_ones_as_they_would_alone():
    rng = np.random.default_rng(0)
    targets = rng.integers(4, size=90)
    data = {
        "inputs": jnp.asarray(rng.normal(size=(90, 6)) + 2 * np.eye(4, 6)[targets], jnp.float32),
        "targets": jnp.asarray(targets, jnp.int32),
    }
    keys = jax.random.split(jax.random.key(5), 2)
    initial, sizes = unraveling.stacked_initial(build, WIDTHS, keys, data["inputs"])
    options = {"epochs": 3, "batch_size": 16, "learning_rate": 0.01}
    loss = losses.supervised(build(max(WIDTHS)).apply)
    together = train.fit(keys, loss, initial, data, together=2, **options)
    for row, width in enumerate(WIDTHS):
        shapes = jax.eval_shape(build(width).init, keys[0], data["inputs"])
        assert sizes[row] == sum(leaf.size for leaf in jax.tree.leaves(shapes))
        own = jax.tree.map(lambda leaf, like, row=row: corner(leaf, row, like)[0], initial, shapes)
        alone = train.fit(keys[row], losses.supervised(build(width).apply), own, data, **options)
        np.testing.assert_allclose(
            together.epoch_losses[:, row], alone.epoch_losses, rtol=1e-5, atol=1e-6
        )
        for layer, like in shapes.items():
            stacked = np.asarray(together.params[layer]["kernel"])
            kernel, rest = corner(stacked, row, like["kernel"])
            np.testing.assert_allclose(kernel, alone.params[layer]["kernel"], rtol=1e-4, atol=1e-5)
            assert not np.any(rest)
            moved = abs(kernel - own[layer]["kernel"]).max()
            assert moved > 0.01 or not np.any(kernel), (width, layer)


def test_initial_weights_have_the_standard_deviation_of_lecun():
    keys = jax.random.split(jax.random.key(0), 2)
    inputs = jnp.zeros((1, 50))
    stacked, _ = unraveling.stacked_initial(build, (60, 150), keys, inputs)
    shapes = jax.eval_shape(build(60).init, keys[0], inputs)
    for layer in ("Dense_0", "Dense_1", "Dense_2"):
        kernel, rest = corner(stacked[layer]["kernel"], 0, shapes[layer]["kernel"])
        assert abs(kernel.std() * np.sqrt(kernel.shape[0]) - 1) < 0.1
        assert not np.any(rest)


def test_the_law_bounds_the_mean_of_all_orders_and_meets_it_at_the_end():
    values = np.random.default_rng(3).exponential(size=6) ** 2
    every = np.array(list(itertools.permutations(values)))
    mean = abs(increments64(every)).mean(0)
    k = np.arange(1, 6)
    law = unraveling_report.first_order_law(unraveling_report.deviation(values[None]), 6, k)
    root = np.sqrt(values.var(ddof=1) / k / (k + 1))
    assert (law <= mean * (1 + 1e-12)).all()
    assert (mean <= root).all()
    np.testing.assert_allclose(law[-1], mean[-1], rtol=1e-12)
    assert law[0] < 0.99 * mean[0]


def test_means_over_orders_are_those_of_the_orders():
    values = np.random.default_rng(0).exponential(size=(3, 40)).astype(np.float32)
    values[1] = 1.7  # all losses equal: exactly 0
    key = jax.random.key(1)
    got = unraveling_report.over_orders(key, values, 5)
    orders = [np.asarray(jax.random.permutation(child, 40)) for child in jax.random.split(key, 5)]
    each = np.stack([increments64(values[:, order]) for order in orders])
    rows = np.array([0, 2])
    np.testing.assert_allclose(got.mean[rows], abs(each).mean(0)[rows], rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(got.square[rows], (each**2).mean(0)[rows], rtol=1e-5, atol=1e-12)
    assert not np.any(got.mean[1])
    assert unraveling_report.deviation(values)[1] == 0
    with pytest.raises(InputError, match="over at least 1 order"):
        unraveling_report.over_orders(key, values, 0)


def bench(tmp_path, targets, **settings):
    """Three clouds with features far from [−1, 1]."""
    rng = np.random.default_rng(0)
    inputs = 30 + 5 * (rng.normal(size=(150, 4)) + 3 * np.eye(3, 4)[rng.integers(3, size=150)])
    path = tmp_path / "features.npz"
    arrays = {"inputs": inputs.astype(np.float32), "targets": targets(inputs)}
    np.savez(path, **arrays, **{f"test_{name}": x[:30] for name, x in arrays.items()})
    config = PaperConfig(
        figures=("unraveling",), dataset=f"npz:{path}", k_max=150, layers=0, batch_size=10,
        learning_rate=0.02, widths=(5, 2), depths=(1,), orders=30, **settings,
    )  # fmt: skip
    return Bench(problems.load(config), config, tmp_path / "shared")


def classes(inputs):
    return inputs[:, :3].argmax(1).astype(np.int32)


def test_the_figure_of_features(tmp_path, monkeypatch):
    given = bench(tmp_path, classes, epochs=5)
    found = unraveling.find(given)
    assert found.arrays["increment"].shape == (1, 2, 149)
    wide, narrow = found.summary["networks"]
    assert [(e["depth"], e["width"], e["num_parameters"]) for e in (wide, narrow)] == [
        (1, 5, 4 * 5 + 5 * 3),
        (1, 2, 4 * 2 + 2 * 3),
    ]
    assert wide["train_accuracy"] > 0.5
    for entry in (wide, narrow):
        assert abs(entry["level_over_law"] - 1) < 0.1
        assert entry["published_over_law"] > 2 * entry["smoothed_over_law"]
    assert set(found.figures) == {"increments", "increments-as-published", "levels"}
    assert "mean over 30 orders of 150 samples" in found.summary["seen"]
    monkeypatch.setattr(train, "fit", None)  # the second time from the checkpoint
    again = unraveling.trained(given)
    assert all(again.entries[0][name] == wide[name] for name in again.entries[0])
    np.testing.assert_array_equal(
        unraveling_report.deviation(again.losses), found.arrays["deviation"]
    )


def test_inputs_go_from_minus_one_to_one_and_values_as_targets_have_no_accuracy(tmp_path):
    given = bench(tmp_path, lambda x: x[:, 0].astype(np.float32), epochs=2)
    task = unraveling.of(given.problem)
    assert (task.samples["inputs"].min(), task.samples["inputs"].max()) == (-1, 1)
    initial = np.float64(given.problem.samples["inputs"])
    span = initial.max() - initial.min()
    want = 2 * (np.float64(given.problem.dataset.test_inputs) - initial.min()) / span - 1
    np.testing.assert_allclose(task.tests["inputs"], want, atol=1e-6)
    networks = unraveling.trained(given)
    shapes = {"Dense_0": {"kernel": (2, 4, 5)}, "Dense_1": {"kernel": (2, 5, 1)}}
    like = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
        shapes, is_leaf=lambda x: isinstance(x, tuple),
    )  # fmt: skip
    store = checkpoint.restore(given.store, "unraveling-1", like)
    hidden = np.maximum(np.float64(task.samples["inputs"]) @ store["Dense_0"]["kernel"][1], 0)
    outputs = (hidden @ store["Dense_1"]["kernel"][1])[:, 0]
    targets = np.float64(given.problem.samples["targets"])
    np.testing.assert_allclose(networks.losses[0, 1], 0.5 * (outputs - targets) ** 2, rtol=1e-4)
    assert networks.entries[1]["train_accuracy"] is None
    guess = unraveling_report.constant_guess(given.problem)
    assert guess.guess_accuracy is None
    np.testing.assert_allclose(guess.guess_loss, 0.5 * ((targets - targets.mean()) ** 2).mean())


def test_networks_that_failed_to_train_are_named():
    k = np.arange(1, 300)
    curve = {"increment": 0.4 / (k + 1), "smoothed": 0.4 / (k + 1), "published": 2 / (k + 1)}
    guess = unraveling_report.Guess(1.1, 0.4)
    networks = []
    for width, train_loss, accuracy, scale in (
        (4, 1.1, 0.3, 0),
        (8, 0.5, 0.3, 1),
        (16, 0.5, 0.9, 1),
    ):
        entry = {"depth": 10, "width": width, "train_loss": train_loss, "train_accuracy": accuracy}
        scaled = {name: scale * values for name, values in curve.items()}
        told = unraveling_report.measures(k, 0.4 * 299 / 300 * scale, scaled)
        networks.append(entry | told | {"stuck": guess.beats(entry), "exponent": 1.0})
    assert networks[0]["level_over_law"] is None
    np.testing.assert_allclose(networks[1]["level_over_law"], 1, rtol=1e-6)
    found = {"networks": networks, **guess._asdict(), "late_from": 100, "orders": 3, "beta": 0.99,
             "num_samples": 300, "unit": "nats"}  # fmt: skip
    text = unraveling_report.seen(found)
    assert "2 failed to train" in text
    assert "1.1: 10 layers of 4; 10 layers of 8." in text
    assert "|δ_k| is 0, in 10 layers of 4." in text
    assert "5.0 times" in text


def test_inputs_that_are_all_equal_are_refused(tmp_path):
    given = bench(tmp_path, classes)
    flat = np.ones_like(given.problem.dataset.train_inputs)
    dataset = dataclasses.replace(given.problem.dataset, train_inputs=flat)
    with pytest.raises(InputError, match="expected inputs that differ"):
        unraveling.of(dataclasses.replace(given.problem, dataset=dataset))
