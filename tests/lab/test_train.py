"""Training, against Adam written out in NumPy and least squares."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxscape import losses
from jaxscape.lab import stream, train
from jaxscape.types import InputError

RATE = 0.05
N = 37
KS = (5, 20, 37)


def linear(params, inputs):
    return inputs @ params["w"] + params["b"]


squared = losses.supervised(linear, losses.squared_error)


def regression(n=N, f=3):
    """A least-squares problem and its exact solution."""
    draw = np.random.default_rng(0)
    inputs = draw.normal(size=(n, f)).astype(np.float32)
    targets = (inputs @ [[1.0], [-2.0], [0.5]] + 3 + 0.1 * draw.normal(size=(n, 1))).astype("f4")
    padded = np.c_[inputs, np.ones(n)].astype(np.float64)
    solution = np.linalg.lstsq(padded, targets, rcond=None)[0]
    start = {"w": jnp.zeros((f, 1)), "b": jnp.zeros(1)}
    return start, {"inputs": jnp.asarray(inputs), "targets": jnp.asarray(targets)}, solution


def networks(num):
    """Stacked starts of ``num`` networks."""
    return {"w": jax.random.normal(jax.random.key(7), (num, 3, 1)), "b": jnp.zeros((num, 1))}


def fit(start, data, key=None, **changes):
    settings = {"epochs": 3, "batch_size": 8, "learning_rate": RATE}
    key = jax.random.key(1) if key is None else key
    return train.fit(key, squared, start, data, **settings | changes)


def weights(params, *row):
    """The columns of inputs' weights and of the bias, one below the other."""
    return np.concatenate([np.ravel(params["w"][row]), np.ravel(params["b"][row])])[:, None]


def adam64(w, data, batches):
    """Adam's formula on the mean loss of each batch of rows, and the mean loss of all of them."""
    inputs = np.c_[np.float64(data["inputs"]), np.ones(N)]
    m, v, seen = 0.0, 0.0, []
    for t, rows in enumerate(batches, start=1):
        error = inputs[rows] @ w - np.float64(data["targets"])[rows]
        seen.extend(0.5 * error**2)
        gradient = inputs[rows].T @ error / len(rows)
        m = 0.9 * m + 0.1 * gradient
        v = 0.999 * v + 0.001 * gradient**2
        w = w - RATE * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return w, np.mean(seen)


