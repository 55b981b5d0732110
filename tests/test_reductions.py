"""Curves from points in groups, against float64 NumPy and the closed form of linear regression."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import at64, increments64, mlp_loss, mlp_losses64, mlp_problem
from scipy.stats import t

import jaxscape as js
from jaxscape.probes import SubspaceProbe

KEY = jax.random.key(5)
N, D, M, R = 20, 3, 64, 8
SIGMA, RUNS = 0.1, 400


def test_errors_come_from_the_means_over_groups():
    params, data = mlp_problem(n=60)
    probe = js.sobol(KEY, js.random_subspace(KEY, params, 4), 16, 1.0, randomisations=4)
    rows = np.stack([mlp_losses64(at64(probe.space, x), data) for x in probe.coordinates])
    steps = increments64(rows)
    squares, means = (x.reshape(4, 4, -1).mean(1) for x in (steps**2, steps))
    got = js.delta(mlp_loss, probe, data, batch_size=7, point_batch=5)
    np.testing.assert_allclose(got.mean, (steps**2).mean(0), rtol=1e-5)
    np.testing.assert_allclose(got.sem, squares.std(0, ddof=1) / 2, rtol=1e-3)
    pairs = [means[r] * means[s] for r in range(4) for s in range(4) if r != s]
    shape = (steps**2).mean(0) - np.mean(pairs, 0)
    np.testing.assert_allclose(got.centered, shape, rtol=1e-3, atol=1e-5 * shape.mean())
    np.testing.assert_allclose(got.first_order, abs(steps).mean(0), rtol=1e-5)


def test_groups_of_one_point_are_independent_points():
    params, data = mlp_problem(n=60)
    alone = js.gaussian(KEY, js.random_subspace(KEY, params, 4), 9, 1.0)
    grouped = SubspaceProbe(alone.space, alone.coordinates, groups=9)
    for a, b in zip(
        js.delta(mlp_loss, alone, data), js.delta(mlp_loss, grouped, data), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4)


def regression():
    """A loss that is quadratic in w, its data, and its Δ_k and centered delta in float64."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(N, D)).astype(np.float32), rng.normal(size=N).astype(np.float32)
    a, b, h = (
        increments64(v.reshape(N, -1).T).T.reshape(N - 1, *v.shape[1:])
        for v in (y**2 / 2.0, -y[:, None] * x, x[:, :, None] * x[:, None, :])
    )
    trace, square = np.trace(h, axis1=1, axis2=2), (h**2).sum((1, 2))
    slope = SIGMA**2 * (b**2).sum(1)
    law = a**2 + SIGMA**2 * a * trace + slope + SIGMA**4 / 4 * (2 * square + trace**2)
    loss = lambda w, batch: (batch["x"] @ w - batch["y"]) ** 2 / 2  # noqa: E731
    data = {"x": jnp.asarray(x), "y": jnp.asarray(y)}
    return loss, data, law, slope + SIGMA**4 / 2 * square


@pytest.fixture(scope="module")
def runs():
    """Curves of many keys, by Sobol' points and by independent ones, beside the truth."""
    loss, data, law, shape = regression()
    space = js.Subspace(jnp.zeros(D), jnp.eye(D))

    def curve(draw):
        one = lambda key: js.delta(loss, draw(key, space, M, SIGMA), data)  # noqa: E731
        found = jax.jit(jax.vmap(one))(jax.random.split(KEY, RUNS))
        return jax.tree.map(lambda x: np.asarray(x, np.float64), found)

    return curve(js.sobol), curve(js.gaussian), law, shape


def test_mean_and_shape_are_unbiased(runs):
    sobol, _, law, shape = runs
    for values, truth in ((sobol.mean, law), (sobol.centered, shape)):
        error = values.std(0, ddof=1) / np.sqrt(RUNS)
        assert (abs(values.mean(0) - truth) < 4 * error).all()
        assert (error < 0.01 * truth).all()


def test_the_standard_error_is_that_of_repeated_runs(runs):
    sobol, _, law, _ = runs
    spread = sobol.mean.std(0, ddof=1)
    np.testing.assert_allclose(np.sqrt((sobol.sem**2).mean(0)), spread, rtol=0.15)
    hit = abs(sobol.mean - law) < t.ppf(0.95, R - 1) * sobol.sem
    assert (abs(hit.mean(0) - 0.9) < 0.07).all()


def test_sobol_points_leave_a_smaller_error(runs):
    sobol, gaussian, law, _ = runs
    errors = [np.sqrt(((curve.mean - law) ** 2).mean(0)) for curve in (sobol, gaussian)]
    assert (errors[0] < 0.7 * errors[1]).all()
