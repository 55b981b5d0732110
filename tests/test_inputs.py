"""What people feed the library: the right number, or one line that says what to do."""

import dataclasses
import json
import subprocess
import sys
import types
from pathlib import Path

import equinox as eqx
import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import increments64

import jaxscape as js
from jaxscape import InputError

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 4)).astype(np.float32)
Y = (X @ np.arange(4) + RNG.normal(size=60)).astype(np.float32)
DATA = {"x": X, "y": Y}
P = {"w": jnp.full(4, 0.3), "b": jnp.zeros(())}


def loss(params, batch):
    return 0.5 * (batch["x"] @ params["w"] + params["b"] - batch["y"]) ** 2


SPACE = js.random_subspace(KEY, P, dim=2)
PROBE = js.gaussian(KEY, SPACE, num_points=8, sigma=0.1)


def losses64(probe=PROBE, data=DATA):
    rows = []
    for index in range(probe.num_points):
        w = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), probe.at(index))
        rows.append(0.5 * (np.asarray(data["x"], np.float64) @ w["w"] + w["b"] - data["y"]) ** 2)
    return np.stack(rows)


def delta64():
    return (increments64(losses64()) ** 2).mean(0)


# Memory that the caller may write


def refilled(as_tree):
    """Batches in one buffer that is filled anew, as loaders do."""
    x, y = np.empty((10, 4), np.float32), np.empty(10, np.float32)
    for start in range(0, 60, 10):
        x[:], y[:] = X[start : start + 10], Y[start : start + 10]
        yield as_tree(x, y)


@pytest.mark.parametrize("kind", [dict, tuple])
def test_a_buffer_that_is_refilled_gives_the_samples_it_held(kind):
    make = (lambda x, y: {"x": x, "y": y}) if kind is dict else (lambda x, y: (x, y))
    own = loss if kind is dict else lambda w, b: loss(w, {"x": b[0], "y": b[1]})
    curve = js.delta(own, PROBE, refilled(make))
    np.testing.assert_allclose(curve.mean, delta64(), rtol=1e-4)
    level = js.loss_variance(own, PROBE, refilled(make)).interval.value
    np.testing.assert_allclose(level, losses64().var(1, ddof=1).mean(), rtol=1e-4)


def test_arrays_that_change_afterwards_change_nothing():
    w, x = {"w": np.full(4, 0.3, np.float32), "b": np.zeros((), np.float32)}, X.copy()
    basis = {"w": np.eye(4, dtype=np.float32)[:1], "b": np.zeros(1, np.float32)}
    space, single = js.Subspace(w, basis), js.single(w)
    theta = np.ones((1, 1), np.float32)
    points = js.points(space, theta)
    operator = js.hessian_operator(loss, w, {"x": x, "y": Y})
    before = [operator(P)["w"], js.delta(loss, points, DATA).mean, single.at(0)["w"]]
    for array in (w["w"], basis["w"], theta, x):
        array *= 7
    after = [operator(P)["w"], js.delta(loss, points, DATA).mean, single.at(0)["w"]]
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


# Precision


def test_float64_is_computed_where_it_is_asked_for():
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), P)
        data = jax.tree.map(lambda leaf: leaf.astype(np.float64), DATA)
        probe = js.points(js.random_subspace(KEY, params, dim=2), PROBE.coordinates)
        rows = losses64(probe, data)
        far = lambda w, b: loss(w, b) + 1e8  # noqa: E731
        curve = js.delta(far, probe, data)
        assert curve.mean.dtype == np.float64
        np.testing.assert_allclose(curve.mean, (increments64(rows) ** 2).mean(0), rtol=1e-5)
        sheet = js.surface(far, probe, data, ks=(1, 60))
        np.testing.assert_allclose(sheet.loss[1], rows.mean(1) + 1e8, rtol=1e-12)
        level = js.loss_variance(loss, probe, data).interval.value
        np.testing.assert_allclose(level, rows.var(1, ddof=1).mean(), rtol=1e-9)


