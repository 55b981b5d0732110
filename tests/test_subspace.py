import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import at64, mlp_loss, mlp_problem

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


def test_hessian_subspace_spans_the_top_eigenvectors():
    params, data = mlp_problem()
    space = js.hessian_subspace(jax.random.key(0), mlp_loss, params, data, 3, tol=1e-5)
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    hessian = jax.jit(jax.hessian(lambda x: mlp_loss(unravel(x), data).mean()))(flat)
    vectors = np.linalg.eigh(np.asarray(hessian, np.float64))[1][:, ::-1][:, :3]
    leaves = [np.reshape(leaf, (3, -1)) for leaf in jax.tree.leaves(space.basis)]
    rows = np.concatenate(leaves, 1)
    np.testing.assert_allclose(np.abs(np.diag(rows @ vectors)), 1, atol=1e-4)


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
    with pytest.raises(js.InputError, match="two or more axes"):
        js.random_subspace(KEY, {"b": jnp.ones(4)}, 2, normalization="filter")
