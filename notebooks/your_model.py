# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your model
#
# jaxscape asks a project for one function,
#
# ```python
# loss(params, batch) -> [n]      # one loss per sample, before any mean
# ```
#
# for any pytree of parameters and any pytree of arrays with a leading sample axis. Here it is
# written in Flax Linen (with batch statistics), Flax NNX, Equinox and Haiku, with a loss of one's
# own, with a part of the parameters frozen, and under `jit` and `vmap`.

# %%
import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx
from jax.tree_util import Partial

import jaxscape as js
from jaxscape.lab import plot, style

# %matplotlib inline
plt.rcParams.update(style.STYLE)

# %% tags=["parameters"]
SAMPLES = 4000
STEPS = 1000  # of training
POINTS = 64  # random points of parameter space

# %% [markdown]
# Two blurred spirals in the plane, one class each: small, so that every cell takes seconds.

# %%
rng = np.random.default_rng(0)
label = rng.integers(2, size=SAMPLES)
radius = rng.uniform(0.3, 3.0, SAMPLES)
angle = 2 * radius + np.pi * label
x = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
x += rng.normal(0, 0.5, x.shape)
data = {"x": jnp.asarray(x, jnp.float32), "y": jnp.asarray(label)}
key = jax.random.key(0)
optimizer = optax.adam(1e-2)


@jax.jit
def fit(loss, params):
    """Adam on the mean loss of all samples; ``loss`` is a ``Partial``, so a pytree."""

    def step(carry, _):
        params, state = carry
        gradient = jax.grad(lambda params: loss(params, data).mean())(params)
        update, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, update), state), None

    return jax.lax.scan(step, (params, optimizer.init(params)), length=STEPS)[0][0]


def look(loss, params):
    """Δ_k of every k around the parameters, in a random plane (quickstart: Hessian directions)."""
    space = js.random_subspace(key, params, dim=2)
    return js.delta(loss, js.gaussian(key, space, POINTS, sigma=1.0), data)


curves = {}

# %% [markdown]
# ## Flax Linen, with frozen batch statistics
#
# The loss of one sample must not depend on the others. So batch normalisation runs on its stored
# averages, as it does at test time (`use_running_average=True`). They are not parameters. They
# travel in a `jax.tree_util.Partial`, whose arrays are arguments of the compiled program: after
# more training the new averages count, and no program is compiled again.


# %%
class Network(nn.Module):
    """Two dense layers, the first one normalised."""

    @nn.compact
    def __call__(self, x, training=False):
        x = nn.Dense(64)(x)
        x = nn.tanh(nn.BatchNorm(use_running_average=not training, momentum=0.9)(x))
        return nn.Dense(2)(x)


model = Network()
variables = model.init(key, data["x"])


@jax.jit
def train(variables):
    """Training as usual, on the statistics of the batch, while their averages are kept."""

    def step(carry, _):
        params, statistics, state = carry

        def mean_loss(params):
            logits, kept = model.apply(
                {"params": params, "batch_stats": statistics},
                data["x"],
                training=True,
                mutable=["batch_stats"],
            )
            return js.losses.cross_entropy(logits, data["y"]).mean(), kept["batch_stats"]

        gradient, statistics = jax.grad(mean_loss, has_aux=True)(params)
        update, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, update), statistics, state), None

    params, statistics = variables["params"], variables["batch_stats"]
    return jax.lax.scan(step, (params, statistics, optimizer.init(params)), length=STEPS)[0][:2]


linen, statistics = train(variables)


def with_statistics(statistics, params, batch):
    logits = model.apply({"params": params, "batch_stats": statistics}, batch["x"])
    return js.losses.cross_entropy(logits, batch["y"])


linen_loss = Partial(with_statistics, statistics)
curves["Flax Linen"] = look(linen_loss, linen)

# %% [markdown]
# ## Flax NNX
#
# Call `network.eval()` first: dropout and batch normalisation must not depend on the batch. Then
# split off what may move, `nnx.Param`. The rest (batch statistics, generators) goes into the
# `Partial`.

# %%
rngs = nnx.Rngs(0)
network = nnx.Sequential(nnx.Linear(2, 64, rngs=rngs), nnx.tanh, nnx.Linear(64, 2, rngs=rngs))
network.eval()
graph, params, rest = nnx.split(network, nnx.Param, ...)


def with_rest(rest, params, batch):
    logits = nnx.merge(graph, params, rest)(batch["x"])
    return js.losses.cross_entropy(logits, batch["y"])


nnx_loss = Partial(with_rest, rest)
curves["Flax NNX"] = look(nnx_loss, fit(nnx_loss, params))

# %% [markdown]
# ## Equinox
#
# Split off the arrays; the model takes one sample, so `vmap` it over the batch.

# %%
network = eqx.nn.MLP(2, 2, width_size=64, depth=1, activation=jnp.tanh, key=key)
params, static = eqx.partition(network, eqx.is_inexact_array)


def equinox_loss(params, batch):
    logits = jax.vmap(eqx.combine(params, static))(batch["x"])
    return js.losses.cross_entropy(logits, batch["y"])


equinox_trained = fit(Partial(equinox_loss), params)
curves["Equinox"] = look(equinox_loss, equinox_trained)

# %% [markdown]
# ## Haiku

# %%
network = hk.transform(lambda x: hk.nets.MLP([64, 2], activation=jnp.tanh)(x))
network = hk.without_apply_rng(network)


def haiku_loss(params, batch):
    return js.losses.cross_entropy(network.apply(params, batch["x"]), batch["y"])


