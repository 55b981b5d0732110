from types import SimpleNamespace

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxscape as js
from experiments.paper import bench as benches
from experiments.paper import increments, published, replication


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
    loss, step, last = published.sheets(cases.mlp_loss, probe, data, key, 1)
    for index in range(9):
        rows = np.asarray(jax.random.permutation(jax.random.fold_in(key, index), 200))
        losses = cases.mlp_losses64(cases.at64(space, probe.coordinates[index]), data)[rows]
        first, second = losses[:64].mean(), losses[64:128].mean()
        np.testing.assert_allclose(loss[index], first, rtol=1e-5)
        np.testing.assert_allclose(step[index], (second - first) / 2, rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(last[index], losses[120:128].mean(), rtol=1e-5)


@pytest.mark.parametrize("n", [200, 256])
def test_the_last_step_is_that_of_a_loader_with_a_short_last_batch(n):
    losses = np.random.default_rng(1).exponential(size=(9, n))
    means = np.stack([batch_means(row) for row in losses])
    short = losses[:, 192:].mean(1)
    before, step = published.last_step(losses.mean(1), short, n)
    np.testing.assert_allclose(before, means[:, :-1].mean(1), rtol=1e-6)
    np.testing.assert_allclose(step, means.mean(1) - means[:, :-1].mean(1), rtol=1e-5)


def test_one_direction_alone_is_applied():
    params, data = cases.mlp_problem(n=200)
    space = js.random_subspace(jax.random.key(1), params, 3)
    problem = SimpleNamespace(
        loss=cases.mlp_loss,
        samples=data,
        keys={"probe": jax.random.key(2), "order": jax.random.key(3)},
    )
    bench = SimpleNamespace(
        problem=problem, config=SimpleNamespace(points=4, as_published=True), store=None
    )
    found = increments.measure(bench, increments.Case("", space, 0.5), row=2)
    first = 0.5 * benches.normals(bench, 4, 3)[:, 0]
    rows = [cases.mlp_losses64(cases.at64(space, (theta, 0, 0)), data) for theta in first.tolist()]
    key = jax.random.fold_in(problem.keys["order"], 2)
    expected = published.delta(key, jnp.asarray(np.asarray(rows, np.float32)))
    np.testing.assert_allclose(found.published, expected, rtol=1e-3)
    assert not np.allclose(found.all_directions, expected, rtol=0.1)


def test_theorem_pairs_magnitudes_by_index():
    values, after = np.array([3.0, -5.0, 1.0]), np.array([2.0, -4.0, 2.0])
    change = np.array([4.0, 2.0, 2.0]) - np.array([5.0, 3.0, 1.0])
    expected = (2 * (change**2).sum() + change.sum() ** 2) / 4
    np.testing.assert_allclose(published.theorem(values, after), expected)
    np.testing.assert_array_equal(published.sharp(values), [5, 3, 1])


def test_a_network_trained_as_published_starts_and_sees_what_the_reference_code_gives_it():
    """PyTorch's bounds layer by layer; the first whole batches, scaled by all inputs."""
    params = {"Dense_0": {"kernel": jnp.zeros((400, 300)), "bias": jnp.zeros(300)}}
    drawn = replication.uniform(jax.random.key(0), params)["Dense_0"]
    for name, leaf in drawn.items():
        assert 0.049 < jnp.abs(leaf).max() < 0.05, name
        np.testing.assert_allclose(leaf.std(), 0.05 / np.sqrt(3), rtol=0.1)
    inputs = np.random.default_rng(0).uniform(size=(300, 5)).astype(np.float32)
    dataset = SimpleNamespace(train_inputs=inputs, train_targets=np.arange(300))
    bench = SimpleNamespace(
        problem=SimpleNamespace(dataset=dataset), config=SimpleNamespace(k_max=256)
    )
    samples = replication.standardised(bench)
    expected = (inputs.astype(np.float64) - inputs.mean()) / inputs.std()
    np.testing.assert_allclose(samples["inputs"], expected[:256], rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(samples["targets"], np.arange(256))


def test_levels_of_networks_are_means_of_delta_k2_over_late_k():
    curves = np.random.default_rng(0).exponential(size=(4, 299)).astype(np.float32)
    found = replication.Replication(np.zeros(4), curves[:, :4], curves[:, :4], curves)
    k = np.arange(1, 300)
    expected = [np.mean([k[i] ** 2 * float(row[i]) for i in range(99, 299)]) for row in curves]
    np.testing.assert_allclose(found.levels("corrected"), expected, rtol=1e-6)
