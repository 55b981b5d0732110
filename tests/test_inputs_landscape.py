"""Checkpoints, directions, operators and pilots that people have: the right number, or one line."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from regression import DATA, KEY, RNG, SPACE, P, X, Y, loss

import jaxscape as js
from jaxscape import InputError

# Checkpoints, directions, filters


def test_checkpoints_are_a_list_or_one_stacked_tree():
    points = [{"w": jnp.arange(6.0) * i, "b": jnp.ones(2) * i**2} for i in range(4)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *points)
    one, other = js.trajectory_subspace(points), js.trajectory_subspace(stacked)
    np.testing.assert_array_equal(one.coordinates, other.coordinates)
    assert one.coordinates.shape == (4, 2)
    vectors = js.trajectory_subspace([jnp.arange(6.0) ** i for i in range(4)])
    assert vectors.coordinates.shape == (4, 2)
    layers = [RNG.normal(size=(5, 3, 2)), RNG.normal(size=(5, 3))]  # two leaves of five times
    assert js.trajectory_subspace(layers).coordinates.shape == (5, 2)
    with pytest.raises(InputError, match="could be either"):
        js.trajectory_subspace([jnp.ones((3, 3))] * 3)


@pytest.mark.parametrize(
    "basis", [{"w": jnp.ones((2, 5))}, {"w": jnp.ones((2, 4)), "b": jnp.ones(3)}, {}, jnp.ones(4)]
)
def test_directions_of_other_shapes_are_refused(basis):
    with pytest.raises(InputError, match="directions"):
        js.Subspace(P, basis)


SCALES = jnp.array([1, 10, 100, 1000.0])


@pytest.mark.parametrize(
    ("shape", "axes", "others"),
    [((4, 3), 0, (1,)), ((4, 3, 2, 2), 0, (1, 2, 3)), ((3, 4), -1, (0,)),
     ((4, 3, 5), (0, -1), (1,)), ((3, 4, 5), (-2, -1), (0,))],
)  # fmt: skip
def test_a_filter_keeps_its_norm_on_the_axes_that_tell_filters_apart(shape, axes, others):
    place = shape.index(4)
    scale = SCALES.reshape([4 if axis == place else 1 for axis in range(len(shape))])
    w = {"W": jax.random.normal(KEY, shape) * scale, "b": jnp.ones(3), "none": jnp.ones((3, 0))}
    space = js.random_subspace(KEY, w, dim=2, normalization="filter", filter_axes=axes)
    want = np.sqrt((np.asarray(w["W"], np.float64) ** 2).sum(others))
    for direction in np.asarray(space.basis["W"], np.float64):
        np.testing.assert_allclose(np.sqrt((direction**2).sum(others)), want, rtol=1e-5)
    assert not space.basis["b"].any()


def test_filter_axes_of_an_equinox_model_and_of_a_tree():
    model = eqx.nn.MLP(3, 2, 5, 1, key=KEY)
    params = eqx.filter(model, eqx.is_inexact_array)
    space = js.random_subspace(KEY, params, dim=1, normalization="filter", filter_axes=0)
    for layer, own in zip(space.basis.layers, params.layers, strict=True):
        norms = [jnp.linalg.norm(w, axis=-1) for w in (layer.weight[0], own.weight)]
        np.testing.assert_allclose(*norms, rtol=1e-5)
        assert not layer.bias.any()
    w = {"flax": jnp.ones((3, 4)), "torch": {"a": jnp.ones((4, 3)), "still": jnp.ones((2, 2))}}
    axes = {"flax": -1, "torch": {"a": 0, "still": None}}
    basis = js.random_subspace(KEY, w, dim=1, normalization="filter", filter_axes=axes).basis
    np.testing.assert_allclose(jnp.linalg.norm(basis["flax"][0], axis=0), 3**0.5, rtol=1e-5)
    np.testing.assert_allclose(jnp.linalg.norm(basis["torch"]["a"][0], axis=1), 3**0.5, rtol=1e-5)
    assert not basis["torch"]["still"].any()
    for wrong in (3, (0, 5), {"flax": 0}, 2**70):
        with pytest.raises(InputError, match="filter_axes"):
            js.random_subspace(KEY, w, dim=1, normalization="filter", filter_axes=wrong)


def test_checkpoints_of_other_forms_are_refused():
    for wrong in ([{"a": jnp.ones(3)}, {"b": jnp.ones(3)}], {0: jnp.ones(3), 1: jnp.zeros(3)}):
        with pytest.raises(InputError, match="expected"):
            js.trajectory_subspace(wrong, dim=1)


@pytest.mark.parametrize("scale", [1e25, 1e-25])
def test_filters_far_from_one_keep_their_norm(scale):
    w = jnp.full((2, 3), scale)
    basis = js.random_subspace(KEY, w, dim=1, normalization="filter").basis[0]
    np.testing.assert_allclose(jnp.linalg.norm(basis / scale, axis=0), 2**0.5, rtol=1e-5)


def test_filters_of_zeros_have_no_directions_of_their_norm():
    zeros = {"kernel": jnp.zeros((4, 3)), "bias": jnp.ones(3)}
    for kind in ("filter", "unit-filter"):
        with pytest.raises(InputError, match="not 0"):
            js.random_subspace(KEY, zeros, dim=2, normalization=kind)
        some = {"kernel": zeros["kernel"].at[:, 1].set(1.0), "bias": zeros["bias"]}
        space = js.random_subspace(KEY, some, dim=2, normalization=kind)
        assert jnp.isfinite(space.basis["kernel"]).all()


# Spectra


def test_a_residual_that_is_large_beside_its_eigenvalue_is_not_converged():
    values = jnp.concatenate([jnp.array([1e8]), 0.8 ** (2 * jnp.arange(40.0))])
    turn = jnp.linalg.qr(jax.random.normal(KEY, (41, 41)))[0]
    matrix = (turn * values) @ turn.T
    found = js.top_eigenpairs(KEY, lambda v: matrix @ v, jnp.zeros(41), 3)
    assert found.converged.tolist() == [True, False, False]
    small = js.top_eigenpairs(KEY, lambda v: jnp.diag(jnp.arange(9.0)) @ v, jnp.zeros(9), 3)
    assert small.converged.all()


def test_a_hessian_without_numbers_says_which_samples_and_one_of_zeros_that_it_is():
    for bad in ([3], [3, 17]):
        data = {"x": X.copy(), "y": Y}
        data["x"][bad] = np.nan
        names = ", ".join(map(str, bad))
        with pytest.raises(InputError, match=rf"for {len(bad)} samples \(at positions {names}\)"):
            js.hessian_subspace(KEY, loss, P, data, dim=2)
    root = lambda w, b: jnp.sqrt((b["x"] @ (0 * w["w"])) ** 2)  # noqa: E731
    with pytest.raises(InputError, match="a derivative is not"):
        js.hessian_subspace(KEY, root, P, DATA, dim=2)
    for flat in (lambda w, b: abs(b["x"] @ w["w"] - b["y"]), lambda w, b: b["x"] @ w["w"]):
        with pytest.raises(InputError, match="all 0"):
            js.hessian_subspace(KEY, flat, P, DATA, dim=2)


@jax.custom_vjp
def squared(x):
    return x**2


squared.defvjp(lambda x: (x**2, x), lambda x, g: (2 * x * g,))


@jax.custom_vjp
def twice_wrapped(x):
    return squared(x) / 2


twice_wrapped.defvjp(lambda x: (squared(x) / 2, x), lambda x, g: (x * g,))


def test_a_loss_without_forward_mode_has_its_derivatives():
    for function, factor in ((squared, 2.0), (twice_wrapped, 1.0)):
        own = lambda w, b, f=function: f(b["x"] @ w["w"] + w["b"] - b["y"])  # noqa: E731
        found = js.project(own, SPACE, DATA)
        want = js.project(loss, SPACE, DATA)
        for one, other in zip(found, want, strict=True):
            np.testing.assert_allclose(one, factor * other, rtol=1e-4, atol=1e-5)
        product = js.hessian_operator(own, P, DATA)(P)["w"]
        wanted = factor * js.hessian_operator(loss, P, DATA)(P)["w"]
        np.testing.assert_allclose(product, wanted, rtol=1e-4)


def test_weight_decay_adds_its_multiple_of_the_vector():
    plain, decayed = (js.hessian_operator(loss, P, DATA, weight_decay=x) for x in (0.0, 0.3))
    vector = {"w": jnp.arange(4.0), "b": jnp.ones(())}
    for name in P:
        want = plain(vector)[name] + 0.3 * vector[name]
        np.testing.assert_allclose(decayed(vector)[name], want, rtol=1e-6)
    values = [js.top_eigenpairs(KEY, x, P, 5, which="smallest").values for x in (plain, decayed)]
    np.testing.assert_allclose(values[1], values[0] + 0.3, rtol=1e-4)


def test_a_hessian_subspace_of_the_most_negative_eigenvalues():
    saddle = lambda w, b: b["x"] @ jnp.cos(w["w"]) + w["b"] ** 2  # noqa: E731
    hessian = np.diag([*(-X.mean(0, dtype=np.float64) * np.cos(0.3)), 2.0])
    space = js.hessian_subspace(KEY, saddle, P, DATA, dim=2, which="smallest")
    np.testing.assert_allclose(space.eigenvalues, np.linalg.eigvalsh(hessian)[:2], rtol=1e-4)


def test_an_operator_of_numpy_has_its_eigenpairs():
    matrix = np.diag(np.arange(8.0)).astype(np.float32)
    for matvec in (lambda v: matrix @ np.asarray(v), lambda v: np.einsum("ab,b->a", matrix, v)):
        found = js.top_eigenpairs(KEY, matvec, np.zeros(8, np.float32), 2)
        np.testing.assert_allclose(found.values, [7, 6], rtol=1e-4)
    inside = jax.jit(
        lambda w: js.top_eigenpairs(KEY, lambda v: matrix @ np.asarray(v), w, 2).values
    )
    np.testing.assert_allclose(inside(jnp.zeros(8)), [7, 6], rtol=1e-4)
    with pytest.raises(InputError, match="product"):
        js.top_eigenpairs(KEY, lambda v: matrix[:3] @ np.asarray(v), np.zeros(8, np.float32), 2)


def test_a_gauss_newton_product_of_a_model_without_forward_mode():
    model = lambda w, b: squared(b["x"] @ w["w"] + w["b"])  # noqa: E731
    plain = lambda w, b: (b["x"] @ w["w"] + w["b"]) ** 2  # noqa: E731
    out = lambda z, b: (z - b["y"]) ** 2  # noqa: E731
    one, other = (js.ggn_operator(own, out, P, DATA)(P)["w"] for own in (model, plain))
    np.testing.assert_allclose(one, other, rtol=1e-4)


# Sizes and pilots


def test_beyond_what_is_looked_for_nothing_is_reached():
    for scale in (1e18, 1e30):
        found = js.exceedance_size(jnp.full(1000, scale), 999, jnp.float32(1e-2))
        assert not any(bool(size.reached) for size in found)
    within = js.exceedance_size(jnp.full(1000, 1e10), 999, jnp.float32(1e-2))
    assert abs(int(within.value.k) - 1e6) < 1e3


def test_samples_that_are_in_an_order_are_told_from_a_random_selection():
    rows = RNG.exponential(size=(4, 2000)).astype(np.float32)
    trends = [js.estimate_loss_variance(js.evidence_of(x)).trend for x in (
        rows, rows * np.linspace(0.2, 3, 2000), np.sort(rows, 1), rows[:, ::-1] ** 2
    )]  # fmt: skip
    beyond = [abs(float(trend)) > 3.3 for trend in trends]
    assert beyond == [False, True, True, False]
    by_chance = [
        float(js.estimate_loss_variance(js.evidence_of(x)).trend)
        for x in RNG.exponential(size=(200, 2, 300)).astype(np.float32)
    ]
    assert 0.8 < np.std(by_chance) < 1.2
    assert abs(np.mean(by_chance)) < 0.3


def test_an_order_is_seen_in_losses_far_from_zero():
    ordered = np.sort(RNG.exponential(size=(2, 4000)), 1).astype(np.float32)
    for offset in (0, 100, 1000):
        trend = js.estimate_loss_variance(js.evidence_of(offset + ordered)).trend
        assert float(trend) > 10, offset


def test_an_order_is_seen_among_losses_that_are_nearly_0():
    """As of a network that has learnt most samples: their loss is far below the mean's rounding."""
    ordered = np.sort(10.0 ** RNG.uniform(-12, 0, size=(2, 4000)), 1).astype(np.float32)
    y = np.log(ordered.mean(0, dtype=np.float64))
    want = np.corrcoef(np.arange(4000), y)[0, 1] * np.sqrt(3999)
    found = js.estimate_loss_variance(js.evidence_of(ordered)).trend
    np.testing.assert_allclose(found, want, rtol=1e-3)
    mixed = RNG.permuted(ordered, axis=1)
    assert 0 < abs(float(js.estimate_loss_variance(js.evidence_of(mixed)).trend)) < 3.3
    assert float(js.estimate_loss_variance(js.evidence_of(np.zeros((2, 50)))).trend) == 0


def test_a_tolerance_that_none_can_meet_is_not_reached():
    for tolerance in (jnp.nan, -1.0):
        found = js.exceedance_size(jnp.ones(50), 49, jnp.float32(tolerance))
        assert not any(bool(size.reached) for size in found)
