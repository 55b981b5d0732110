"""Per-sample Gauss-Newton norms against closed forms and dense float64 matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import float64, mlp_apply, mlp_problem

from experiments.common.bounds import gauss_newton_norms
from jaxscape import losses
from jaxscape.types import InputError


def linear(params, batch):
    return batch["inputs"] @ params["weight"] + params["bias"]


def network(params, batch):
    return mlp_apply(params, batch["inputs"])


def class_loss(outputs, batch):
    return losses.cross_entropy(outputs, batch["targets"])


def softmax64(outputs):
    weights = np.exp(outputs - outputs.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def curvature64(outputs):
    """diag(p) − p pᵀ of every sample."""
    p = softmax64(outputs)
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


@pytest.mark.parametrize("batch_size", [None, 1, 4, 7, 100])
def test_a_network_against_the_dense_matrix(batch_size):
    params, data = mlp_problem(n=13)
    got = gauss_newton_norms(network, class_loss, params, data, batch_size=batch_size)
    np.testing.assert_allclose(got, dense_norms64(params, data), rtol=2e-5)


def test_a_sample_that_is_surely_right_keeps_its_digits():
    params, data = mlp_problem(n=13)
    params[-1] = (params[-1][0] * 8, params[-1][1])
    data["targets"] = network(params, data).argmax(1)
    expected = dense_norms64(params, data)
    assert expected.min() < 1e-3 * expected.max()
    got = gauss_newton_norms(network, class_loss, params, data)
    np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_softmax_regression_in_closed_form():
    """G_i = (diag p − p pᵀ) ⊗ (x, 1)(x, 1)ᵀ, so ‖G_i‖ = ‖diag p − p pᵀ‖ (‖x‖² + 1)."""
    rng = np.random.default_rng(0)
    data = {"inputs": rng.normal(size=(20, 6)), "targets": rng.integers(4, size=20)}
    params = {"weight": rng.normal(size=(6, 4)), "bias": rng.normal(size=4)}
    curved = np.linalg.norm(curvature64(linear(params, data)), ord=2, axis=(1, 2))
    expected = curved * ((data["inputs"] ** 2).sum(1) + 1)
    got = gauss_newton_norms(linear, class_loss, *jax.tree.map(jnp.asarray, (params, data)))
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_logistic_regression_in_closed_form():
    """One output per sample, without an axis of its own: ‖G_i‖ = s(1 − s)(‖x‖² + 1)."""
    rng = np.random.default_rng(1)
    inputs, weight = rng.normal(size=(20, 6)), rng.normal(size=6)
    s = 1 / (1 + np.exp(-(inputs @ weight + 0.3)))
    got = gauss_newton_norms(
        linear,
        lambda outputs, batch: jax.nn.softplus(-outputs),
        {"weight": jnp.asarray(weight), "bias": jnp.asarray(0.3)},
        {"inputs": jnp.asarray(inputs)},
    )
    np.testing.assert_allclose(got, s * (1 - s) * ((inputs**2).sum(1) + 1), rtol=3e-5)


def test_a_loss_that_is_not_convex_in_the_outputs():
    """ℓ = cos f of a linear f: ‖G_i‖ = |cos f| ‖x‖²."""
    rng = np.random.default_rng(2)
    inputs, weight = rng.normal(size=(20, 5)), rng.normal(size=(5, 1))
    got = gauss_newton_norms(
        lambda params, batch: batch @ params,
        lambda outputs, batch: jnp.cos(outputs[:, 0]),
        jnp.asarray(weight),
        jnp.asarray(inputs),
    )
    expected = np.abs(np.cos(inputs @ weight))[:, 0] * (inputs**2).sum(1)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_outputs_as_a_tree():
    params, data = mlp_problem(n=5)

    def split(params, batch):
        outputs = network(params, batch)
        return {"first": outputs[:, :1], "rest": (outputs[:, 1:],)}

    def joined(outputs, batch):
        return class_loss(jnp.concatenate([outputs["first"], outputs["rest"][0]], 1), batch)

    got = gauss_newton_norms(split, joined, params, data)
    np.testing.assert_allclose(got, dense_norms64(params, data), rtol=2e-5)


def test_bad_input_is_one_clear_line():
    params, data = mlp_problem(n=5)
    with pytest.raises(InputError, match="one loss per sample"):
        gauss_newton_norms(network, lambda z, b: class_loss(z, b).mean(), params, data)
    with pytest.raises(InputError, match="chunk size of at least 1, found 0"):
        gauss_newton_norms(network, class_loss, params, data, batch_size=0)
    with pytest.raises(InputError, match="floating-point parameters"):
        gauss_newton_norms(network, class_loss, jax.tree.map(lambda w: w.astype(int), params), data)
