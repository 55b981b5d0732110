"""Points of each probe: their law, their place, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import mlp_problem
from scipy.stats import norm

import jaxscape as js
from jaxscape.probes import fits

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
    again = np.asarray(flat(jnp.full(400, 7)))  # the same point each time
    np.testing.assert_array_equal(again, np.tile(flat(jnp.arange(400))[7], (400, 1)))


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


def axes(dim):
    return js.Subspace(jnp.zeros(dim), jnp.eye(dim))


def nets(num, points, dim, **more):
    """Coordinates of ``num`` probes with keys of their own, [num, points, dim]."""
    one = lambda key: js.sobol(key, axes(dim), points, 1.0, **more).coordinates  # noqa: E731
    return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(KEY, num)), np.float64)


def test_each_net_has_one_point_in_every_elementary_interval():
    u = norm.cdf(nets(1, 4 * 64, 2, randomisations=4)).reshape(4, 64, 2)
    for rows in range(7):  # 2^rows by 2^(6 − rows) equal boxes, one point in each
        cell = np.floor(u * [2**rows, 2 ** (6 - rows)]) @ [2 ** (6 - rows), 1]
        np.testing.assert_array_equal(np.sort(cell, axis=1), np.tile(np.arange(64), (4, 1)))


def test_every_point_alone_is_gaussian():
    found = nets(4000, 16, 3)
    for index in (0, 1, 15):
        values = found[:, index]
        np.testing.assert_allclose(values.mean(0), 0, atol=5 / np.sqrt(4000))
        np.testing.assert_allclose((values**2).mean(0), 1, atol=5 * np.sqrt(2 / 4000))
        np.testing.assert_allclose((values**4).mean(0), 3, atol=5 * np.sqrt(96 / 4000))
        np.testing.assert_allclose(np.corrcoef(values.T), np.eye(3), atol=5 / np.sqrt(4000))


def test_nets_of_one_probe_are_independent():
    means = (nets(4000, 16, 1) ** 2).reshape(4000, 8, 2).mean(2)
    np.testing.assert_allclose(np.corrcoef(means.T), np.eye(8), atol=5 / np.sqrt(4000))


@pytest.mark.slow
def test_the_same_key_scrambles_alike_at_every_sigma():
    small, large = (js.sobol(KEY, axes(3), 32, s).coordinates for s in (0.01, 1.0))
    np.testing.assert_allclose(100 * small, large, rtol=1e-5)
    assert np.isfinite(js.sobol(KEY, axes(3), 1 << 14, 1.0).coordinates).all()


def test_nets_that_cannot_be_are_refused():
    for points, number in ((0, 8), (24, 8), (100, 8), (8, 1), (6, 4)):
        assert not fits(points, number)
        with pytest.raises(js.InputError, match=r"at least 1 point|2 randomisations of 1, 2, 4"):
            js.sobol(KEY, axes(2), points, 1.0, randomisations=number)
    assert fits(8)
    assert fits(256)
    with pytest.raises(js.InputError, match="finite sigma"):
        js.sobol(KEY, axes(2), 16, float("nan"))
    wide = js.Subspace(jnp.zeros(1), jnp.zeros((21202, 1)))
    with pytest.raises(js.InputError, match="at most 21201 directions"):
        js.sobol(KEY, wide, 16, 1.0)
