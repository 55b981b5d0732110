"""Directions against NumPy: their norms, eigenvectors, principal axes, coordinates in them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import at64, float64, mlp_loss, mlp_problem

import jaxscape as js

KEY = jax.random.key(0)


def test_at_applies_every_direction():
    params, _ = mlp_problem()
    space = js.random_subspace(KEY, params, 5)
    theta = np.random.default_rng(0).normal(size=5).astype(np.float32)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        space.at(theta),
        at64(space, theta),
    )


def test_unit_directions_have_norm_one_and_differ():
    params, _ = mlp_problem()
    space = js.random_subspace(KEY, params, 6)
    rows = np.concatenate([np.reshape(x, (6, -1)) for x in jax.tree.leaves(space.basis)], 1)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)
    assert np.abs(rows @ rows.T - np.eye(6)).max() < 0.5


def test_filters_take_the_norm_of_the_trained_filters():
    rng = np.random.default_rng(1)
    params = {
        "conv": jnp.asarray(rng.normal(size=(3, 3, 2, 5)), jnp.float32),
        "dense": jnp.asarray(rng.normal(size=(7, 4)), jnp.float32),
        "bias": jnp.asarray(rng.normal(size=4), jnp.float32),
    }
    basis = js.random_subspace(KEY, params, 3, normalization="filter").basis
    for j in range(3):
        for name, axes in (("conv", (0, 1, 2)), ("dense", (0,))):
            got = np.sqrt((np.asarray(basis[name][j]) ** 2).sum(axes))
            want = np.sqrt((np.asarray(params[name]) ** 2).sum(axes))
            np.testing.assert_allclose(got, want, rtol=1e-5)
    assert not np.any(basis["bias"])


def test_the_published_direction_is_filter_normalised_and_then_of_norm_one():
    """Both steps of the reference code in float64; biases are 0, and not normalised again."""
    rng = np.random.default_rng(2)
    params = {
        "conv": jnp.asarray(3 * rng.normal(size=(3, 3, 2, 5)), jnp.float32),
        "dense": jnp.asarray(rng.normal(size=(7, 4)), jnp.float32),
        "bias": jnp.asarray(rng.normal(size=4), jnp.float32),
    }
    drawn = float64(js.random_subspace(KEY, params, 3).basis)  # the same Gaussians, of norm 1
    basis = js.random_subspace(KEY, params, 3, normalization="unit-filter").basis
    for j in range(3):
        step = {"bias": np.zeros(4)}
        for name in ("conv", "dense"):
            step[name] = np.empty(params[name].shape)
            for unit in range(params[name].shape[-1]):
                own, like = drawn[name][j][..., unit], np.float64(params[name][..., unit])
                step[name][..., unit] = own / np.sqrt((own**2).sum()) * np.sqrt((like**2).sum())
        norm = np.sqrt(sum((leaf**2).sum() for leaf in step.values()))
        for name, leaf in step.items():
            np.testing.assert_allclose(basis[name][j], leaf / norm, rtol=2e-5, atol=1e-7)


def test_hessian_subspace_spans_the_top_eigenvectors():
    params, data = mlp_problem()
    space = js.hessian_subspace(jax.random.key(0), mlp_loss, params, data, 3, tol=1e-5)
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    hessian = jax.jit(jax.hessian(lambda x: mlp_loss(unravel(x), data).mean()))(flat)
    hessian = np.asarray(hessian, np.float64)
    vectors = np.linalg.eigh(hessian)[1][:, ::-1][:, :3]
    leaves = [np.reshape(leaf, (3, -1)) for leaf in jax.tree.leaves(space.basis)]
    rows = np.concatenate(leaves, 1)
    np.testing.assert_allclose(np.abs(np.diag(rows @ vectors)), 1, atol=1e-4)

    rayleigh = np.einsum("dp,pq,dq->d", rows, hessian, rows)
    np.testing.assert_allclose(space.eigenvalues, rayleigh, rtol=1e-4)
    residuals = np.linalg.norm(rows @ hessian - rayleigh[:, None] * rows, axis=1)
    np.testing.assert_allclose(space.residuals, residuals, atol=1e-5 * rayleigh[0])


@pytest.mark.parametrize("normalization", ["unit", "filter", "unit-filter"])
def test_coordinates_are_those_of_the_closest_point(normalization):
    params, _ = mlp_problem()
    space = js.random_subspace(KEY, params, 4, normalization=normalization)
    theta = jnp.array([0.5, -1.0, 2.0, 0.0])
    np.testing.assert_allclose(space.coordinates_of(space.at(theta)), theta, atol=1e-5)
    away = jax.tree.map(lambda w: w + jnp.cos(jnp.arange(w.size)).reshape(w.shape), params)
    leaves = [np.reshape(x, (4, -1)) for x in jax.tree.leaves(float64(space.basis))]
    moves = jax.tree.map(np.subtract, float64(away), float64(params))
    offset = np.concatenate([x.ravel() for x in jax.tree.leaves(moves)])
    want = np.linalg.lstsq(np.concatenate(leaves, 1).T, offset)[0]
    np.testing.assert_allclose(jax.jit(space.coordinates_of)(away), want, rtol=1e-4, atol=1e-5)


def test_coordinates_in_directions_that_depend_on_each_other_are_the_shortest():
    space = js.Subspace(jnp.zeros(2), jnp.array([[1.0, 0.0], [1.0, 0.0]]))
    np.testing.assert_allclose(space.coordinates_of(jnp.array([3.0, 5.0])), [1.5, 1.5], rtol=1e-5)


@pytest.mark.parametrize("dim", [0, -1, 10**6])
def test_a_dimension_out_of_range_is_refused(dim):
    params, data = mlp_problem()
    with pytest.raises(js.InputError, match="dimension from 1 to 186"):
        js.random_subspace(KEY, params, dim)
    with pytest.raises(js.InputError, match="dimension from 1 to 186"):
        js.hessian_subspace(jax.random.key(0), mlp_loss, params, data, dim)


def test_other_bad_input_is_refused():
    params, _ = mlp_problem()
    with pytest.raises(js.InputError, match="normalization"):
        js.random_subspace(KEY, params, 2, normalization="layer")
    for basis in (jnp.ones((2, 4)), jnp.ones(3), {"w": jnp.ones((2, 3))}):
        with pytest.raises(js.InputError, match="expected an array of directions"):
            js.points(js.Subspace(jnp.ones(3), basis), jnp.ones((1, 2)))
    with pytest.raises(js.InputError, match="the point to be shaped like the parameters"):
        js.random_subspace(KEY, params, 2).coordinates_of(params[:1])
    with pytest.raises(js.InputError, match="two or more axes"):
        js.random_subspace(KEY, {"b": jnp.ones(4)}, 2, normalization="filter")


def walk(total=6, seed=0):
    """A trajectory of parameters with two arrays, leaves ``[T, ...]``."""
    rng = np.random.default_rng(seed)
    steps = {"w": rng.normal(size=(total, 5, 4)), "b": rng.normal(size=(total, 7))}
    return {name: jnp.asarray(np.cumsum(x, 0), jnp.float32) for name, x in steps.items()}


def rows64(points):
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(points)]
    rows = np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], 1)
    return rows - rows[-1]


def rows64_of(basis, j):
    return np.concatenate([np.asarray(x[j], np.float64).ravel() for x in jax.tree.leaves(basis)])


def test_directions_are_the_principal_axes_about_the_last_point():
    points = walk()
    found = js.trajectory_subspace(points, 3)
    rows = rows64(points)
    values, vectors = np.linalg.eigh(rows.T @ rows)
    basis = np.stack([rows64_of(found.space.basis, j) for j in range(3)])
    np.testing.assert_allclose(basis @ basis.T, np.eye(3), atol=1e-5)
    overlap = np.abs(np.sum(basis * vectors[:, ::-1].T[:3], 1))
    np.testing.assert_allclose(overlap, 1, atol=1e-5)
    np.testing.assert_allclose(found.explained, values[::-1][:3] / values.sum(), rtol=1e-4)


def test_as_many_directions_as_steps_give_every_point_back():
    points = walk(total=4)
    found = js.trajectory_subspace(points, 3)
    for t in range(4):
        there = at64(found.space, found.coordinates[t])
        for name, leaf in there.items():
            np.testing.assert_allclose(leaf, points[name][t], atol=2e-5)
    np.testing.assert_array_equal(found.coordinates[-1], 0)
    np.testing.assert_allclose(found.explained.sum(), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("dim", "points"),
    [(0, walk()), (6, walk()), (1, {"w": jnp.ones(())}), (3, {"w": jnp.ones((5, 2))})],
)
def test_a_trajectory_that_cannot_be_is_refused(dim, points):
    with pytest.raises(js.InputError, match="expected"):
        js.trajectory_subspace(points, dim)
