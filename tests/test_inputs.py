"""What losses, samples and batches people feed the library: the right number, or one line."""

import dataclasses
import json
import subprocess
import sys
import types
from pathlib import Path

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import increments64
from regression import DATA, KEY, PROBE, RNG, SPACE, P, X, Y, delta64, loss, losses64

import jaxscape as js
from jaxscape import InputError

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


def test_a_level_of_losses_far_from_zero_is_doubted():
    far = lambda w, b: 1e9 + loss(w, b)  # noqa: E731
    with pytest.warns(UserWarning, match="few digits"):
        js.loss_variance(far, PROBE, DATA)


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
    """A flag of a Partial, data that were NaN, a loss of no single sample or NaN there, offsets."""

    def switched(training, w, b):
        return jnp.where(training, normalised(w, b), loss(w, b))

    def no_single(w, b):
        assert len(b["y"]) > 1
        return normalised(w, b)

    def undefined_alone(w, b):  # 0 / 0
        return normalised(w, b) + 0 * b["x"].std() / b["x"].std(0).max()

    partial = jax.tree_util.Partial
    js.delta(partial(switched, jnp.array(False)), PROBE, DATA)
    broken = {"x": X.copy(), "y": Y}
    broken["x"][0] = np.nan
    with pytest.raises(InputError):
        js.delta(normalised, PROBE, broken)
    for own in (
        partial(switched, jnp.array(True)), normalised, no_single, undefined_alone,
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


def test_numbers_among_the_parameters_of_an_isotropic_probe():
    probe = js.isotropic(KEY, {"w": jnp.full(4, 0.3), "b": 2.0}, num_points=4, sigma=0.1)
    want = (increments64(losses64(probe)) ** 2).mean(0)
    np.testing.assert_allclose(js.delta(loss, probe, DATA).mean, want, rtol=1e-4)


# One line, and no longer than a few

WRONG = {
    "data as lists": lambda: js.delta(loss, PROBE, {"x": X.tolist(), "y": Y.tolist()}),
    "many lists": lambda: js.delta(loss, PROBE, [[0.0] * 4] * 5000),
    "parameters as probe": lambda: js.delta(loss, P, DATA),
    "subspace as probe": lambda: js.surface(loss, SPACE, DATA, ks=(1,)),
    "curve for its values": lambda: js.sufficient_size(js.delta(loss, PROBE, DATA), 1e-3),
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
    "iterator for an operator": lambda: js.hessian_operator(loss, P, iter(Loader())),
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
    assert "make one: js.gaussian" in found["subspace as probe"][1]
    assert "found Delta; give its .mean" in found["curve for its values"][1]
    for name, (kind, said) in found.items():
        assert kind == "InputError", (name, kind, said)
        assert len(said) <= 600, name
        assert "\n" not in said, name
        assert "expected" in said, name


def test_a_wrong_argument_says_what_to_do():
    masked = {"x": np.ma.masked_array(X, X > 1), "y": Y}
    for call in (js.hessian_operator, lambda *args: js.project(loss, SPACE, masked)):
        with pytest.raises(InputError, match="found a masked one"):
            call(loss, P, masked)
    for few in ([], [P]):
        with pytest.raises(InputError, match="at least 2 parameters"):
            js.trajectory_subspace(few)


def test_one_k_is_a_k_and_python_numbers_are_parameters():
    sheet = js.surface(loss, PROBE, DATA, ks=60)
    np.testing.assert_allclose(sheet.loss[0], losses64().mean(1), rtol=1e-5)
    params = {"w": jnp.full(4, 0.3), "b": 2.0}
    probe = js.gaussian(KEY, js.random_subspace(KEY, params, dim=2), num_points=4, sigma=0.1)
    want = (increments64(losses64(probe)) ** 2).mean(0)
    np.testing.assert_allclose(js.delta(loss, probe, DATA).mean, want, rtol=1e-4)