def test_what_float32_cannot_hold_is_told():
    with pytest.raises(InputError, match="whose square is 0"):
        js.delta(lambda w, b: 1e-20 * loss(w, b), PROBE, DATA)
    for offset in (1e7, -1e9):
        with pytest.warns(UserWarning, match="few digits"):
            js.delta(lambda w, b, offset=offset: offset + loss(w, b), PROBE, DATA)


# Losses that remember


class Scaled:
    """A model that keeps arrays, as one does its batch statistics."""

    def __init__(self):
        self.scale = jnp.ones(())

    def loss(self, params, batch):
        return self.scale * loss(params, batch)


HELD = types.SimpleNamespace(scale=np.ones(()))


def from_a_global(params, batch):
    return HELD.scale * loss(params, batch)


def test_a_loss_is_the_one_of_its_last_values():
    model, box = Scaled(), [jnp.ones(())]
    closure = lambda w, b: box[0] * loss(w, b)  # noqa: E731

    def set_all(value):
        model.scale = box[0] = jnp.asarray(value)
        HELD.scale = np.asarray(value)

    calls = (
        lambda own: js.per_sample_losses(own, P, DATA)[0],
        lambda own: js.hessian_operator(own, P, DATA)(P)["w"][0],
        lambda own: js.project(own, SPACE, DATA).gradient[0, 0],
    )
    for own, chosen in ((model.loss, calls), (closure, calls[:1]), (from_a_global, calls[:1])):
        found = []
        for value in (1.0, 10.0, 1.0):
            set_all(value)
            found.append([call(own) for call in chosen])
        np.testing.assert_allclose(found[1], 10 * np.asarray(found[0]), rtol=1e-5)
        np.testing.assert_array_equal(found[2], found[0])


def test_an_array_that_is_written_in_place_is_read_anew():
    weights = np.ones(60, np.float32)
    own = lambda w, b: weights[0] * loss(w, b)  # noqa: E731
    first = js.per_sample_losses(own, P, DATA)[0]
    weights[0] = 3
    np.testing.assert_allclose(js.per_sample_losses(own, P, DATA)[0], 3 * first, rtol=1e-6)


# Samples that see each other


def normalised(params, batch):
    z = batch["x"] @ params["w"]
    return ((z - z.mean()) / (z.std() + 1e-3) - batch["y"]) ** 2


def dropped(params, batch):
    kept = jax.random.bernoulli(KEY, 0.5, batch["x"].shape)
    return loss(params, {"x": batch["x"] * kept, "y": batch["y"]})


def contrasted(params, batch):
    z = batch["x"] * params["w"]
    return jax.nn.logsumexp(z @ z.T, 1) - (z**2).sum(1)


def nnx_loss(evaluate):
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.BatchNorm(4, rngs=rngs)
            self.head = nnx.Linear(4, 1, rngs=rngs)

        def __call__(self, x):
            return self.head(self.norm(x))[:, 0]

    model = Model(nnx.Rngs(0))
    if evaluate:
        model.eval()
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def own(rest, w, batch):
        return (nnx.merge(graph, w, rest)(batch["x"]) - batch["y"]) ** 2

    return jax.tree_util.Partial(own, rest), params


@pytest.mark.parametrize("own", [normalised, dropped, contrasted])
def test_samples_that_see_each_other_are_refused(own):
    for call in (
        lambda: js.delta(own, PROBE, DATA),
        lambda: js.hessian_operator(own, P, DATA),
        lambda: js.project(own, SPACE, DATA),
        lambda: js.loss_variance(own, PROBE, DATA),
    ):
        with pytest.raises(InputError, match="do not see each other"):
            call()
    assert np.isfinite(js.delta(js.losses.coupled(own), PROBE, DATA).mean).all()


def test_a_network_in_training_mode_is_refused_and_in_evaluation_mode_taken():
    own, params = nnx_loss(evaluate=False)
    with pytest.raises(InputError, match=r"model\.eval\(\)"):
        js.per_sample_losses(own, params, DATA)
    own, params = nnx_loss(evaluate=True)
    ends = [js.per_sample_losses(own, params, DATA, batch_size=size) for size in (7, 60)]
    np.testing.assert_allclose(*ends, rtol=1e-5)


