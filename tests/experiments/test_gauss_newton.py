"""Per-sample Gauss-Newton norms against closed forms and dense float64 matrices."""

import jax
import jax.numpy as jnp
import numpy as np
from cases import float64, mlp_apply, mlp_problem

from experiments.paper.bounds import gauss_newton_norms
from jaxscape.lab.models import Model

NETWORK = Model(None, mlp_apply)
LINEAR = Model(None, lambda params, inputs: inputs @ params["weight"] + params["bias"])


def curvature64(outputs):
    """diag(p) − p pᵀ of every sample."""
    weights = np.exp(outputs - outputs.max(-1, keepdims=True))
    p = weights / weights.sum(-1, keepdims=True)
    return np.einsum("ia,ab->iab", p, np.eye(p.shape[1])) - p[:, :, None] * p[:, None]


def dense_norms64(params, data):
    """‖JᵀHJ‖ of every sample from the [P, P] matrix, with the Jacobian by hand."""
    params, data = float64(params), float64(data)
    norms = []
    for x in data["inputs"]:
        inputs, z = [], x
        for i, (w, b) in enumerate(params):
            inputs.append(z)
            z = z @ w + b
            z = np.maximum(z, 0) if i < len(params) - 1 else z
        back, columns = np.eye(len(z)), []
        for i, (w, _) in reversed(list(enumerate(params))):
            columns += [back, np.einsum("a,sb->sab", inputs[i], back).reshape(len(z), -1)]
            back = back @ w.T * (inputs[i] > 0)
        jacobian = np.concatenate(columns, 1)
        norms.append(np.abs(np.linalg.eigvalsh(jacobian.T @ curvature64(z[None])[0] @ jacobian)))
    return np.max(norms, 1)


def test_a_network_against_the_dense_matrix():
    params, data = mlp_problem(n=13)
    got = gauss_newton_norms(NETWORK, params, data)
    np.testing.assert_allclose(got, dense_norms64(params, data), rtol=2e-5)


def test_a_sample_that_is_surely_right_keeps_its_digits():
    params, data = mlp_problem(n=13)
    params[-1] = (params[-1][0] * 8, params[-1][1])
    data["targets"] = mlp_apply(params, data["inputs"]).argmax(1)
    expected = dense_norms64(params, data)
    assert expected.min() < 1e-3 * expected.max()
    got = gauss_newton_norms(NETWORK, params, data)
    np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_softmax_regression_in_closed_form():
    """G_i = (diag p − p pᵀ) ⊗ (x, 1)(x, 1)ᵀ, so ‖G_i‖ = ‖diag p − p pᵀ‖ (‖x‖² + 1)."""
    rng = np.random.default_rng(0)
    data = {"inputs": rng.normal(size=(20, 6)), "targets": rng.integers(4, size=20)}
    params = {"weight": rng.normal(size=(6, 4)), "bias": rng.normal(size=4)}
    outputs = data["inputs"] @ params["weight"] + params["bias"]
    curved = np.linalg.norm(curvature64(outputs), ord=2, axis=(1, 2))
    expected = curved * ((data["inputs"] ** 2).sum(1) + 1)
    got = gauss_newton_norms(LINEAR, *jax.tree.map(jnp.asarray, (params, data)))
    np.testing.assert_allclose(got, expected, rtol=1e-5)
