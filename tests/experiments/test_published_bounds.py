"""The bounds against their formulas in exact arithmetic, where they hold and where they do not."""

import itertools
import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import at64, float64, increments64, mlp_apply, mlp_loss
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from experiments.paper import bounds as published
from experiments.paper.bounds import gauss_newton_norms
from jaxscape.lab.models import Model
from jaxscape.quadratic import Quadratic, project, quadratic_delta
from jaxscape.subspace import random_subspace


def log_norm(layers, input_norm, weight_norm):
    sizes = jnp.float32(input_norm), jnp.float32(weight_norm)
    return published.log_hessian_norm(layers, *sizes)


@settings(max_examples=30, deadline=None)
@given(
    layers=st.sampled_from([1, 2, 5]),  # each is a shape
    input_norm=st.fractions(Fraction(1, 8), 64, max_denominator=8),
    weight_norm=st.fractions(Fraction(1, 8), 64, max_denominator=8),
)
def test_hessian_norm_is_the_formula(layers, input_norm, weight_norm):
    square = weight_norm**2
    series = layers if square == 1 else (square**layers - 1) / (square - 1)
    exact = math.sqrt(2) * float(layers * input_norm**2 * square**layers + square * series)
    found = log_norm(layers, input_norm, weight_norm)
    np.testing.assert_allclose(found.published, math.log(exact), rtol=2e-6, atol=2e-6)
    np.testing.assert_allclose(found.corrected, math.log(exact / square), rtol=2e-6, atol=3e-6)


def test_hessian_norm_beyond_the_range_of_floats():
    """L = 50, M_x = 10, M_W = 100: 10^203 (with the series, which is 1e-4 of it over 50·100)."""
    found = log_norm(50, 10, 100)
    exact = math.log(math.sqrt(2) * (50 * 100 + 1 / (1 - 1e-4))) + 200 * math.log(10)
    assert float(found.published) == pytest.approx(exact, rel=1e-6)


def test_no_weights_leave_the_last_layer_only():
    found = log_norm(3, 5, 0)
    assert float(found.published) == -math.inf
    assert float(found.corrected) == pytest.approx(math.log(2) / 2)
    alone = log_norm(1, 5, 0)
    assert float(alone.corrected) == pytest.approx(math.log(26 * math.sqrt(2)), rel=1e-6)


def random_network(seed, scale, n=6):
    """A ReLU network with biases and some samples."""
    rng = np.random.default_rng(seed)
    params = [
        (rng.normal(size=(a, b)) * scale, rng.normal(size=b) * scale)
        for a, b in itertools.pairwise((5, 4, 3, 3))
    ]
    inputs = rng.normal(size=(n, 5)) * rng.choice([0.1, 1, 10])
    data = {"inputs": inputs, "targets": rng.integers(3, size=n)}
    return jax.tree.map(jnp.asarray, (params, data))


MODEL = Model(None, mlp_apply)


@jax.jit
def hessians(params, data):
    """∇²ℓ_i of every sample, [n, P, P]."""
    flat, unravel = ravel_pytree(params)

    def one(sample):
        batch = jax.tree.map(lambda leaf: leaf[None], sample)
        return jax.hessian(lambda w: mlp_loss(unravel(w), batch)[0])(flat)

    return jax.vmap(one)(data)


def norms(params, data):
    """‖∇²ℓ_i‖ and ‖G_i‖ of every sample."""
    whole = np.linalg.norm(np.asarray(hessians(params, data), float), ord=2, axis=(1, 2))
    return whole, np.asarray(gauss_newton_norms(MODEL, params, data))


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0.1, 0.5, 2])
@pytest.mark.parametrize("seed", range(10))
def test_the_corrected_norm_bounds_random_networks_with_biases(seed, scale):
    params, data = random_network(seed, scale)
    sizes = published.network_constants(params, data["inputs"])
    limit = float(jnp.exp(log_norm(len(params), *sizes).corrected)) * (1 + 1e-5)
    whole, newton = norms(params, data)
    assert newton.max() <= limit
    if float(sizes[1]) >= 1:
        assert whole.max() <= limit