def test_no_way_past_the_check():
    """A flag of a Partial, data that were NaN, a model that takes no single sample, offsets."""

    def switched(training, w, b):
        return jnp.where(training, normalised(w, b), loss(w, b))

    def no_single(w, b):
        assert len(b["y"]) > 1
        return normalised(w, b)

    partial = jax.tree_util.Partial
    js.delta(partial(switched, jnp.array(False)), PROBE, DATA)
    broken = {"x": X.copy(), "y": Y}
    broken["x"][0] = np.nan
    with pytest.raises(InputError):
        js.delta(normalised, PROBE, broken)
    for own in (
        partial(switched, jnp.array(True)), normalised, no_single,
        lambda w, b: 1e3 + normalised(w, b),
    ):  # fmt: skip
        with pytest.raises(InputError, match="do not see each other"):
            js.delta(own, PROBE, DATA)


@dataclasses.dataclass
class Kept:
    """A loss that compares as its arrays do, which are no single truth."""

    scale: jax.Array

    def __call__(self, params, batch):
        return self.scale.sum() * loss(params, batch)


def test_what_a_printed_program_does_not_show_is_seen():
    factor = [1.0]

    def bent(w, b):
        @jax.custom_vjp
        def own(x):
            return x**2

        own.defvjp(lambda x: (x**2, x), lambda x, g: (2 * factor[0] * x * g,))
        return own(b["x"] @ w["w"] - b["y"])

    def called(w, b):
        shape = jax.ShapeDtypeStruct((len(b["y"]),), np.float32)
        return jax.pure_callback(lambda x: np.asarray(x) * np.float32(factor[0]), shape, loss(w, b))

    found = []
    for value in (1.0, 10.0):
        factor[0] = value
        product = js.hessian_operator(bent, P, DATA)(P)["w"]
        found.append((product, js.per_sample_losses(called, P, DATA)))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(other, 10 * one, rtol=1e-4)
    kept = [js.per_sample_losses(Kept(jnp.ones(2)), P, DATA) for _ in range(2)]
    np.testing.assert_array_equal(*kept)


def test_a_check_that_a_loss_cannot_take_says_nothing():
    """One that is of exactly so many samples is never cut into batches."""
    fixed = jnp.ones(60)
    curve = js.delta(lambda w, b: fixed * loss(w, b), PROBE, DATA, batch_size=60)
    np.testing.assert_allclose(curve.mean, delta64(), rtol=1e-4)


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
    for wrong in (3, (0, 5), {"flax": 0}):
        with pytest.raises(InputError, match="filter_axes"):
            js.random_subspace(KEY, w, dim=1, normalization="filter", filter_axes=wrong)


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
    with pytest.raises(InputError, match="product"):
        js.top_eigenpairs(KEY, lambda v: matrix[:3] @ np.asarray(v), np.zeros(8, np.float32), 2)


def test_filters_of_zeros_have_no_directions_of_their_norm():
    zeros = {"kernel": jnp.zeros((4, 3)), "bias": jnp.ones(3)}
    for kind in ("filter", "unit-filter"):
        with pytest.raises(InputError, match="not 0"):
            js.random_subspace(KEY, zeros, dim=2, normalization=kind)
        some = {"kernel": zeros["kernel"].at[:, 1].set(1.0), "bias": zeros["bias"]}
        space = js.random_subspace(KEY, some, dim=2, normalization=kind)
        assert jnp.isfinite(space.basis["kernel"]).all()


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


# Targets


