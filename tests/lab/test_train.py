import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxscape import losses
from jaxscape.lab import train
from jaxscape.types import InputError


def linear(params, inputs):
    return inputs @ params["w"] + params["b"]


squared = losses.supervised(linear, losses.squared_error)


def regression(n=37, f=3):
    """A least-squares problem and its exact solution."""
    draw = np.random.default_rng(0)
    inputs = draw.normal(size=(n, f)).astype(np.float32)
    targets = (inputs @ [[1.0], [-2.0], [0.5]] + 3 + 0.1 * draw.normal(size=(n, 1))).astype("f4")
    padded = np.c_[inputs, np.ones(n)].astype(np.float64)
    solution = np.linalg.lstsq(padded, targets, rcond=None)[0]
    start = {"w": jnp.zeros((f, 1)), "b": jnp.zeros(1)}
    return start, {"inputs": jnp.asarray(inputs), "targets": jnp.asarray(targets)}, solution


def fit(start, data, **changes):
    settings = {"epochs": 3, "batch_size": 8, "learning_rate": 0.05, "key": jax.random.key(1)}
    return train.fit(squared, start, data, **settings | changes)


def test_full_batch_training_finds_the_least_squares_solution():
    start, data, solution = regression()
    trained = fit(start, data, epochs=600, batch_size=37)
    found = np.r_[trained.params["w"], trained.params["b"][None]]
    np.testing.assert_allclose(found, solution, atol=1e-3)
    assert trained.epoch_losses.shape == (600,)
    assert trained.epoch_losses[0] > 100 * trained.epoch_losses[-1]


