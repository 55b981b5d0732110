import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxscape as js


def walk(total=6, seed=0):
    """A trajectory of parameters with two arrays, leaves ``[T, ...]``."""
    rng = np.random.default_rng(seed)
    steps = {"w": rng.normal(size=(total, 5, 4)), "b": rng.normal(size=(total, 7))}
    return {name: jnp.asarray(np.cumsum(x, 0), jnp.float32) for name, x in steps.items()}


def rows64(points):
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(points)]
    rows = np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], 1)
    return rows - rows[-1]


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


def rows64_of(basis, j):
    return np.concatenate([np.asarray(x[j], np.float64).ravel() for x in jax.tree.leaves(basis)])


def test_as_many_directions_as_steps_give_every_point_back():
    points = walk(total=4)
    found = js.trajectory_subspace(points, 3)
    for t in range(4):
        there = cases.at64(found.space, found.coordinates[t])
        for name, leaf in there.items():
            np.testing.assert_allclose(leaf, points[name][t], atol=2e-5)
    np.testing.assert_array_equal(found.coordinates[-1], 0)
    np.testing.assert_allclose(found.explained.sum(), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("dim", "points"),
    [(0, walk()), (6, walk()), (1, {"w": jnp.ones(())}), (3, {"w": jnp.ones((5, 2))})],
)
def test_bad_input_is_told(dim, points):
    with pytest.raises(js.InputError, match="expected"):
        js.trajectory_subspace(points, dim)