def test_the_published_norm_is_exceeded_by_small_weights():
    """Softmax regression at W = 0.1·I: ‖G‖ ≈ ‖x‖²/3, the published bound √2·0.01(‖x‖² + 1)."""
    params = [(0.1 * jnp.eye(3), jnp.zeros(3))]
    data = {"inputs": jnp.asarray([[1.0, 2.0, 2.0]]), "targets": jnp.asarray([0])}
    _, newton = norms(params, data)
    uncorrected, corrected = jnp.exp(jnp.stack(log_norm(1, 3, 0.1)))
    assert float(uncorrected) == pytest.approx(math.sqrt(2) * 0.01 * 10, rel=1e-5)
    assert newton[0] > 20 * uncorrected
    assert newton[0] < corrected


def test_network_constants_are_those_of_the_network_without_biases():
    """The folded network gives the same outputs, and NumPy the same norms."""
    params, data = random_network(1, 0.7)
    folded = []
    for i, (w, b) in enumerate(float64(params)):
        matrix = np.vstack([w, b])
        if i < len(params) - 1:
            matrix = np.hstack([matrix, np.eye(len(matrix))[:, -1:]])
        folded.append((matrix, np.zeros(matrix.shape[1])))
    inputs = np.hstack([np.asarray(data["inputs"], float), np.ones((6, 1))])
    outputs = mlp_apply(jax.tree.map(jnp.asarray, folded), jnp.asarray(inputs))
    np.testing.assert_allclose(outputs, mlp_apply(params, data["inputs"]), rtol=1e-4, atol=1e-5)
    input_norm, weight_norm = published.network_constants(params, data["inputs"])
    assert float(input_norm) == pytest.approx(np.linalg.norm(inputs, axis=1).max(), rel=1e-5)
    largest = max(np.linalg.svd(m)[1].max() for m, _ in folded)
    assert float(weight_norm) == pytest.approx(largest, rel=1e-5)


def test_loss_step_is_the_formula():
    k = np.array([1, 10, 60_000])
    found = published.log_loss_step(k, jnp.float32(3.0), jnp.float32(math.log(7)), 0.5)
    np.testing.assert_allclose(np.exp(found), 2 / (k + 1) * (3 + 7 * 0.25), rtol=2e-6)
    at_minimum = published.log_loss_step(k, jnp.float32(3.0), jnp.float32(math.log(7)), 0.0)
    np.testing.assert_allclose(np.exp(at_minimum), 6 / (k + 1), rtol=2e-6)


def test_loss_step_holds_for_logistic_regression_away_from_any_minimum():
    """Curvature is at most ‖x‖²/4 everywhere, and no gradient at w* is zero."""
    rng = np.random.default_rng(3)
    inputs, origin, radius = rng.normal(size=(40, 4)), rng.normal(size=4), 3.0
    steps = rng.normal(size=(200, 4))
    steps *= radius / np.linalg.norm(steps, axis=1, keepdims=True)
    rows = np.logaddexp(0, -(origin + np.vstack([np.zeros(4), steps])) @ inputs.T)
    curved = (inputs**2).sum(1).max() / 4
    limit = published.log_loss_step(np.arange(1, 40), rows[0].max(), math.log(curved), radius)
    assert np.all(np.abs(increments64(rows)) <= np.exp(limit) * (1 + 1e-5))


def test_loss_step_is_exceeded_where_losses_are_negative():
    """ℓ_i = ±w at w* = 0: no loss, no curvature, yet L_2 − L_1 = −w."""
    losses_at_one = increments64([[1.0, -1.0]])[0, 0]
    limit = published.log_loss_step(np.array([1]), jnp.float32(0), jnp.float32(-np.inf), 1.0)
    assert abs(losses_at_one) > math.exp(float(limit[0]))


