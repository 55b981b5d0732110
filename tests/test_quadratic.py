import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import law64, mlp_loss, mlp_problem

import jaxscape as js
from jaxscape import quadratic
from jaxscape.quadratic import Quadratic, project, quadratic_delta

pytestmark = pytest.mark.usefixtures("optimised")
KEY = jax.random.key(0)
N, P, D = 97, 6, 3


def logistic_loss(params, batch):
    return jnp.logaddexp(0, -batch["y"] * (batch["x"] @ params))


def linear_loss(params, batch):
    return 0.5 * (batch["x"] @ params - batch["y"]) ** 2


def regression(kind):
    """Data, parameters, loss, and ℓ, ∇ℓ, ∇²ℓ of every sample in float64 NumPy."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(N, P)).astype(np.float32)
    params = (0.3 * rng.normal(size=P)).astype(np.float32)
    if kind == "linear":
        y = rng.normal(size=N).astype(np.float32)
        residual = x.astype(float) @ params.astype(float) - y
        value, slope, bend = 0.5 * residual**2, residual, np.ones(N)
        loss = linear_loss
    else:
        y = np.sign(rng.normal(size=N)).astype(np.float32)
        margin = y * (x.astype(float) @ params.astype(float))
        value = np.logaddexp(0, -margin)
        slope = -y / (1 + np.exp(margin))
        bend = 1 / (1 + np.exp(margin)) / (1 + np.exp(-margin))
        loss = logistic_loss
    x64 = x.astype(float)
    gradient = slope[:, None] * x64
    hessian = bend[:, None, None] * x64[:, :, None] * x64[:, None, :]
    data = {"x": jnp.asarray(x), "y": jnp.asarray(y)}
    return loss, jnp.asarray(params), data, (value, gradient, hessian)


def subspace(params):
    basis = np.linalg.qr(np.random.default_rng(2).normal(size=(P, D)))[0].T
    return js.Subspace(params, jnp.asarray(basis, jnp.float32))


@pytest.mark.parametrize("kind", ["linear", "logistic"])
@pytest.mark.parametrize("batch_size", [1, 7, 97])
def test_project_matches_closed_forms(kind, batch_size):
    loss, params, data, (value, gradient, hessian) = regression(kind)
    space = subspace(params)
    basis = np.asarray(space.basis, np.float64)
    got = project(loss, space, data, batch_size=batch_size)
    np.testing.assert_allclose(got.value, value, rtol=1e-5)
    np.testing.assert_allclose(got.gradient, gradient @ basis.T, rtol=1e-5, atol=1e-6)
    want = np.einsum("dp,npq,eq->nde", basis, hessian, basis)
    np.testing.assert_allclose(got.hessian, want, rtol=1e-5, atol=1e-6)


def test_project_matches_the_full_hessian_of_a_network():
    params, data = mlp_problem(n=5)
    space = js.random_subspace(KEY, params, 4)
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    rows = np.concatenate([np.reshape(x, (4, -1)) for x in jax.tree.leaves(space.basis)], 1)
    hessian = jax.jit(jax.jacfwd(jax.jacrev(lambda x: mlp_loss(unravel(x), data))))(flat)
    got = project(mlp_loss, space, data)
    want = np.einsum("dp,npq,eq->nde", rows, hessian, rows)
    np.testing.assert_allclose(got.hessian, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())


def test_the_law_matches_a_float64_loop_for_one_sigma_and_for_many():
    loss, params, data, _ = regression("logistic")
    model = project(loss, subspace(params), data)
    sigmas = (0.0, 0.01, 1.0, 3.0)
    many, one = quadratic_delta(model, jnp.array(sigmas)), quadratic_delta(model, 1.0)
    for part, alone in zip(many, one, strict=True):
        assert part.shape == (4, N - 1)
        np.testing.assert_allclose(part[2], alone, rtol=1e-6)
    for row, sigma in enumerate(sigmas):
        for part, want in zip(many, law64(model, sigma), strict=True):
            close = {"rtol": 1e-5, "atol": 1e-6 * np.abs(want).mean()}
            np.testing.assert_allclose(part[row], want, **close)


@pytest.mark.parametrize("sigma", [0.01, 3.0])
def test_segment_by_segment_it_is_the_same_law(sigma):
    loss, params, data, _ = regression("logistic")
    model, parts = project(loss, subspace(params), data), []
    carry = quadratic.begin(D)
    for start, skip in ((0, 0), (40, 0), (57, 23)):  # the last overlaps the one before
        segment = jax.tree.map(lambda x, a=start: x[a : a + 40], model)
        carry, part = quadratic.advance(carry, segment, jnp.float32(sigma), skip)
        parts.append(jnp.stack(part)[:, skip:])
    law = np.concatenate(parts, 1)[:, 1:]
    for got, want in zip(law, law64(model, sigma), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6 * np.abs(want).mean())


@pytest.mark.parametrize("sigma", [-0.1, np.nan, np.inf, [0.1, -1.0]])
def test_a_sigma_that_is_no_standard_deviation_is_refused(sigma):
    model = Quadratic(jnp.ones(3), jnp.ones((3, 1)), jnp.ones((3, 1, 1)))
    with pytest.raises(js.InputError, match="finite sigma of at least 0"):
        quadratic_delta(model, np.asarray(sigma))
    traced = jax.jit(quadratic_delta)(model, jnp.abs(jnp.asarray(0.5)))
    np.testing.assert_allclose(traced.total, quadratic_delta(model, 0.5).total)


def moments64(model, coordinates):
    """δ_k at given points of the quadratic model, in float64."""
    c, g, h = (np.asarray(x, np.float64) for x in model)
    theta = np.asarray(coordinates, np.float64)
    ell = c + theta @ g.T + 0.5 * np.einsum("md,nde,me->mn", theta, h, theta)
    mean = np.cumsum(ell, 1) / np.arange(1, ell.shape[1] + 1)
    return mean[:, 1:] - mean[:, :-1]


@pytest.mark.parametrize("sigma", [0.05, 1.0])
def test_the_law_is_monte_carlo_of_a_quadratic_loss(sigma):
    """Linear regression is its own quadratic model: law and Monte-Carlo differ by chance alone."""
    loss, params, data, _ = regression("linear")
    space = subspace(params)
    probe = js.gaussian(KEY, space, 4096, sigma)
    curve = js.delta(loss, probe, data, point_batch=512)
    law = quadratic_delta(project(loss, space, data), sigma)
    steps = moments64(project(loss, space, data), probe.coordinates)
    np.testing.assert_allclose(curve.mean, (steps**2).mean(0), rtol=1e-5)
    distance = (np.asarray(curve.mean) - np.asarray(law.total)) / np.asarray(curve.sem)
    assert np.sqrt((distance**2).mean()) < 2
    assert np.abs(distance).max() < 5
    np.testing.assert_allclose(curve.mean.sum(), law.total.sum(), rtol=0.05)
    np.testing.assert_allclose(curve.centered.sum(), law.centered.sum(), rtol=0.05)


def test_gauss_hermite_quadrature_of_one_dimension_is_exact():
    """E δ² of a quartic polynomial by five nodes, which integrate degree nine exactly."""
    model = Quadratic(*(jnp.asarray(np.random.default_rng(3).normal(size=s), jnp.float32)
                        for s in ((9,), (9, 1), (9, 1, 1))))  # fmt: skip
    nodes, weights = np.polynomial.hermite_e.hermegauss(5)
    weights = weights / weights.sum()
    steps = moments64(model, 0.7 * nodes[:, None])
    law = quadratic_delta(model, 0.7)
    np.testing.assert_allclose(law.total, weights @ steps**2, rtol=1e-5)
    np.testing.assert_allclose(law.centered, weights @ (steps - weights @ steps) ** 2, rtol=1e-4)


def test_bad_input_is_refused():
    loss, params, data, _ = regression("linear")
    with pytest.raises(js.InputError, match="one loss per sample"):
        project(lambda p, b: loss(p, b).sum(), subspace(params), data)
    with pytest.raises(js.InputError, match="chunk size"):
        project(loss, subspace(params), data, batch_size=0)