def test_targets_are_classes_or_probabilities_of_the_logits_shape():
    z, y = jnp.asarray(RNG.normal(size=(5, 3)), jnp.float32), jnp.array([0, 2, 1, 1, 0])
    hard = js.losses.cross_entropy(z, y)
    np.testing.assert_allclose(js.losses.cross_entropy(z, jax.nn.one_hot(y, 3)), hard, rtol=1e-5)
    square = js.losses.cross_entropy(z[:3], jnp.eye(3))
    np.testing.assert_allclose(square, js.losses.cross_entropy(z[:3], jnp.arange(3)), rtol=1e-5)
    p = jax.nn.softmax(jnp.asarray(RNG.normal(size=(5, 3)), jnp.float32))
    want = (-np.asarray(p, np.float64) * np.asarray(jax.nn.log_softmax(z), np.float64)).sum(1)
    np.testing.assert_allclose(js.losses.cross_entropy(z, p), want, rtol=1e-5)
    for wrong in (y[:, None], y[:4], jnp.ones((5, 2)), y.astype(float)):
        with pytest.raises(InputError, match="classes of shape"):
            js.losses.cross_entropy(z, wrong)


# Batches


class Loader:
    """What a DataLoader is."""

    def __init__(self, wrap=lambda x: x):
        self.wrap = wrap

    def __iter__(self):
        for start in range(0, 60, 13):
            rows = slice(start, start + 13)
            yield {"x": self.wrap(X[rows]), "y": self.wrap(Y[rows])}

    def __len__(self):
        return 5


class Tensor:
    """An array of another library, which NumPy can read."""

    def __init__(self, values):
        self.values, self.shape = values, values.shape

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.values, dtype)


@pytest.mark.parametrize(
    "data",
    [Loader(), list(Loader()), lambda: iter(Loader()), Loader().__iter__, Loader(Tensor),
     tuple(Loader())],
    ids=["loader", "list", "function", "method", "tensors", "tuple"],
)  # fmt: skip
def test_batches_of_any_kind_are_data(data):
    np.testing.assert_allclose(js.delta(loss, PROBE, data).mean, delta64(), rtol=1e-4)
    level = js.loss_variance(loss, PROBE, data).interval.value
    np.testing.assert_allclose(level, losses64().var(1, ddof=1).mean(), rtol=1e-4)


def test_a_tuple_of_unlike_parts_is_one_batch():
    own = lambda w, b: loss(w, b[0] | b[1])  # noqa: E731
    for kind in (tuple, list):
        data = kind([{"x": X}, {"y": Y}])
        np.testing.assert_allclose(js.delta(own, PROBE, data).mean, delta64(), rtol=1e-4)


def test_a_surface_keeps_what_is_finite():
    def steep(w, batch):
        return loss(w, batch) + jnp.exp(jnp.exp(9 * w["w"][0]))

    grid = js.grid(js.Subspace(P, {"w": jnp.eye(4)[:2], "b": jnp.zeros(2)}), radius=1.0, num=9)
    sheet = js.surface(steep, grid, DATA, ks=(1, 60))
    finite = np.isfinite(np.asarray(sheet.loss))
    assert 0 < finite[1].sum() < 81
    assert sheet.nonfinite.tolist() == (81 - finite.sum(1)).tolist()
    plain = np.asarray(js.surface(loss, grid, DATA, ks=(60,)).loss[0])
    with np.errstate(over="ignore"):
        extra = np.exp(np.exp(9 * (0.3 + np.asarray(grid.coordinates[:, 0], np.float64))))
    np.testing.assert_allclose(sheet.loss[1][finite[1]], (plain + extra)[finite[1]], rtol=1e-3)
    with pytest.raises(InputError, match="at some point"):
        js.surface(lambda w, b: loss(w, b) * jnp.nan, grid, DATA, ks=(1,))


# One line, and no longer than a few

