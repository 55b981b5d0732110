import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import increments64

from experiments.common import problem as problems
from experiments.paper import unraveling
from experiments.paper.bench import Bench, PaperConfig
from experiments.paper.unraveling import exponential
from jaxscape import InputError, losses
from jaxscape.lab import models, train

WIDTHS = (2, 5)


def build(hidden, layers=2, num_outputs=4):
    return models.build("mlp", num_outputs=num_outputs, hidden=hidden, layers=layers, bias=False)


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
    initial = unraveling.stacked_initial(build, WIDTHS, keys, data["inputs"])
    options = {"epochs": 3, "batch_size": 16, "learning_rate": 0.01}
    loss = losses.supervised(build(max(WIDTHS)).apply)
    together = train.fit(keys, loss, initial, data, together=2, **options)
    for row, width in enumerate(WIDTHS):
        shapes = jax.eval_shape(build(width).init, keys[0], data["inputs"])
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
    stacked = unraveling.stacked_initial(build, (60, 150), keys, inputs)
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
    law = unraveling.first_order_law(unraveling.deviation(values[None]), 6, k)
    root = np.sqrt(values.var(ddof=1) / k / (k + 1))
    assert (law <= mean * (1 + 1e-12)).all()
    assert (mean <= root).all()
    np.testing.assert_allclose(law[-1], mean[-1], rtol=1e-12)
    assert law[0] < 0.99 * mean[0]


def test_means_over_orders_are_those_of_the_orders():
    values = np.random.default_rng(0).exponential(size=(3, 40)).astype(np.float32)
    values[1] = 1.7  # all losses equal: exactly 0
    key = jax.random.key(1)
    got = unraveling.over_orders(jax.random.split(key, 5), jnp.asarray(values))
    orders = [np.asarray(jax.random.permutation(child, 40)) for child in jax.random.split(key, 5)]
    each = np.stack([increments64(values[:, order]) for order in orders])
    rows = np.array([0, 2])
    np.testing.assert_allclose(got[rows], abs(each).mean(0)[rows], rtol=1e-5, atol=1e-9)
    assert not np.any(got[1])
    assert unraveling.deviation(values)[1] == 0


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


def test_the_figure_of_features(tmp_path):
    given = bench(tmp_path, classes, epochs=5)
    found = unraveling.unraveling(given)
    assert found.arrays["increment"].shape == (1, 2, 149)
    wide, narrow = found.summary["networks"]
    assert [(e["depth"], e["width"]) for e in (wide, narrow)] == [(1, 5), (1, 2)]
    assert wide["train_accuracy"] > 0.5
    for entry in (wide, narrow):
        assert abs(entry["level_over_law"] - 1) < 0.1
        assert entry["published_over_law"] > 2 * entry["smoothed_over_law"]
    assert set(found.figures) == {"increments", "increments-as-published"}
    rows = [row[:4] for row in found.summary["tables"][0][1:]]
    assert rows == [
        ["1", str(e["width"]), f"{e['train_loss']:.3g}", f"{e['train_accuracy']:.1%}"]
        for e in (wide, narrow)
    ]


def test_inputs_go_from_minus_one_to_one(tmp_path):
    given = bench(tmp_path, classes, epochs=0)
    samples = unraveling.task_of(given.problem.samples)
    assert (samples["inputs"].min(), samples["inputs"].max()) == (-1, 1)
    initial = np.float64(given.problem.samples["inputs"])
    span = initial.max() - initial.min()
    want = 2 * (initial - initial.min()) / span - 1
    np.testing.assert_allclose(samples["inputs"], want, atol=1e-6)
    losses, _ = unraveling.trained(given)
    keys = jax.random.split(jax.random.fold_in(given.problem.keys["init"], 1), 2)
    only = partial(build, layers=1, num_outputs=3)
    w = unraveling.stacked_initial(only, (5, 2), keys, samples["inputs"])  # no epochs
    hidden = np.maximum(np.float64(samples["inputs"]) @ w["Dense_0"]["kernel"][1], 0)
    outputs = hidden @ w["Dense_1"]["kernel"][1]
    right = outputs[np.arange(150), samples["targets"]]
    np.testing.assert_allclose(losses[0, 1], np.log(np.exp(outputs).sum(1)) - right, rtol=1e-4)


def test_measures_are_over_the_law():
    k = np.arange(1, 300)
    curve = {"increment": 0.4 / (k + 1), "smoothed": 0.4 / (k + 1), "published": 2 / (k + 1)}
    for scale in (0, 1):
        law = unraveling.first_order_law(0.4 * 299 / 300 * scale, 300, k)
        found = unraveling.measures(law, {name: scale * x for name, x in curve.items()})
        over = [found[f"{name}_over_law"] for name in ("level", "smoothed", "published")]
        np.testing.assert_allclose(found["level"], 0.4 * scale)
        if scale:
            np.testing.assert_allclose(over, [1, 1, 5])
            np.testing.assert_allclose(found["exponent"], 1, atol=0.01)
        else:
            assert over == [None] * 3


def test_inputs_that_are_all_equal_are_refused():
    with pytest.raises(InputError, match="expected inputs that differ"):
        unraveling.task_of({"inputs": jnp.ones((9, 4)), "targets": jnp.zeros(9, int)})


K = np.arange(1, 60_001)
EXACT = (1 / (K + 1.0)).astype(np.float32)


def loop64(values, beta, *, as_published):
    """The definitions, in float64, value after value."""
    found, k = [], np.arange(1, len(values) + 1)
    for last in k:
        if as_published:
            weights = (1 - beta) * beta ** (last - k[:last]) * np.where(k[:last] == 1, 0, 1)
            weights[0] = beta ** (last - 1)
            found.append(weights @ values[:last])
        else:
            weights = beta ** (last - k[:last])
            scaled = values[:last] * (k[:last] + 1)
            found.append(weights @ scaled / weights.sum() / (last + 1))
    return np.array(found)


@pytest.mark.parametrize("as_published", [False, True])
def test_averages_are_those_of_the_definition(as_published):
    values = np.random.default_rng(0).exponential(size=(2, 3, 70)).astype(np.float32)
    found = exponential(values, beta=0.8, as_published=as_published)
    assert found.shape == values.shape
    for row, want in zip(found.reshape(6, 70), values.astype(float).reshape(6, 70), strict=True):
        np.testing.assert_allclose(row, loop64(want, 0.8, as_published=as_published), rtol=1e-5)


@pytest.mark.parametrize("beta", [0.0, 0.99, 0.9999])
def test_an_exact_curve_is_its_own_average_at_every_k(beta):
    assert abs(np.asarray(exponential(EXACT, beta=beta)) / EXACT - 1).max() < 1e-3


def test_as_published_an_exact_curve_is_20_times_too_high_at_100():
    found = np.asarray(exponential(EXACT, as_published=True)) / EXACT
    assert 20 < found[99] < 21
    assert found[0] == 1
    # averaging y/(k+1) and multiplying back weighs y itself, as Adam does: that is not enough
    found = np.asarray(exponential(EXACT / (K + 1))) * (K + 1) / EXACT
    assert found[99] > 2
