import cases
import jax
import jax.numpy as jnp
import numpy as np

import jaxscape as js
from experiments.paper import published


def batch_means(row, start=0):
    return [np.mean(row[i : i + 64]) for i in range(start, len(row), 64)]


def test_delta_counts_batches_in_an_order_of_each_points_own():
    rng = np.random.default_rng(0)
    losses = rng.exponential(size=(3, 200)).astype(np.float32)
    key = jax.random.key(5)
    squares = []
    for point_key, row in zip(jax.random.split(key, 3), losses, strict=True):
        means = batch_means(np.asarray(jax.random.permutation(point_key, row), np.float64))
        prefix = [np.mean(means[: k + 1]) for k in range(len(means))]
        squares.append(np.diff(prefix) ** 2)
    found = published.delta(key, jnp.asarray(losses))
    assert found.shape == (3,)
    np.testing.assert_allclose(found, np.mean(squares, 0), rtol=1e-4)


def test_surfaces_draw_batches_anew_for_each_point():
    params, data = cases.mlp_problem(n=200)
    space = js.random_subspace(jax.random.key(1), params, 2)
    probe = js.grid(space, 1.0, 3)
    key = jax.random.key(2)
    loss, step = published.sheets(cases.mlp_loss, probe, data, key, 1)
    for index in range(9):
        rows = np.asarray(jax.random.permutation(jax.random.fold_in(key, index), 200))
        losses = cases.mlp_losses64(cases.at64(space, probe.coordinates[index]), data)[rows]
        first, second = losses[:64].mean(), losses[64:128].mean()
        np.testing.assert_allclose(loss[index], first, rtol=1e-5)
        np.testing.assert_allclose(step[index], (second - first) / 2, rtol=1e-3, atol=1e-6)


def test_the_last_increment_hangs_on_a_random_batch():
    params, data = cases.mlp_problem(n=200)
    probe = js.grid(js.random_subspace(jax.random.key(1), params, 2), 1.0, 3)
    key = jax.random.key(2)
    last = published.sheets(cases.mlp_loss, probe, data, key, 1)[0]
    whole = jnp.linspace(1, 2, 9)
    before = (4 * whole - last) / 3  # four batches, the last of them taken away
    found = published.last_increment(cases.mlp_loss, probe, data, key, whole)
    np.testing.assert_allclose(found, whole - before, rtol=1e-4, atol=1e-6)


def test_theorem_pairs_magnitudes_by_index():
    values, after = np.array([3.0, -5.0, 1.0]), np.array([2.0, -4.0, 2.0])
    change = np.array([4.0, 2.0, 2.0]) - np.array([5.0, 3.0, 1.0])
    expected = (2 * (change**2).sum() + change.sum() ** 2) / 4
    np.testing.assert_allclose(published.theorem(values, after), expected)
    np.testing.assert_array_equal(published.sharp(values), [5, 3, 1])


def test_only_the_first_direction_is_applied():
    points = np.array([[1.0, 2.0], [3.0, 4.0]])
    np.testing.assert_array_equal(published.first_direction(points), [[1, 0], [3, 0]])