def shuffled64(key, batch_size):
    """A fresh permutation in ⌈n / b⌉ near-equal batches, the last one of what is left."""
    order = np.asarray(jax.random.permutation(key, N))
    size = -(-N // -(-N // batch_size))
    return [order[first : first + size] for first in range(0, N, size)]


def drawn64(key, k, batch_size):
    """As many batches, each drawn with replacement from the first k."""
    keys = jax.random.split(key, -(-N // batch_size))
    return [np.asarray(jax.random.randint(key, (batch_size,), 0, k)) for key in keys]


def test_full_batch_training_finds_the_least_squares_solution():
    start, data, solution = regression()
    trained = fit(start, data, epochs=600, batch_size=N)
    np.testing.assert_allclose(weights(trained.params), solution, atol=1e-3)
    assert trained.epoch_losses.shape == (600,)
    assert trained.epoch_losses[0] > 100 * trained.epoch_losses[-1]


def test_weight_decay_finds_the_minimum_of_ridge_regression():
    start, data, _ = regression()
    decay = 0.1
    trained = fit(start, data, epochs=1500, batch_size=N, weight_decay=decay)
    x = np.c_[np.asarray(data["inputs"], np.float64), np.ones(N)]
    y = np.asarray(data["targets"], np.float64)
    ridge = np.linalg.solve(x.T @ x / N + decay * np.eye(4), x.T @ y / N)
    np.testing.assert_allclose(weights(trained.params), ridge, atol=1e-3)


@pytest.mark.parametrize("batch_size", [1, 5, 8, 100])
def test_an_epoch_equals_a_plain_numpy_loop_of_adam(batch_size):
    start, data, _ = regression()
    key = jax.random.key(5)
    found = fit(start, data, key, epochs=1, batch_size=batch_size)
    (epoch_key,) = jax.random.split(key, 1)
    w, mean = adam64(np.zeros((4, 1)), data, shuffled64(epoch_key, batch_size))
    np.testing.assert_allclose(weights(found.params), w, rtol=1e-3)
    np.testing.assert_allclose(found.epoch_losses, [mean], rtol=1e-4)


@pytest.mark.usefixtures("optimised")
@pytest.mark.parametrize("piece", [16, 4000])
def test_samples_read_piece_by_piece_train_the_same_network_bit_for_bit(piece, monkeypatch):
    monkeypatch.setattr(train, "PIECE", piece)
    start, data, _ = regression()
    host, asked = jax.tree.map(np.asarray, data), []

    def read(rows):
        asked.append(len(rows))
        return stream.take(host, rows)

    found = fit(start, stream.Stored(N, read), weight_decay=0.01)
    expected = fit(start, data, weight_decay=0.01)
    jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)
    np.testing.assert_allclose(found.epoch_losses, expected.epoch_losses, rtol=1e-6)
    assert max(asked) <= max(8, piece)


def test_same_key_is_bit_identical_and_another_key_differs():
    start, data, _ = regression()
    first, again, other = (fit(start, data, jax.random.key(seed)) for seed in (1, 1, 2))
    assert jax.tree.all(jax.tree.map(np.array_equal, first, again))
    assert not np.array_equal(first.params["w"], other.params["w"])
    assert not np.array_equal(start["w"], first.params["w"])


def test_epochs_are_reported_with_their_parameters():
    start, data, _ = regression()
    seen = []
    trained = fit(start, data, on_epoch=lambda number, params: seen.append((number, params)))
    assert [number for number, _ in seen] == [1, 2, 3]
    assert jax.tree.all(jax.tree.map(np.array_equal, seen[-1][1], trained.params))
    assert len({float(params["b"][0]) for _, params in seen}) == 3
    assert fit(start, data, epochs=0).epoch_losses.shape == (0,)


@pytest.mark.parametrize("together", [1, 2, None])
def test_many_networks_side_by_side_equal_each_alone(together):
    _, data, _ = regression()
    starts, keys = networks(4), jax.random.split(jax.random.key(0), 4)
    found = fit(starts, data, keys, together=together)
    assert found.epoch_losses.shape == (3, 4)
    for r in range(4):
        alone = fit(jax.tree.map(lambda leaf, r=r: leaf[r], starts), data, keys[r])
        np.testing.assert_allclose(
            weights(found.params, r), weights(alone.params), rtol=1e-4, atol=1e-6
        )
        np.testing.assert_allclose(found.epoch_losses[:, r], alone.epoch_losses, rtol=1e-5)


@pytest.mark.parametrize("together", [1, 3])
def test_each_network_on_its_first_k_samples_equals_adam_on_these(together):
    _, data, _ = regression()
    starts, keys = networks(3), jnp.stack([jax.random.key(3)] * 3)
    found = fit(starts, data, keys, ks=KS, epochs=2, together=together)
    epoch_keys = jax.random.split(jax.random.key(3), 2)
    for r, k in enumerate(KS):
        batches = [rows for key in epoch_keys for rows in drawn64(key, k, 8)]
        assert max(map(max, batches)) < k
        w, _ = adam64(np.float64(weights(starts, r)), data, batches)
        np.testing.assert_allclose(weights(found.params, r), w, rtol=1e-3, atol=1e-5)


def test_no_sample_from_k_on_is_read():
    _, data, _ = regression()
    starts, keys = networks(3), jax.random.split(jax.random.key(3), 3)
    found = fit(starts, data, keys, ks=KS)
    changed = {
        "inputs": data["inputs"].at[KS[1] :].multiply(-50.0),
        "targets": data["targets"].at[KS[1] :].set(0),
    }
    other = fit(starts, changed, keys, ks=KS)
    for a, b in zip(jax.tree.leaves(found.params), jax.tree.leaves(other.params), strict=True):
        np.testing.assert_array_equal(a[:2], b[:2])
        assert not np.array_equal(a[2], b[2])


def test_networks_whose_state_fits_the_cache_are_trained_together():
    small = {"w": jnp.zeros((50, 1000))}
    large = {"w": jnp.zeros((3, train.CACHE // 4))}
    assert train.group_size("cpu", small) == 50
    assert train.group_size("cpu", large) == 1
    assert train.group_size("gpu", large) == 3


@pytest.mark.parametrize("batch_size", [1, 10, 99])
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


def test_a_sequence_is_correct_where_every_token_is_that_counts():
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


def test_divergence_says_where_and_what_to_do():
    start, data, _ = regression()
    with pytest.raises(InputError, match=r"NaN .*epoch [123] of 3 .*--learning-rate 1e\+30; lower"):
        fit(start, data, learning_rate=1e30)
    starts, keys = networks(3), jax.random.split(jax.random.key(3), 3)
    bad = data | {"inputs": data["inputs"].at[20:].set(jnp.nan)}
    with pytest.raises(InputError, match="3 of 3 networks in epoch 1 of 3"):
        fit(starts, bad, keys)
    with pytest.raises(InputError, match="the networks of k = 37 in"):
        fit(starts, bad, keys, ks=KS)


def test_overflow_in_the_very_last_step_is_seen():
    start, data, _ = regression()

    def steep(params, batch):  # finite at the start, its gradient infinite
        return jnp.sqrt(jnp.abs(squared(params, batch) * params["w"][0, 0]))

    key, settings = jax.random.key(0), {"epochs": 1, "batch_size": N, "learning_rate": 0.1}
    with pytest.raises(InputError, match=r"losses and parameters.*epoch 1 of 1"):
        train.fit(key, steep, start, data, **settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": -1}, "epochs, found -1"),
        ({"batch_size": 0}, "at least 1, found 0"),
        ({"learning_rate": 0.0}, "learning rate above 0, found 0.0"),
        ({"learning_rate": float("nan")}, "learning rate above 0, found nan"),
        ({"schedule": "linear"}, "constant, cosine, found"),
        ({"finish": -1}, "steps of L-BFGS, found -1"),
        ({"together": 0}, "together of at least 1, found 0"),
        ({"ks": [38]}, r"1 values? of k from 1 to 37, .*found \[38\]"),
        ({"ks": [0]}, r"1 values? of k from 1 to 37, .*found \[0\]"),
        ({"ks": [3, 4]}, r"1 values? of k from 1 to 37, .*found \[3, 4\]"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    start, data, _ = regression()
    with pytest.raises(InputError, match=message):
        fit(start, data, **changes)


def test_a_network_per_key_and_a_loss_per_sample_are_asked_for():
    start, data, _ = regression()
    keys = jax.random.split(jax.random.key(0), 4)
    with pytest.raises(InputError, match="of 4 networks, one per key"):
        fit(networks(3), data, keys)
    settings = {"epochs": 1, "batch_size": 8, "learning_rate": 0.1}
    with pytest.raises(InputError, match="one loss per sample"):
        train.fit(keys[0], lambda p, b: squared(p, b).mean(), start, data, **settings)


def test_a_schedule_ends_at_zero():
    """In one full batch a step: the steps are those of Adam with rates that fall as a cosine."""
    start, data, _ = regression()
    found = fit(start, data, epochs=9, batch_size=N, schedule="cosine", weight_decay=0.1)
    inputs, w, m, v = np.c_[np.float64(data["inputs"]), np.ones(N)], np.zeros((4, 1)), 0.0, 0.0
    for t in range(1, 10):
        gradient = inputs.T @ (inputs @ w - np.float64(data["targets"])) / N + 0.1 * w
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        rate = RATE * (1 + np.cos(np.pi * (t - 1) / 9)) / 2
        w = w - rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    np.testing.assert_allclose(weights(found.params), w, rtol=1e-4)


def test_a_finish_ends_at_the_minimum_of_each_network(monkeypatch):
    """Of ridge regression on the first k samples, where the chunks do not divide k."""
    monkeypatch.setattr(train, "CHUNK", 10)
    _, data, _ = regression()
    settings = {"epochs": 1, "weight_decay": 0.1, "ks": np.array(KS)}
    keys, start, visited = jax.random.split(jax.random.key(3), 3), networks(3), []
    for finish in (0, 50):
        found = fit(start, data, keys, finish=finish, **settings,
                    on_epoch=lambda number, params: visited.append((number, params)))  # fmt: skip
        for row, k in enumerate(KS):
            x = np.c_[np.float64(data["inputs"]), np.ones(N)][:k]
            y, w = np.float64(data["targets"])[:k], np.float64(weights(found.params, row))
            gradient = np.linalg.norm(x.T @ (x @ w - y) / k + 0.1 * w)
            if finish == 0:
                np.testing.assert_allclose(found.gradient_norm[row], gradient, rtol=1e-4)
            else:
                want = np.linalg.solve(x.T @ x / k + 0.1 * np.eye(4), x.T @ y / k)
                np.testing.assert_allclose(w, want, atol=1e-5)
                assert found.gradient_norm[row] < 1e-5
    assert [number for number, _ in visited] == [1, 1, 2]
    np.testing.assert_array_equal(visited[-1][1]["w"], found.params["w"])


def test_a_finish_of_one_network_is_that_of_all_samples():
    start, data, solution = regression()
    found = fit(start, data, finish=50)
    np.testing.assert_allclose(weights(found.params), solution, atol=1e-4)
    assert found.gradient_norm.shape == ()


def test_stored_samples_train_one_network():
    _, data, _ = regression()
    stored = stream.Stored(N, lambda rows: stream.take(jax.tree.map(np.asarray, data), rows))
    keys, starts = jax.random.split(jax.random.key(1), 2), networks(2)
    with pytest.raises(InputError, match="one network, no ks and no finish"):
        fit(starts, stored, keys)
