import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

import jaxscape as js
from jaxscape.probes import fits

KEY = jax.random.key(4)


def space(dim):
    return js.Subspace(jnp.zeros(dim), jnp.eye(dim))


def draws(num, points, dim, **more):
    """Coordinates of ``num`` probes with keys of their own, [num, points, dim]."""
    one = lambda key: js.sobol(key, space(dim), points, 1.0, **more).coordinates  # noqa: E731
    return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(KEY, num)), np.float64)


def test_each_net_has_one_point_in_every_elementary_interval():
    u = norm.cdf(draws(1, 4 * 64, 2, randomisations=4)).reshape(4, 64, 2)
    for rows in range(7):  # 2^rows by 2^(6 − rows) equal boxes, one point in each
        cell = np.floor(u * [2**rows, 2 ** (6 - rows)]) @ [2 ** (6 - rows), 1]
        np.testing.assert_array_equal(np.sort(cell, axis=1), np.tile(np.arange(64), (4, 1)))


def test_every_point_alone_is_gaussian():
    found = draws(4000, 16, 3)
    for index in (0, 1, 15):
        values = found[:, index]
        np.testing.assert_allclose(values.mean(0), 0, atol=5 / np.sqrt(4000))
        np.testing.assert_allclose((values**2).mean(0), 1, atol=5 * np.sqrt(2 / 4000))
        np.testing.assert_allclose((values**4).mean(0), 3, atol=5 * np.sqrt(96 / 4000))
        np.testing.assert_allclose(np.corrcoef(values.T), np.eye(3), atol=5 / np.sqrt(4000))


def test_nets_of_one_probe_are_independent():
    means = (draws(4000, 16, 1) ** 2).reshape(4000, 8, 2).mean(2)
    np.testing.assert_allclose(np.corrcoef(means.T), np.eye(8), atol=5 / np.sqrt(4000))


def test_the_same_key_draws_the_same_normals_at_every_sigma():
    small, large = (js.sobol(KEY, space(3), 32, s).coordinates for s in (0.01, 1.0))
    np.testing.assert_allclose(100 * small, large, rtol=1e-5)
    assert np.isfinite(js.sobol(KEY, space(3), 1 << 14, 1.0).coordinates).all()


def test_bad_input_is_refused():
    for points, nets in ((0, 8), (24, 8), (100, 8), (8, 1), (6, 4)):
        assert not fits(points, nets)
        with pytest.raises(js.InputError, match=r"at least 1 point|2 randomisations of 1, 2, 4"):
            js.sobol(KEY, space(2), points, 1.0, randomisations=nets)
    assert fits(8)
    assert fits(256)
    with pytest.raises(js.InputError, match="finite sigma"):
        js.sobol(KEY, space(2), 16, float("nan"))
    wide = js.Subspace(jnp.zeros(1), jnp.zeros((21202, 1)))
    with pytest.raises(js.InputError, match="at most 21201 directions"):
        js.sobol(KEY, wide, 16, 1.0)
