"""One network written in five ways, with the same weights: the same answers from each."""

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import at64, float64, increments64
from flax import nnx

import jaxscape as js
from jaxscape import losses

KEY = jax.random.key(0)
N, INPUTS, HIDDEN, OUTPUTS, D = 60, 6, 5, 3, 3
SHAPES = {
    "w1": (INPUTS, HIDDEN), "b1": (HIDDEN,), "scale": (HIDDEN,), "shift": (HIDDEN,),
    "w2": (HIDDEN, OUTPUTS), "b2": (OUTPUTS,),
}  # fmt: skip
RNG = np.random.default_rng(0)
PARAMS = {name: jnp.asarray(RNG.normal(size=s), jnp.float32) for name, s in SHAPES.items()}
MEAN = jnp.asarray(RNG.normal(size=HIDDEN), jnp.float32)
VARIANCE = jnp.asarray(RNG.uniform(0.5, 2, size=HIDDEN), jnp.float32)
DATA = {
    "inputs": jnp.asarray(RNG.normal(size=(N, INPUTS)), jnp.float32),
    "targets": jnp.asarray(RNG.integers(OUTPUTS, size=N)),
}


def plain():
    def apply(p, inputs, np=jnp):
        hidden = (inputs @ p["w1"] + p["b1"] - MEAN) / np.sqrt(VARIANCE + 1e-5)
        return np.maximum(hidden * p["scale"] + p["shift"], 0) @ p["w2"] + p["b2"]

    return apply, lambda leaves: leaves


def as_leaves(like, *names):
    """From named arrays to a tree like ``like``; ``.T``: of arrays stored transposed."""
    tree = jax.tree.structure(like)

    def leaf(leaves, name):
        array = leaves[name.removesuffix(".T")]
        return array.swapaxes(-1, -2) if name.endswith(".T") else array

    return lambda leaves: tree.unflatten([leaf(leaves, name) for name in names])


def linen():
    norm = nn.BatchNorm(use_running_average=True)
    model = nn.Sequential([nn.Dense(HIDDEN), norm, nn.relu, nn.Dense(OUTPUTS)])
    like = model.init(KEY, DATA["inputs"])["params"]
    statistics = {"layers_1": {"mean": MEAN, "var": VARIANCE}}

    def apply(params, inputs):
        return model.apply({"params": params, "batch_stats": statistics}, inputs)

    return apply, as_leaves(like, "b1", "w1", "shift", "scale", "b2", "w2")


