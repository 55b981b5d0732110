"""Spectra of H_k against dense float64 matrices, SciPy, and the definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import mlp_loss, mlp_problem
from jax.flatten_util import ravel_pytree
from scipy.sparse.linalg import eigsh

from jaxscape.prefix_spectra import geometric, overlap, prefix_spectra, ritz_values
from jaxscape.quadratic import project
from jaxscape.subspace import Subspace, random_subspace
from jaxscape.types import InputError

KS = (1, 5, 6, 17, 40, 101)
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def case():
    """A network, its data, and ∇²ℓ_i of every sample as dense float64 matrices."""
    params, data = mlp_problem()
    with jax.enable_x64(True):
        doubles = [(jnp.asarray(np.asarray(w, float)), jnp.asarray(np.asarray(b, float)))
                   for w, b in params]  # fmt: skip
        flat, unravel = ravel_pytree(doubles)
        inputs = jnp.asarray(np.asarray(data["inputs"], float))

        def one(x, y):
            batch = {"inputs": x[None], "targets": y[None]}
            return jax.hessian(lambda w: mlp_loss(unravel(w), batch)[0])(flat)

        hessians = np.asarray(jax.jit(jax.vmap(one))(inputs, data["targets"]))
    return params, data, hessians


@pytest.fixture(scope="module")
def solved(case):
    params, data, hessians = case
    reference = np.linalg.eigh(hessians.mean(0))[1][:, ::-1][:, :4].T.astype(np.float32)
    unravel = ravel_pytree(params)[1]
    basis = jax.vmap(unravel)(jnp.asarray(reference))
    found = prefix_spectra(
        KEY, mlp_loss, params, data, 4,
        ks=KS, reference=basis, keep_vectors=True, batch_size=16,
    )  # fmt: skip
    return found, reference.astype(float)


def rows(basis):
    return np.asarray(jax.vmap(lambda v: ravel_pytree(v)[0])(basis), float)


def test_values_and_residuals_are_those_of_the_dense_matrices(case, solved):
    _, _, hessians = case
    found, _ = solved
    assert np.all(found.converged)
    for j, k in enumerate(KS):
        matrix = hessians[:k].mean(0)
        exact = np.linalg.eigvalsh(matrix)
        np.testing.assert_allclose(found.values[j], exact[::-1][:4], rtol=1e-4)
        np.testing.assert_allclose(
            found.values[j], np.sort(eigsh(matrix, 4, which="LA")[0])[::-1], rtol=1e-4
        )
        vectors = rows(jax.tree.map(lambda leaf, j=j: leaf[j], found.vectors))
        gaps = vectors @ matrix - np.asarray(found.values[j])[:, None] * vectors
        norm = np.abs(exact).max()
        np.testing.assert_allclose(
            found.residuals[j], np.linalg.norm(gaps, axis=1), rtol=0.05, atol=3e-6 * norm
        )


def test_overlap_is_the_mean_squared_cosine(case, solved):
    _, _, hessians = case
    found, reference = solved
    for j, k in enumerate(KS):
        leading = np.linalg.eigh(hessians[:k].mean(0))[1][:, ::-1][:, :4].T
        expected = np.mean(np.linalg.svd(leading @ reference.T)[1] ** 2)
        assert float(found.overlap[j]) == pytest.approx(expected, abs=2e-3)
    assert float(found.overlap[-1]) == pytest.approx(1, abs=1e-5)


def test_overlap_of_a_plane_with_a_line_in_it():
    plane = {"a": jnp.eye(3)[:2], "b": jnp.zeros((2, 2))}
    line = {"a": jnp.asarray([[0.6, 0.8, 0.0]]), "b": jnp.zeros((1, 2))}
    assert float(overlap(line, plane)) == pytest.approx(1)
    assert float(overlap(plane, line)) == pytest.approx(0.5)


@pytest.mark.parametrize("batch_size", [7, pytest.param(101, marks=pytest.mark.slow)])
def test_the_batch_size_does_not_matter(case, solved, batch_size):
    params, data, _ = case
    found = prefix_spectra(KEY, mlp_loss, params, data, 4, ks=KS, batch_size=batch_size)
    np.testing.assert_allclose(found.values, solved[0].values, rtol=1e-5)
    assert found.overlap is None
    assert found.vectors is None


def test_every_k_is_solved_as_if_alone(case, solved):
    """The first k samples on their own, with nothing after them."""
    params, data, _ = case
    first = jax.tree.map(lambda leaf: leaf[:17], data)
    alone = prefix_spectra(KEY, mlp_loss, params, first, 4, ks=[17], batch_size=16)
    np.testing.assert_allclose(alone.values[0], solved[0].values[KS.index(17)], rtol=2e-5)


def test_fewer_curved_directions_than_asked_for():
    """Linear regression: H_k has rank k, so λ_{k+1} = ... = 0, at any scale of the data.

    Rounding decides whether a residual is small beside such an eigenvalue.
    """

    def loss(w, batch):
        return (batch @ w) ** 2 / 2

    for scale in (1e-9, 1.0, 1e6):
        inputs = np.random.default_rng(0).normal(size=(6, 40)) * scale
        found = prefix_spectra(KEY, loss, jnp.zeros(40), jnp.asarray(inputs), 5, ks=[1, 3, 6])
        for j, k in enumerate((1, 3, 6)):
            assert np.all(found.converged[j, :k])
            exact = np.linalg.eigvalsh(inputs[:k].T @ inputs[:k] / k)[::-1][:5]
            np.testing.assert_allclose(found.values[j], exact, rtol=1e-5, atol=2e-6 * exact[0])
            assert np.all(found.residuals[j, k:] <= 1e-5 * exact[0])


def test_no_curvature_at_all():
    found = prefix_spectra(
        KEY, lambda w, batch: batch @ w, jnp.zeros(30), jnp.ones((4, 30)), 2, ks=[1, 4]
    )
    assert np.all(found.converged)
    assert not np.any(found.values)


def test_the_loss_is_traced_once_for_all_k(case):
    params, data, _ = case
    traces = []

    def loss(w, batch):
        traces.append(None)
        return mlp_loss(w, batch)

    def solve(ks):
        before = len(traces)
        prefix_spectra(KEY, loss, params, data, 2, ks=ks)
        return len(traces) - before

    assert solve([3]) > 0  # a program, and what it remembers
    assert solve([3, 50]) == solve([3, 50, 101])


def test_ritz_values_are_those_of_the_prefix_means():
    rng = np.random.default_rng(1)
    hessian = rng.normal(size=(300, 4, 4)).astype(np.float32) + 50 * np.eye(4, dtype=np.float32)
    hessian = hessian + hessian.swapaxes(1, 2)
    found = np.asarray(ritz_values(jnp.asarray(hessian)))
    for k in range(1, 301):
        exact = np.linalg.eigvalsh(hessian[:k].astype(float).mean(0))[::-1]
        np.testing.assert_allclose(found[k - 1], exact, rtol=1e-6)


def test_ritz_values_lie_below_the_eigenvalues(case, solved):
    params, data, hessians = case
    space = random_subspace(jax.random.key(1), params, 4)
    orthonormal = np.linalg.qr(rows(space.basis).T)[0].T
    unravel = ravel_pytree(params)[1]
    space = Subspace(params, jax.vmap(unravel)(jnp.asarray(orthonormal, jnp.float32)))
    found = ritz_values(project(mlp_loss, space, data).hessian)
    for j, k in enumerate(KS):
        exact = np.linalg.eigvalsh(orthonormal @ hessians[:k].mean(0) @ orthonormal.T)[::-1]
        np.testing.assert_allclose(found[k - 1], exact, rtol=1e-4, atol=1e-6)
        assert np.all(found[k - 1] < solved[0].values[j])


def test_geometric():
    found = geometric(10, 60_000)
    assert found[0] == 10
    assert found[-1] == 60_000
    assert len(found) == 24
    ratios = found[1:] / found[:-1]
    np.testing.assert_allclose(ratios, 6000 ** (1 / 23), rtol=0.06)
    assert geometric(1, 4).tolist() == [1, 2, 3, 4]
    assert geometric(5, 5).tolist() == [5]


def test_default_grid(case):
    params, data, _ = case
    found = prefix_spectra(KEY, mlp_loss, params, data, 1)
    np.testing.assert_array_equal(found.k, geometric(10, 101))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ks": [0, 3]}, r"values of k from 1 to 101, found \[0, 3\]"),
        ({"ks": (2.9, 20.0)}, r"whole values of k from 1 to 101, found \[2.9, 20.0\]"),
        ({"ks": [np.nan]}, "whole values of k"),
        ({"ks": [102]}, "values of k from 1 to 101"),
        ({"ks": []}, "values of k from 1 to 101"),
        ({"num": 0}, "1 <= num"),
        ({"reference": {"a": jnp.ones((2, 3))}}, "direction of the reference"),
        ({"batch_size": 0}, "chunk size of at least 1"),
    ],
)
def test_bad_input_is_one_clear_line(case, changes, message):
    params, data, _ = case
    arguments = {"num": 2} | changes
    with pytest.raises(InputError, match=message) as caught:
        prefix_spectra(KEY, mlp_loss, params, data, **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("range_", "message"),
    [((0, 2), "1 <= first <= last"), ((3, 2), "1 <= first <= last"), ((1, 2, 1), "num >= 2")],
)
def test_no_grid(range_, message):
    with pytest.raises(InputError, match=message):
        geometric(*range_)