untrained = network.init(key, data["x"])
trained = fit(Partial(haiku_loss), untrained)
curves["Haiku"] = look(haiku_loss, trained)

# %% [markdown]
# Four libraries, four networks, one question. Three have the same layers and much the same level.
# The one with batch normalisation lies higher. The peaks that they share are single samples, which
# reach all four in the same order. That $\Delta_k \cdot k^2$ is flat is algebra and says nothing.

# %%
rows = list(curves.values())
figure = plot.delta_k2(
    np.asarray(rows[0].k),
    np.array([curve.mean for curve in rows]),
    np.array([curve.sem for curve in rows]),
    list(curves),
    loss_variance=np.array([curve.loss_variance.mean() for curve in rows]),
)
plot.name_data(figure, "two spirals, σ = 1")

# %% [markdown]
# ## A loss of your own
#
# Anything that gives one number per sample. Optax's losses do; those that are elementwise, sum over
# all axes but the first. A padded sequence becomes one sample by
# `js.losses.per_sequence(token_losses, mask)`. Where losses become tiny, `js.losses.cross_entropy`
# keeps digits that others lose: a loss of $10^{-6}$ has them all in float32.


# %%
def smoothed_cross_entropy(statistics, params, batch):
    logits = model.apply({"params": params, "batch_stats": statistics}, batch["x"])
    smooth = optax.smooth_labels(jax.nn.one_hot(batch["y"], 2), 0.1)
    return optax.softmax_cross_entropy(logits, smooth)


smoothed_loss = Partial(smoothed_cross_entropy, statistics)
smoothed = look(smoothed_loss, linen)
print(f"E S² of plain labels    {curves['Flax Linen'].loss_variance.mean():.3g} nats²")
print(f"E S² of smoothed labels {smoothed.loss_variance.mean():.3g} nats²")

# %% [markdown]
# A mean over the batch is the usual slip, and is refused:

# %%
try:
    look(lambda params, batch: smoothed_loss(params, batch).mean(), linen)
except js.InputError as error:
    print(error)

# %% [markdown]
# ## Only some of the parameters
#
# `js.partition` takes parameters apart by a mask. What is frozen goes into the `Partial`. A new
# frozen part then needs no new program, and large frozen weights are not copied.

# %%
last, body = js.partition(linen, {name: name == "Dense_1" for name in linen})


def with_body(frozen, last, batch):
    body, statistics = frozen
    return with_statistics(statistics, js.combine(last, body), batch)


last_loss = Partial(with_body, (body, statistics))
last_layer = look(last_loss, last)
count = sum(leaf.size for leaf in jax.tree.leaves(last))
print(f"last layer, {count} parameters: E S² {last_layer.loss_variance.mean():.3g} nats²")

# %% [markdown]
# ## A training run on the Hessian's plane
#
# Keep parameters while you train. `coordinates_of` projects each onto the plane of the two leading
# eigenvectors of the Hessian at the last one. Two runs from one start, of Adam and of gradient
# descent, are drawn on the plane of Adam's end. A dot is where the plane is closest to a network.
# The colours are losses in the plane, not along the run.


# %%
def run(optimizer, params, steps=STEPS, kept=20):
    """The parameters at ``kept`` moments of a training run, stacked."""

    def step(carry, _):
        params, state = carry
        gradient = jax.grad(lambda params: equinox_loss(params, data).mean())(params)
        update, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, update), state), None

    def some(carry, _):
        carry, _ = jax.lax.scan(step, carry, length=steps // kept)
        return carry, carry[0]

    start = params, optimizer.init(params)
    return jax.jit(lambda start: jax.lax.scan(some, start, length=kept)[1])(start)


runs = {"Adam": run(optimizer, params), "gradient descent": run(optax.sgd(0.3), params)}
end = jax.tree.map(lambda leaf: leaf[-1], runs["Adam"])
plane = js.hessian_subspace(key, equinox_loss, end, data, dim=2)
paths = {name: np.asarray(jax.vmap(plane.coordinates_of)(points)) for name, points in runs.items()}
reach = 1.2 * max(np.abs(path).max() for path in paths.values())
steps = np.linspace(-reach, reach, 41)
sheet = js.surface(equinox_loss, js.grid(plane, reach, 41), data, ks=(100, SAMPLES))
each = zip(sheet.k.tolist(), np.asarray(sheet.loss).reshape(-1, 41, 41), strict=True)
panels = {f"k = {k}": loss for k, loss in each}
words = {"title": "L_k around Adam's end, two spirals", "quantity": "mean loss (nats)"}
plot.contours(steps, panels, path=paths, **words)

# %% [markdown]
# `plot.reliefs` takes the same arguments. `plot.write_vtk("loss.vtk", steps, panels)` writes the
# panels for ParaView, and `np.savez("loss.npz", **sheet._asdict())` for NumPy.

# %% [markdown]
# ## Under your `jit` and `vmap`
#
# Every function is pure, takes its keys and prints nothing. Here two Haiku networks at once, before
# and after training. $\mathrm{E}_w S^2$ is the level of the order law: the smaller it is, the
# sooner the landscape is still. Training raises it here. At first the losses are all much alike.
# Then most are small, and those of samples amid the other class are large.


# %%
@jax.jit
@jax.vmap
def level(params):
    """E_w S² of a network."""
    return look(haiku_loss, params).loss_variance.mean()


before, after = level(jax.tree.map(lambda *leaves: jnp.stack(leaves), untrained, trained))
print(f"E S² {before:.3g} nats² before training, {after:.3g} after")
