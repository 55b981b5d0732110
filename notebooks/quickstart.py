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
# # When does more training data stop reshaping a network's loss landscape?
#
# A network has been trained to parameters $w^*$. Sample $i$ has the loss $\ell_i(w)$, the first $k$
# samples have the mean
#
# $$L_k(w) = \frac1k \sum_{i \le k} \ell_i(w),$$
#
# and one more sample moves this surface by
#
# $$\delta_k(w) = L_{k+1}(w) - L_k(w) = \frac{\ell_{k+1}(w) - L_k(w)}{k+1}.$$
#
# How much does it still move? That is the mean square over points $w$ around $w^*$,
#
# $$\Delta_k = \mathrm{E}_w\,[\delta_k(w)^2],$$
#
# here for **every** $k$, from one pass over the data. Five lines ask the question, three figures
# answer it.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import jaxscape as js
from jaxscape.lab import data, models, plot, style, train

# %matplotlib inline
plt.rcParams.update(style.STYLE | {"figure.dpi": 75})

# %% [markdown]
# The sizes of this run. On two CPU cores it takes a few minutes; with fewer samples, points and
# steps of the grid, seconds.

# %% tags=["parameters"]
DATASET = "auto"  # MNIST where it is on disk or can be downloaded, else digits drawn from fonts
SAMPLES = 60_000  # the network is trained on them, and k goes up to them
EPOCHS = 10
POINTS = 128  # random points of parameter space at each sigma
GRID = 17  # points along each side of a surface

# %% [markdown]
# ## A trained network
#
# All that jaxscape asks of a project is `loss(params, batch)`, which gives one loss per sample
# (see `your_model`). Here: a 784-256-256-10 network, cross-entropy, Adam.

# %%
source = data.load(DATASET)
shuffled = np.random.default_rng(0).permutation(len(source.train_inputs))[:SAMPLES]
samples = {
    "inputs": jnp.asarray(source.train_inputs[shuffled]),
    "targets": jnp.asarray(source.train_targets[shuffled]),
}
model = models.build("mlp", num_outputs=10)
loss = js.losses.supervised(model.apply)  # cross-entropy of each sample, in nats

init_key, train_key, probe_key = jax.random.split(jax.random.key(0), 3)
start = model.init(init_key, samples["inputs"])
fitted = train.fit(
    train_key, loss, start, samples, epochs=EPOCHS, batch_size=64, learning_rate=1e-3
)
params = fitted.params

accuracy = train.accuracy(
    model.apply, params, source.test_inputs, source.test_targets, batch_size=1000
)
count = sum(leaf.size for leaf in jax.tree.leaves(params))
print(source.note or f"{source.label}: {SAMPLES:,} samples, {count:,} parameters")
print(f"training loss {fitted.epoch_losses[-1]:.3g} nats, test accuracy {accuracy:.2%}")

# %% [markdown]
# ## Five lines
#
# Where to look: along the ten directions in which the loss curves most, the leading eigenvectors of
# its Hessian over all samples, by steps $\theta \sim \mathcal N(0, \sigma^2 I)$. Close to $w^*$ and
# far from it the answers differ, so there are two values of $\sigma$.

# %%
SIGMAS = (0.01, 1.0)  # standard deviation along each direction, in units of the parameters
TOLERANCES = jnp.array([1e-4, 1e-5, 1e-6, 1e-7])  # of Δ_k, in nats²

space = js.hessian_subspace(probe_key, loss, params, samples, dim=10)
probes = [js.gaussian(probe_key, space, POINTS, sigma) for sigma in SIGMAS]
curves = [js.delta(loss, probe, samples) for probe in probes]
law = js.quadratic_delta(js.project(loss, space, samples), jnp.array(SIGMAS))
sizes = [js.sufficient_size(curve.mean, TOLERANCES) for curve in curves]

# %% [markdown]
# ## Three figures
#
# **The surface as samples arrive.** $L_k$ over the two leading directions. With ten samples it is
# the landscape of those ten; with a thousand it looks much like that of them all. (The trained
# point lies a little beside the lowest, where the last steps of Adam left it.)

# %%
ks = (10, 1000, SAMPLES)
sheet = js.surface(loss, js.grid(space, radius=1.0, num=GRID), samples, ks=ks)
steps = np.linspace(-1, 1, GRID)
panels = {f"k = {k:,}": np.reshape(z, (GRID, GRID)) for k, z in zip(ks, sheet.loss, strict=True)}
title, quantity = "Mean loss of $k$ samples", "$L_k$ (nats)"
plot.name_data(plot.contours(steps, panels, title=title, quantity=quantity), source.label)

