"""Spectral density against exact moments, trace against its standard error."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxscape.quadrature import spectral_density, trace
from jaxscape.types import InputError

P = 60
SPECTRUM = np.concatenate([np.linspace(-0.5, 0.5, P - 4), [2, 2, 3, 5]])


def rotated(eigenvalues):
    normal = np.random.default_rng(0).normal(size=(len(eigenvalues),) * 2)
    basis, _ = np.linalg.qr(normal)
    return (basis * np.asarray(eigenvalues, float)) @ basis.T


MATRIX = rotated(SPECTRUM)


def operator(matrix):
    return Partial(jnp.matmul, jnp.asarray(matrix, jnp.float32))


def density(matrix, seed=0, num_probes=40, num_steps=8):
    like = jnp.zeros(len(matrix))
    return spectral_density(
        jax.random.key(seed), operator(matrix), like, num_probes=num_probes, num_steps=num_steps
    )


def signs(seed, num_probes):
    keys = jax.random.split(jax.random.key(seed), num_probes)
    return np.asarray(jax.vmap(lambda key: jax.random.rademacher(key, (P,)))(keys), float)


def test_each_rule_is_exact_for_the_moments_of_its_probe():
    """Σ_k w_k θ_kʲ = zᵀHʲz / P for j < 2·num_steps: Gauss quadrature."""
    rule = density(MATRIX, num_probes=4)
    nodes, weights = np.asarray(rule.nodes, float), np.asarray(rule.weights, float)
    probes = signs(0, 4)
    for j in range(16):
        exact = np.einsum("kp,pq,kq->k", probes, np.linalg.matrix_power(MATRIX, j), probes) / P
        np.testing.assert_allclose((weights * nodes**j).sum(1), exact, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_moments_of_the_spectrum_within_their_errors(seed):
    rule = density(MATRIX, seed)
    for j in (1, 2, 3, 4):
        moments = np.sum(np.asarray(rule.weights) * np.asarray(rule.nodes) ** j, axis=1)
        error = np.std(moments, ddof=1) / np.sqrt(len(moments))
        assert abs(moments.mean() - np.mean(SPECTRUM**j)) < 4 * error


@pytest.mark.parametrize("eigenvalues", [np.ones(P), np.zeros(P), np.repeat([0.0, 1, 4], P // 3)])
def test_exhausted_krylov_space(eigenvalues):
    """Weight lies on the distinct eigenvalues only, as much as the probe has in each eigenspace."""
    matrix = rotated(eigenvalues)
    rule = density(matrix, num_probes=3, num_steps=8)
    np.testing.assert_allclose(rule.weights.sum(1), 1, rtol=1e-5)
    for value in np.unique(eigenvalues):
        at = np.abs(np.asarray(rule.nodes) - value) < 1e-5
        filter_ = rotated(eigenvalues == value)
        shares = np.einsum("kp,pq,kq->k", signs(0, 3), filter_, signs(0, 3)) / P
        np.testing.assert_allclose(np.sum(rule.weights * at, 1), shares, atol=1e-4)


def test_smooth_density_of_a_full_rule_is_the_spectrum_itself():
    """For a diagonal matrix every sign vector has weight 1/P in each eigenvector."""
    spectrum = np.linspace(-1, 2, 12)
    rule = density(np.diag(spectrum), num_probes=3, num_steps=12)
    grid = np.linspace(-3, 4, 301)
    kernel = np.exp(-(((grid[:, None] - spectrum) / 0.2) ** 2) / 2) / (0.2 * np.sqrt(2 * np.pi))
    got = rule.smooth(jnp.asarray(grid, jnp.float32), 0.2)
    np.testing.assert_allclose(got.mean, kernel.mean(1), atol=2e-5)
    np.testing.assert_allclose(got.sem, 0, atol=2e-5)
    assert np.trapezoid(got.mean, grid) == pytest.approx(1, abs=1e-4)


def test_smooth_density_within_its_error():
    grid = np.linspace(-1, 6, 50)
    kernel = np.exp(-(((grid[:, None] - SPECTRUM) / 0.5) ** 2) / 2) / (0.5 * np.sqrt(2 * np.pi))
    got = density(MATRIX, num_probes=60, num_steps=20).smooth(jnp.asarray(grid), 0.5)
    scores = (np.asarray(got.mean) - kernel.mean(1)) / (np.asarray(got.sem) + 1e-6)
    assert np.abs(scores).max() < 4
    assert np.asarray(got.sem).max() > 1e-3


def test_trace_is_within_an_error_that_is_neither_too_large_nor_too_small():
    estimates = [
        trace(jax.random.key(seed), operator(MATRIX), jnp.zeros(P), num_probes=50)
        for seed in range(40)
    ]
    scores = np.array([(float(e.mean) - SPECTRUM.sum()) / float(e.sem) for e in estimates])
    assert np.abs(scores).max() < 4
    assert 0.7 < np.sqrt(np.mean(scores**2)) < 1.4
    off_diagonal = MATRIX - np.diag(np.diag(MATRIX))
    theory = np.sqrt(2 * np.sum(off_diagonal**2) / 50)
    assert np.mean([float(e.sem) for e in estimates]) == pytest.approx(theory, rel=0.1)


def test_trace_of_a_diagonal_operator_on_a_pytree_is_exact():
    like = {"a": jnp.zeros((2, 3)), "b": jnp.zeros(4)}
    scales = {"a": jnp.arange(6.0).reshape(2, 3), "b": -jnp.ones(4)}
    found = trace(
        jax.random.key(0), lambda v: jax.tree.map(jnp.multiply, scales, v), like, num_probes=2
    )
    assert float(found.mean) == pytest.approx(11, rel=1e-6)
    assert float(found.sem) == pytest.approx(0, abs=1e-5)


def test_bad_input_is_one_clear_line():
    like, key = jnp.zeros(5), jax.random.key(0)
    for call, message in [
        (lambda: trace(key, jnp.abs, like, num_probes=1), "at least 2 probes"),
        (lambda: trace(key, jnp.abs, jnp.arange(5), num_probes=2), "found int32"),
        (
            lambda: spectral_density(key, jnp.abs, like, num_probes=1, num_steps=2),
            "at least 2 probes",
        ),
        (
            lambda: spectral_density(key, jnp.abs, like, num_probes=2, num_steps=6),
            "num_steps <= 5",
        ),
        (lambda: density(np.eye(5), num_steps=2).smooth(like, 0.0), "width above 0"),
    ]:
        with pytest.raises(InputError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
