import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import mlp_problem

import jaxscape as js

KEY = jax.random.key(0)


def space(dim=3):
    return js.random_subspace(KEY, mlp_problem()[0], dim)


def test_sigma_is_a_standard_deviation():
    probe = js.gaussian(KEY, space(), 20_000, 0.3)
    theta = np.asarray(probe.coordinates)
    assert theta.shape == (20_000, 3)
    np.testing.assert_allclose(theta.std(0), 0.3, rtol=0.03)
    np.testing.assert_allclose(np.corrcoef(theta.T), np.eye(3), atol=0.03)


def test_the_same_key_draws_the_same_normals_at_every_sigma():
    small, large = (js.gaussian(KEY, space(), 10, s).coordinates for s in (0.01, 1.0))
    np.testing.assert_allclose(100 * small, large, rtol=1e-5)


def test_isotropic_moves_every_parameter_by_sigma():
    params = mlp_problem()[0]
    probe = js.isotropic(KEY, params, 400, 0.5)
    flat = jax.jit(jax.vmap(lambda i: jax.flatten_util.ravel_pytree(probe.at(i))[0]))
    move = np.asarray(flat(jnp.arange(400))) - np.asarray(jax.flatten_util.ravel_pytree(params)[0])
    assert move.shape == (400, 186)
    np.testing.assert_allclose(move.std(0), 0.5, rtol=0.2)
    np.testing.assert_allclose(move.mean(), 0, atol=0.01)
    again = jax.flatten_util.ravel_pytree(probe.at(7))[0]
    np.testing.assert_array_equal(again, jax.flatten_util.ravel_pytree(probe.at(7))[0])


def test_grid_lies_on_the_first_two_directions_row_by_row():
    probe = js.grid(space(), radius=2.0, num=5)
    steps = np.linspace(-2, 2, 5)
    want = [[a, b, 0] for a in steps for b in steps]
    np.testing.assert_allclose(probe.coordinates, want, atol=1e-6)


def test_line_lies_on_the_first_direction():
    probe = js.line(space(), radius=1.0, num=3)
    np.testing.assert_allclose(probe.coordinates, [[-1, 0, 0], [0, 0, 0], [1, 0, 0]])


def test_single_is_the_point_itself():
    params = mlp_problem()[0]
    probe = js.single(params)
    assert probe.num_points == 1
    jax.tree.map(np.testing.assert_array_equal, probe.at(0), params)


@pytest.mark.parametrize("sigma", [-1.0, float("nan"), float("inf")])
def test_an_unusable_sigma_is_refused(sigma):
    with pytest.raises(js.InputError, match="finite sigma"):
        js.gaussian(KEY, space(), 4, sigma)
    with pytest.raises(js.InputError, match="finite sigma"):
        js.isotropic(KEY, mlp_problem()[0], 4, sigma)


def test_unusable_shapes_are_refused():
    with pytest.raises(js.InputError, match="at least 1 point"):
        js.gaussian(KEY, space(), 0, 1.0)
    with pytest.raises(js.InputError, match=r"\(points, 3\)"):
        js.points(space(), jnp.zeros((4, 2)))
    with pytest.raises(js.InputError, match="at least 2 directions"):
        js.grid(space(1), 1.0, 3)