WRONG = {
    "data as lists": lambda: js.delta(loss, PROBE, {"x": X.tolist(), "y": Y.tolist()}),
    "many lists": lambda: js.delta(loss, PROBE, [[0.0] * 4] * 5000),
    "parameters as probe": lambda: js.delta(loss, P, DATA),
    "subspace as probe": lambda: js.surface(loss, SPACE, DATA, ks=(1,)),
    "key of zero": lambda: js.random_subspace(0, P, dim=2),
    "key of a float": lambda: js.gaussian(1.5, SPACE, num_points=4, sigma=0.1),
    "key of none": lambda: js.isotropic(None, P, num_points=4, sigma=0.1),
    "key for eigenpairs": lambda: js.top_eigenpairs(0, lambda v: v, P, 1),
    "points of text": lambda: js.gaussian(KEY, SPACE, num_points="many", sigma=0.1),
    "dim of a float": lambda: js.random_subspace(KEY, P, dim=2.5),
    "Boolean loss": lambda: js.hessian_operator(lambda w, b: b["x"] @ w["w"] > 0, P, DATA),
    "integer loss": lambda: js.delta(lambda w, b: jnp.ones(len(b["y"]), int), PROBE, DATA),
    "mean loss": lambda: js.delta(lambda w, b: loss(w, b).mean(), PROBE, DATA),
    "arguments swapped": lambda: js.delta(PROBE, loss, DATA),
    "text among parameters": lambda: js.random_subspace(KEY, {"w": "hello"}, dim=2),
    "loader for an operator": lambda: js.hessian_operator(loss, P, Loader()),
    "iterator for a projection": lambda: js.project(loss, SPACE, iter(Loader())),
    "batches of text": lambda: js.delta(loss, PROBE, iter(["a", "b"])),
    "no callable": lambda: js.top_eigenpairs(KEY, np.eye(3), np.zeros(3), 1),
    "k beyond": lambda: js.surface(loss, PROBE, DATA, ks=61),
    "large tree": lambda: js.hessian_operator(
        lambda w, b: b @ w["0"], {str(i): jnp.ones(2) for i in range(500)}, jnp.ones((3, 2))
    )({str(i): jnp.ones(3) for i in range(500)}),
}  # fmt: skip


def answers():
    """What each of ``WRONG`` says, by its name: the type of the error and its text."""
    found = {}
    for name, call in WRONG.items():
        try:
            call()
            found[name] = "nothing", ""
        except Exception as error:  # any at all
            found[name] = type(error).__name__, str(error)
    return found


def test_a_wrong_argument_is_one_short_line():
    """In a process of its own: the tests' own check of types would speak first."""
    script = "import json, test_inputs; print(json.dumps(test_inputs.answers()))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parent
    )
    found = json.loads(done.stdout)
    assert len(found) == len(WRONG)
    for name, (kind, said) in found.items():
        assert kind == "InputError", (name, kind, said)
        assert len(said) <= 600, name
        assert "\n" not in said, name
        assert "expected" in said, name


def test_one_k_is_a_k_and_python_numbers_are_parameters():
    sheet = js.surface(loss, PROBE, DATA, ks=60)
    np.testing.assert_allclose(sheet.loss[0], losses64().mean(1), rtol=1e-5)
    params = {"w": jnp.full(4, 0.3), "b": 2.0}
    probe = js.gaussian(KEY, js.random_subspace(KEY, params, dim=2), num_points=4, sigma=0.1)
    want = (increments64(losses64(probe)) ** 2).mean(0)
    np.testing.assert_allclose(js.delta(loss, probe, DATA).mean, want, rtol=1e-4)


# What a second look at the same kinds brought


def test_losses_that_stream_from_one_buffer_are_those_of_their_time():
    rows, found = RNG.exponential(size=(2, 40_000)).astype(np.float32), []
    for wrap in (np.copy, lambda buffer: buffer):
        watch = js.monitor(num_points=2, tolerance=1e-5)
        state, buffer = watch.init(), np.empty((2, 10_000), np.float32)
        for i in range(4):
            buffer[:] = (i + 1) * rows[:, 10_000 * i : 10_000 * (i + 1)]
            state = watch.update(state, wrap(buffer))
        found.append(float(watch.decide(state).loss_variance.interval.value))
    assert found[0] == found[1]


