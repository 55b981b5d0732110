"""All 60,000 samples of MNIST: the main command against float64, and what theory says."""

import itertools
import os
from pathlib import Path

import command
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import at64, deltas_in_random_orders
from sweeps import flax_losses64, load, read

import jaxscape as js
from jaxscape import losses, reductions
from jaxscape.lab import data, models, train

FOLDER = os.environ.get("JAXSCAPE_DATA_DIR")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (FOLDER and (Path(FOLDER) / "mnist").is_dir()),
        reason="needs MNIST's four files in $JAXSCAPE_DATA_DIR/mnist",
    ),
]
N, M = 60_000, 8


@pytest.fixture(scope="module")
def seen():
    """Losses of every sample at points around a small network after one epoch, [m, n]."""
    mnist = data.load("mnist", data_dir=FOLDER)
    order = np.random.default_rng(0).permutation(N)
    samples = {
        "inputs": jnp.asarray(mnist.train_inputs[order]),
        "targets": jnp.asarray(mnist.train_targets[order]),
    }
    model = models.build("mlp", num_outputs=10, hidden=32, layers=1)
    loss = losses.supervised(model.apply, losses.cross_entropy)
    initial = model.init(jax.random.key(0), samples["inputs"])
    options = {"epochs": 1, "batch_size": 128, "learning_rate": 1e-3}
    params = train.fit(jax.random.key(1), loss, initial, samples, **options).params
    space = js.random_subspace(jax.random.key(2), params, 10)
    probe = js.gaussian(jax.random.key(3), space, M, 1.0)
    return js.evaluate(loss, probe, samples, reductions.losses(M))


def test_a_monitor_fed_batches_of_64_ends_and_stops_where_it_should(seen):
    tolerance = 3e-7
    watch = js.monitor(num_points=M, tolerance=tolerance)
    batches = seen[:, : N // 64 * 64].reshape(M, -1, 64).swapaxes(0, 1)

    def step(state, batch):
        state = watch.update(state, batch)
        return state, watch.decide(state)

    state, decisions = jax.jit(lambda b: jax.lax.scan(step, watch.init(), b))(batches)
    state = watch.update(state, seen[:, N // 64 * 64 :])
    whole = np.asarray(seen, np.float64)
    found = watch.decide(state).loss_variance.interval.value
    np.testing.assert_allclose(found, whole.var(1, ddof=1).mean(), rtol=1e-5)

    k = np.arange(1, N)
    means = np.cumsum(whole, 1)[:, :-1] / k
    delta = (((whole[:, 1:] - means) / (k + 1)) ** 2).mean(0)
    size = np.flatnonzero(delta >= tolerance)[-1] + 2
    at = int(np.argmax(decisions.stop))
    assert decisions.stop[at]
    assert decisions.exceedance.low.k[at] <= size <= decisions.exceedance.high.k[at]
    assert size <= decisions.num_samples[at] < N


def test_the_mean_over_200_random_orders_is_the_order_law_within_its_error(seen):
    deltas = deltas_in_random_orders(4, seen, 200)
    k = np.arange(1, N)
    level = np.asarray(seen, np.float64).var(1, ddof=1).mean()
    # at a single k a few large losses make the mean of 200 too skewed for a score
    edges = np.geomspace(100, N, 21).astype(int)
    for first, last in itertools.pairwise(edges):
        rows = slice(first - 1, last - 1)
        levels = (deltas[:, rows] * (k * (k + 1.0))[rows]).mean(1)
        assert abs(levels.mean() - level) < 4 * levels.std(ddof=1) / np.sqrt(200)
        assert levels.std(ddof=1) / np.sqrt(200) < 0.1 * level


def test_all_60000_samples_of_mnist(tmp_path):
    """The main job with fewer points: every direction, every k, against float64 NumPy."""
    argv = ["--dataset", "mnist", "--epochs", "1", "--points", "3", "--sigmas", "0.01", "1"]
    command_line = ["-m", "experiments.sweep", *argv, "--out", tmp_path / "run"]
    done = command.process(*command_line, env=command.as_users_have_it())
    assert done.returncode == 0, done.stderr
    arrays, summary = read(tmp_path / "run")
    assert all(summary["eigenvalues_converged"])
    assert summary["hessian_products"] <= 60
    assert (arrays["eigenvalue_residuals"] <= 1e-4 * arrays["eigenvalues"]).all()
    found, (space, *_) = load(argv, tmp_path / "run")
    chosen = np.random.default_rng(0).integers(1, 60_000, 100)
    chosen = np.concatenate([[1, 2, 10, 1000, 59_999], chosen])
    for s in range(2):
        squares = 0
        for theta in arrays["coordinates"][s]:
            ell = flax_losses64(at64(space, theta), found.samples)
            mean = np.cumsum(ell) / np.arange(1, 60_001)
            squares = squares + (mean[1:] - mean[:-1]) ** 2 / 3
        # rounding of a margin is a relative error of a small loss, which 3 points do not average
        np.testing.assert_allclose(arrays["delta"][s][chosen - 1], squares[chosen - 1], rtol=5e-5)