def flax_nnx():
    class Network(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(INPUTS, HIDDEN, rngs=rngs)
            self.norm = nnx.BatchNorm(HIDDEN, use_running_average=True, rngs=rngs)
            self.noise = nnx.Dropout(0.5, deterministic=True, rngs=rngs)
            self.second = nnx.Linear(HIDDEN, OUTPUTS, rngs=rngs)

        def __call__(self, inputs):
            return self.second(self.noise(nnx.relu(self.norm(self.first(inputs)))))

    model = Network(nnx.Rngs(0))
    model.norm.mean.set_value(MEAN)
    model.norm.var.set_value(VARIANCE)
    graph, like, rest = nnx.split(model, nnx.Param, ...)
    apply = lambda params, inputs: nnx.merge(graph, params, rest)(inputs)  # noqa: E731
    return apply, as_leaves(like, "b1", "w1", "shift", "scale", "b2", "w2")


def equinox():
    class Network(eqx.Module):
        first: eqx.nn.Linear
        norm: eqx.nn.BatchNorm
        activation: object
        second: eqx.nn.Linear

        def __init__(self, key):
            keys = jax.random.split(key)
            self.first = eqx.nn.Linear(INPUTS, HIDDEN, key=keys[0])
            self.norm = eqx.nn.BatchNorm(HIDDEN, "batch", mode="ema", inference=True)
            self.activation = jax.nn.relu
            self.second = eqx.nn.Linear(HIDDEN, OUTPUTS, key=keys[1])

        def __call__(self, x, state):
            return self.second(self.activation(self.norm(self.first(x), state)[0]))

    model, state = eqx.nn.make_with_state(Network)(KEY)
    state = state.set(model.norm.ema_state_index, (MEAN, VARIANCE))
    like, static = eqx.partition(model, eqx.is_inexact_array)

    def apply(params, inputs):
        network = eqx.combine(params, static)
        return jax.vmap(lambda x: network(x, state), axis_name="batch")(inputs)

    return apply, as_leaves(like, "w1.T", "b1", "scale", "shift", "w2.T", "b2")


def haiku():
    def forward(inputs, is_training):
        hidden = hk.Linear(HIDDEN)(inputs)
        hidden = hk.BatchNorm(True, True, 0.9)(hidden, is_training)
        return hk.Linear(OUTPUTS)(jax.nn.relu(hidden))

    network = hk.without_apply_rng(hk.transform_with_state(forward))
    like, state = network.init(KEY, DATA["inputs"], is_training=True)
    averages = {"mean": MEAN, "var": VARIANCE}
    state = {
        name: entry | {"average": averages[name.split("/")[-1].removesuffix("_ema")][None]}
        for name, entry in state.items()
    }
    names = as_leaves(like, "shift", "scale", "b1", "w1", "b2", "w2")

    def of(leaves):  # statistics, and so these, have a leading axis of 1
        return names(leaves | {n: leaves[n][..., None, :] for n in ("scale", "shift")})

    return lambda params, inputs: network.apply(params, state, inputs, False)[0], of


SYSTEMS = (plain, linen, flax_nnx, equinox, haiku)


@pytest.fixture(scope="module")
def systems():
    """Of each, the loss and how it holds named arrays; made once, so that programs are kept."""
    return {make: (losses.supervised(apply), of) for make in SYSTEMS for apply, of in [make()]}


@pytest.fixture(scope="module")
def truth():
    """A subspace, points in it, and the losses there in float64 NumPy."""
    space = js.random_subspace(KEY, PARAMS, D)
    theta = 0.5 * jax.random.normal(KEY, (8, D))
    data = float64(DATA)

    def losses64(point):
        z = plain()[0](point, data["inputs"], np)
        return np.log(np.exp(z).sum(1)) - z[np.arange(N), data["targets"]]

    return space, theta, np.stack([losses64(at64(space, t)) for t in theta])


@pytest.mark.parametrize("make", SYSTEMS)
def test_five_systems_one_curve(systems, truth, make):
    """Each within 1e-6 of the exact curve.

    Losses hold seven digits. So do their differences ℓ_{k+1} − L_k, but for the digits that
    cancel: hence 1e-7 of the squared losses themselves in the error of (k+1)² Δ_k.
    """
    loss, of = systems[make]
    space, theta, rows = truth
    got = js.delta(loss, js.points(js.Subspace(of(PARAMS), of(space.basis)), theta), DATA)
    scale, cancelled = (got.k + 1.0) ** 2, 1e-7 * np.mean(rows**2)
    want = scale * (increments64(rows) ** 2).mean(0)
    np.testing.assert_allclose(scale * got.mean, want, rtol=1e-6, atol=cancelled)
    np.testing.assert_allclose(got.loss_variance, rows.var(1, ddof=1), rtol=1e-6)


def answers(loss, of, space):
    """Curvature, the quadratic model, and a surface over the leading eigenvectors."""
    space = js.Subspace(of(space.origin), of(space.basis))
    first = jax.tree.map(lambda leaf: leaf[0], space.basis)
    top = js.hessian_subspace(jax.random.key(0), loss, space.origin, DATA, 2, tol=1e-5)
    eigen = js.project(loss, top, DATA).hessian.mean(0)
    sheet = js.surface(loss, js.grid(space, radius=1.0, num=2), DATA, ks=(1, N))
    product = js.hessian_operator(loss, space.origin, DATA)(first)
    assert jax.tree.structure(product) == jax.tree.structure(space.origin)
    return product, js.project(loss, space, DATA), jnp.abs(eigen), sheet


@pytest.mark.slow
@pytest.mark.parametrize("make", [flax_nnx, equinox])
def test_nothing_assumes_dicts_of_arrays(systems, truth, make):
    """Nodes of classes of their own, places without an array, arrays stored transposed."""
    loss, of = systems[make]
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)  # noqa: E731
    product, *others = answers(*systems[plain], truth[0])
    jax.tree.map(close, answers(loss, of, truth[0]), (of(product), *others))