def test_arrays_of_jax_that_lie_in_a_loaders_buffer():
    def batches():
        buffer = np.zeros((20, 4), np.float32)
        for i in range(3):
            buffer[:] = X[20 * i : 20 * (i + 1)]
            yield {"x": jnp.from_dlpack(buffer), "y": Y[20 * i : 20 * (i + 1)]}

    np.testing.assert_allclose(js.delta(loss, PROBE, batches()).mean, delta64(), rtol=1e-4)


class Scale:
    """An operator that belongs to an object."""

    def times(self, vector):
        return self.scale * jnp.arange(9.0) * vector


def test_a_compiled_loss_a_rule_of_jvp_and_an_operators_object_are_read_anew():
    factor, scale = [1.0], Scale()

    @jax.jit
    def compiled(w, b):
        return factor[0] * loss(w, b)

    def ruled(w, b):
        own = factor[0]

        @jax.custom_jvp
        def bent(x):
            return x * 1.0

        bent.defjvp(lambda p, t: (p[0], own * t[0]))
        return bent(loss(w, b))

    operator = jax.tree_util.Partial(scale.times)
    found = []
    for factor[0] in (1.0, 10.0):
        scale.scale = factor[0]
        top = js.top_eigenpairs(KEY, operator, jnp.zeros(9), 1).values
        products = [js.hessian_operator(own, P, DATA)(P)["w"] for own in (compiled, ruled)]
        found.append((js.per_sample_losses(compiled, P, DATA), *products, top))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(other, 10 * one, rtol=1e-4)


def test_checkpoints_of_other_forms_are_refused():
    for wrong in ([{"a": jnp.ones(3)}, {"b": jnp.ones(3)}], {0: jnp.ones(3), 1: jnp.zeros(3)}):
        with pytest.raises(InputError, match="expected"):
            js.trajectory_subspace(wrong, dim=1)


def test_a_tolerance_that_none_can_meet_is_not_reached():
    for tolerance in (jnp.nan, -1.0):
        found = js.exceedance_size(jnp.ones(50), 49, jnp.float32(tolerance))
        assert not any(bool(size.reached) for size in found)


def test_numbers_among_the_parameters_of_an_isotropic_probe():
    probe = js.isotropic(KEY, {"w": jnp.full(4, 0.3), "b": 2.0}, num_points=4, sigma=0.1)
    want = (increments64(losses64(probe)) ** 2).mean(0)
    np.testing.assert_allclose(js.delta(loss, probe, DATA).mean, want, rtol=1e-4)


def test_a_gauss_newton_product_of_a_model_without_forward_mode():
    model = lambda w, b: squared(b["x"] @ w["w"] + w["b"])  # noqa: E731
    plain = lambda w, b: (b["x"] @ w["w"] + w["b"]) ** 2  # noqa: E731
    out = lambda z, b: (z - b["y"]) ** 2  # noqa: E731
    one, other = (js.ggn_operator(own, out, P, DATA)(P)["w"] for own in (model, plain))
    np.testing.assert_allclose(one, other, rtol=1e-4)


def test_masks_flat_logits_and_fractions_of_k_are_refused():
    masked = {"x": np.ma.masked_array(X, X > 1), "y": Y}
    for call in (
        lambda: js.delta(loss, PROBE, masked),
        lambda: js.hessian_operator(loss, P, masked),
        lambda: js.losses.cross_entropy(jnp.ones(3), jnp.ones(3)),
        lambda: js.surface(loss, PROBE, DATA, ks=(1.5,)),
    ):
        with pytest.raises(InputError, match="expected"):
            call()


@pytest.mark.parametrize("scale", [1e25, 1e-25])
def test_filters_far_from_one_keep_their_norm(scale):
    w = jnp.full((2, 3), scale)
    basis = js.random_subspace(KEY, w, dim=1, normalization="filter").basis[0]
    np.testing.assert_allclose(jnp.linalg.norm(basis / scale, axis=0), 2**0.5, rtol=1e-5)


def test_a_level_of_losses_far_from_zero_is_doubted():
    far = lambda w, b: 1e9 + loss(w, b)  # noqa: E731
    with pytest.warns(UserWarning, match="few digits"):
        js.loss_variance(far, PROBE, DATA)