# %% [markdown]
# **How much it still moves.** $\Delta_k \cdot k^2$ is flat, and that is algebra, not a discovery:
# averaged over all orders of the samples, exactly,
#
# $$\mathrm{E}[\delta_k(w)^2] = \frac{S^2(w)}{k(k+1)},$$
#
# where $S^2(w)$ is the variance of the loss over the samples. So $\Delta_k$ falls as $k^{-2}$ for
# *any* network, and the information is in the level $\mathrm{E}_w S^2$, dashed. Each value depends
# on the one sample $k+1$: the dots are extremes, the lines means over bins of $k$. Close to a
# well-trained network a few samples of large loss determine $S^2$. A single order then lies far
# below the dashed line until enough of them have come.

# %%
k = np.asarray(curves[0].k)
delta, sem = (np.array([getattr(c, name) for c in curves]) for name in ("mean", "sem"))
level = np.array([curve.loss_variance.mean() for curve in curves])
labels = [f"σ = {sigma:g}" for sigma in SIGMAS]
plot.name_data(plot.delta_k2(k, delta, sem, labels, loss_variance=level), source.label)

# %% [markdown]
# **What theory says of it.** In a quadratic landscape the increment is
# $\delta_k(\theta) = a + b^\top\theta + \tfrac12 \theta^\top A \theta$, and then exactly
#
# $$\Delta_k = a^2 + \sigma^2 a \operatorname{tr} A + \sigma^2 \|b\|^2
# + \tfrac{\sigma^4}{4}\left(2\|A\|_F^2 + (\operatorname{tr} A)^2\right).$$
#
# The last part alone, the curvature's, is Theorem 1 of Nikitin et al. (2025). Believe a law only
# where it agrees with Monte-Carlo. $\Delta_k$ falls as $1/k^2$, so each $k$ weighs $k(k+1)$ in the
# mean. A few samples may still dominate it, so look at the median as well.

# %%
late, weight = k >= 100, k * (k + 1.0)
parts = {"full law": law.total, "level a² alone": law.offset, "curvature alone": law.curvature}
parts = {name: np.asarray(part) for name, part in parts.items()}
mean = lambda curves: (weight * curves)[:, late].mean(1)  # noqa: E731
ratios = {f"{name}, mean over k": mean(part) / mean(delta) for name, part in parts.items()}
ratios["full law, median over k"] = np.median(parts["full law"][:, late] / delta[:, late], axis=1)

print(f"{'law / Monte-Carlo':28}", *(f"{label:>9}" for label in labels))
for name, ratio in ratios.items():
    print(f"{name:28}", *(f"{value:9.3g}" for value in ratio))
del parts["level a² alone"]  # at σ = 0.01 it would hide behind the full law
plot.name_data(plot.law(k, delta, parts, labels), source.label)

# %% [markdown]
# On MNIST, close to $w^*$ the law holds, and $\Delta_k$ is nearly all $a^2$: the level of the
# surface moves, not its shape. Steps of $\sigma = 1$ leave the region in which the loss is
# quadratic: there a few samples of huge curvature dominate the law's mean. For most $k$ it is far
# too small. No quadratic law holds there.
#
# ## So, how many samples?
#
# $K = \inf\{k : \Delta_{k'} < \mathrm{tol} \text{ for all } k' \ge k\}$: one past the *last* time
# that a sample moved the surface by as much as the tolerance. Beside it, the $k$ at which the mean
# over orders falls below the tolerance, which comes earlier. “Not yet” is an answer: these samples
# cannot say how many it takes.

# %%
print("sigma  tolerance  K, this order  K, order law")
for sigma, size, mean in zip(SIGMAS, sizes, level, strict=True):
    over_orders = js.increment_size(mean, TOLERANCES).k
    for tolerance, last, reached, known in zip(TOLERANCES, *size, over_orders, strict=True):
        shown = f"{last:,}" if reached else "not yet"
        print(f"{sigma:5g}  {tolerance:9.0e}  {shown:>13}  {known:12,}")

# %% [markdown]
# Neither number promises that a network gains nothing from more data: it says when the landscape
# around *this* network stays put. What a small pilot predicts of $K$, and with what interval, is
# in `how_much_data`; your own network in `your_model`; the same run as one command, with a report,
# in `colab_tpu`.