@pytest.mark.parametrize("batch_size", [1, 5, 8, 37, 100])
def test_epoch_equals_a_plain_numpy_loop_of_adam(batch_size):
    """Fresh permutation, ⌈n/b⌉ near-equal batches, the last one of what is left, Adam's formula."""
    start, data, _ = regression()
    key, rate, n = jax.random.key(5), 0.05, 37
    optimizer = optax.adam(rate)
    run = train.epoch(squared, optimizer, batch_size=batch_size)
    state, mean = jax.jit(run)(train.State(start, optimizer.init(start)), key, data)

    order = np.asarray(jax.random.permutation(key, n))
    inputs = np.c_[np.float64(data["inputs"]), np.ones(n)][order]
    targets = np.float64(data["targets"])[order]
    count = -(-n // batch_size)
    size = -(-n // count)
    w, m, v, total = np.zeros((4, 1)), 0.0, 0.0, 0.0
    for t, first in enumerate(range(0, n, size), start=1):
        x, y = inputs[first : first + size], targets[first : first + size]
        error = x @ w - y
        total += 0.5 * np.sum(error**2)
        gradient = x.T @ error / len(x)
        m = 0.9 * m + 0.1 * gradient
        v = 0.999 * v + 0.001 * gradient**2
        w = w - rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    np.testing.assert_allclose(np.r_[state.params["w"], state.params["b"][None]], w, rtol=1e-3)
    np.testing.assert_allclose(mean, total / n, rtol=1e-4)


def test_same_key_is_bit_identical_and_another_key_differs():
    start, data, _ = regression()
    first, again, other = (fit(start, data, key=jax.random.key(seed)) for seed in (1, 1, 2))
    assert jax.tree.all(jax.tree.map(np.array_equal, first, again))
    assert not np.array_equal(first.params["w"], other.params["w"])
    assert not np.array_equal(start["w"], first.params["w"])


def test_epochs_are_reported_and_differ_in_their_order():
    start, data, _ = regression()
    seen = []
    trained = fit(start, data, on_epoch=lambda number, mean, w: seen.append((number, mean)))
    assert [number for number, _ in seen] == [1, 2, 3]
    np.testing.assert_array_equal(np.float32([mean for _, mean in seen]), trained.epoch_losses)
    assert fit(start, data, epochs=0).epoch_losses.shape == (0,)


def test_many_networks_side_by_side_equal_each_alone():
    _, data, _ = regression()
    optimizer = optax.adam(0.05)
    run = train.epoch(squared, optimizer, batch_size=8)
    keys = jax.random.split(jax.random.key(0), 4)
    starts = jax.vmap(lambda key: {"w": jax.random.normal(key, (3, 1)), "b": jnp.zeros(1)})(keys)
    states = train.State(starts, jax.vmap(optimizer.init)(starts))
    together, means = jax.jit(jax.vmap(run, (0, 0, None)))(states, keys, data)
    for i in range(4):
        alone, mean = run(jax.tree.map(lambda leaf, i=i: leaf[i], states), keys[i], data)
        np.testing.assert_allclose(together.params["w"][i], alone.params["w"], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(means[i], mean, rtol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 4, 10, 37, 99])
def test_accuracy_and_mean_loss_equal_numpy(batch_size):
    draw = np.random.default_rng(1)
    params = {"w": draw.normal(size=(3, 5)).astype("f4"), "b": draw.normal(size=5).astype("f4")}
    inputs = draw.normal(size=(37, 3)).astype("f4")
    targets = draw.integers(0, 5, 37)
    outputs = np.float64(inputs) @ np.float64(params["w"]) + params["b"]
    found = train.accuracy(linear, params, inputs, targets, batch_size=batch_size)
    np.testing.assert_allclose(found, np.mean(outputs.argmax(1) == targets), rtol=1e-6)
    loss = losses.supervised(linear)
    data = {"inputs": inputs, "targets": targets}
    expected = np.mean(np.log(np.exp(outputs).sum(1)) - outputs[np.arange(37), targets])
    found = train.mean_loss(loss, params, data, batch_size=batch_size)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_sequence_is_right_where_every_token_is_that_counts():
    draw = np.random.default_rng(2)
    outputs = draw.normal(size=(500, 4, 3)).astype("f4")
    targets = np.where(draw.random((500, 4)) < 0.5, -1, draw.integers(0, 3, (500, 4)))
    expected = [
        all(y < 0 or z.argmax() == y for z, y in zip(*row, strict=True))
        for row in zip(outputs, targets, strict=True)
    ]
    assert 0 < sum(expected) < 500
    np.testing.assert_array_equal(train.correct(jnp.asarray(outputs), targets), expected)
    found = train.accuracy(lambda params, x: x, {}, outputs, targets, batch_size=7)
    np.testing.assert_allclose(found, np.mean(expected), rtol=1e-6)


def test_overflow_says_which_epoch_and_what_to_do():
    start, data, _ = regression()
    with pytest.raises(InputError, match=r"epoch [123] of 3 .*--learning-rate 1e\+30; lower it"):
        fit(start, data, learning_rate=1e30)


def test_overflow_in_the_very_last_step_is_seen():
    start, data, _ = regression()

    def steep(params, batch):  # finite at the start, its gradient infinite
        return jnp.sqrt(jnp.abs(squared(params, batch) * params["w"][0, 0]))

    with pytest.raises(InputError, match=r"parameters that are not finite .*epoch 1 of 1"):
        train.fit(
            steep, start, data, epochs=1, batch_size=37, learning_rate=0.1, key=jax.random.key(0)
        )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"epochs": -1}, "epochs, found -1"),
        ({"batch_size": 0}, "at least 1, found 0"),
        ({"learning_rate": 0.0}, "learning rate above 0, found 0.0"),
        ({"learning_rate": float("nan")}, "learning rate above 0, found nan"),
    ],
)
def test_bad_settings_are_refused(changes, said):
    start, data, _ = regression()
    with pytest.raises(InputError, match=said):
        fit(start, data, **changes)


def test_loss_that_is_already_a_mean_is_refused():
    start, data, _ = regression()
    settings = {"epochs": 1, "batch_size": 8, "learning_rate": 0.1, "key": jax.random.key(0)}
    with pytest.raises(InputError, match="one loss per sample"):
        train.fit(lambda p, b: squared(p, b).mean(), start, data, **settings)