def test_loss_step_is_exceeded_where_losses_have_kinks():
    """ℓ_1 = |w|, ℓ_2 = 0 at w* = 0: no loss, no curvature off the kink, yet L_2 − L_1 = −R/2."""
    at_the_rim = increments64([[2.0, 0.0]])[0, 0]
    limit = published.log_loss_step(np.array([1]), jnp.float32(0), jnp.float32(-np.inf), 2.0)
    assert abs(at_the_rim) > math.exp(float(limit[0]))


def test_sample_constants_are_the_maxima():
    rng = np.random.default_rng(4)
    hessian = rng.normal(size=(30, 3, 3))
    hessian = hessian + hessian.swapaxes(1, 2) - 2 * np.eye(3)  # the largest are negative
    model = Quadratic(*map(jnp.asarray, (rng.normal(size=30), rng.normal(size=(30, 3)), hessian)))
    loss, slope, bend = map(float, published.sample_constants(model))
    assert loss == pytest.approx(np.abs(model.value).max())
    assert slope == pytest.approx(np.sqrt((model.gradient**2).sum(1)).max())
    largest = np.linalg.norm(hessian, ord=2, axis=(1, 2)).max()
    assert bend == pytest.approx(largest, rel=1e-5)
    assert np.linalg.eigvalsh(hessian).max() < largest


def test_rate_is_the_formula():
    """M_ℓ = 2, M_g = 3 and M_H = 4 of a sample in five directions."""
    gradient, hessian = 3 * jnp.eye(1, 5), -4 * jnp.eye(5)[None]
    k = np.array([1, 7, 60_000])
    found = published.rate(k, 0.1, Quadratic(jnp.array([2.0]), gradient, hessian))
    parts = 12 * 4, 3 * 0.01 * 9, 3 * 1e-4 * 35 * 16
    np.testing.assert_allclose(found.published, sum(parts) / (k + 1.0) ** 2, rtol=1e-6)
    expected = (sum(parts) + 9 * 0.01 * 9) / (k + 1.0) ** 2
    np.testing.assert_allclose(found.corrected, expected, rtol=1e-6)


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    scales=st.tuples(*[st.sampled_from([0.0, 0.1, 1.0])] * 3),
    sigma=st.sampled_from([0.1, 1.0, 3.0]),
)
def test_the_corrected_rate_bounds_any_quadratic_model(seed, scales, sigma):
    rng = np.random.default_rng(seed)
    shapes = (12,), (12, 2), (12, 2, 2)
    parts = [s * rng.choice([-1, 1], size=z) for s, z in zip(scales, shapes, strict=True)]
    parts[2] = parts[2] + parts[2].swapaxes(1, 2)
    model = Quadratic(*(jnp.asarray(part, jnp.float32) for part in parts))
    limit = published.rate(jnp.arange(1, 12), sigma, model).corrected
    assert np.all(quadratic_delta(model, sigma).total <= limit * (1 + 1e-5))


def test_the_published_rate_is_exceeded_by_opposite_gradients():
    """ℓ_i = ±w: Δ_1 = σ², the published bound (3/4)σ²."""
    model = Quadratic(jnp.zeros(2), jnp.asarray([[1.0], [-1.0]]), jnp.zeros((2, 1, 1)))
    exact = float(quadratic_delta(model, 1.0).total[0])
    assert exact == pytest.approx(1)
    found = published.rate(jnp.arange(1, 2), 1.0, model)
    assert float(found.published[0]) == pytest.approx(0.75)
    assert exact < float(found.corrected[0])


@pytest.mark.slow
def test_the_rate_bounds_a_network_close_to_its_origin():
    params, data = random_network(1, 0.7, n=30)
    space = random_subspace(jax.random.key(0), params, 3)
    model = project(mlp_loss, space, data)
    steps = 1e-3 * np.random.default_rng(5).normal(size=(50, 3))
    evaluate = jax.jit(mlp_loss)
    rows = [evaluate(jax.tree.map(jnp.asarray, at64(space, t)), data) for t in steps]
    measured = np.mean(increments64(rows) ** 2, 0)
    looseness = published.rate(np.arange(1, 30), 1e-3, model).corrected / measured
    assert looseness.min() >= 1
