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
# # A language model on many chips
#
# A network that no single device holds is sharded by its owner. jaxscape gathers nothing: points of
# a sweep, Hessian products and the eigensolver's vectors lie on the devices as the parameters do.
#
# This notebook first runs a small transformer for real, on the devices that JAX finds. Then it
# compiles a transformer of the size of GPT-2 small for 16 TPU chips that are not there. The
# compiler says how much memory a chip needs and what the chips exchange. Last comes a table of what
# limits such a run on 1 to 256 chips, on paper.

# %%
import os
from collections import Counter

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxscape as js
from experiments.benchmark import hlo
from jaxscape import batching
from jaxscape.lab import models, plot, style
from jaxscape.trees import num_parameters

# %matplotlib inline
plt.rcParams.update(style.STYLE)

# %% tags=["parameters"]
SMALL = {"num_outputs": 32, "hidden": 32, "layers": 4}
SEQUENCES, TOKENS = 256, 16  # of the small run
LARGE = {"num_outputs": 50257, "hidden": 768, "layers": 12}  # GPT-2 small
CONTEXT, BATCH = 1024, 16  # tokens of a sequence; sequences at a time, one on each chip
SEGMENTS = 16  # such batches
TOPOLOGY = "v5e:4x4"
JOBS = ("sweep", "Hessian product")  # "eigenpairs" too: not done after 4 minutes of two cores
DIRECTIONS, POINTS, KRYLOV = 10, 16, 40

# %% [markdown]
# ## The owner's part
#
# Fully sharded data parallelism: each array is split along its longest axis that all chips can
# share. The model (`mesh=`) spreads its sequences over the chips, and so it is the weights that
# come to them, of one block at a time.


# %%
def sharding(mesh, shape, rows=0):
    """Split the longest axis after the first ``rows`` that all devices of the mesh can share."""
    fits = [axis for axis in range(rows, len(shape)) if shape[axis] % mesh.size == 0]
    longest = max(fits, key=lambda axis: shape[axis], default=None)
    spec = ("chips" if axis == longest else None for axis in range(len(shape)))
    return NamedSharding(mesh, PartitionSpec(*spec))


def loss_of(model):
    """ℓ_i of a sequence: the mean over its tokens of the cross-entropy of the next."""

    def loss(params, tokens):
        return js.losses.cross_entropy(model.apply(params, tokens[:, :-1]), tokens[:, 1:]).mean(1)

    return loss


# %% [markdown]
# ## A small one, run
#
# Random sequences of a language with a rule: a token is mostly the sum of the two before it.

# %%
mesh = Mesh(np.array(jax.devices()), ("chips",))
rng = np.random.default_rng(0)
text = rng.integers(SMALL["num_outputs"], size=(SEQUENCES, TOKENS + 1))
for place in range(2, TOKENS + 1):
    follows = rng.random(SEQUENCES) < 0.9
    total = (text[:, place - 1] + text[:, place - 2]) % SMALL["num_outputs"]
    text[:, place] = np.where(follows, total, text[:, place])
text = text.astype(np.int32)

key = jax.random.key(0)
model = models.build("transformer", **SMALL, mesh=mesh)
loss = loss_of(model)
params = model.init(key, text[:, :-1])
params = jax.tree.map(lambda x: jax.device_put(x, sharding(mesh, x.shape)), params)
space = js.hessian_subspace(key, loss, params, text, dim=3)
probe = js.gaussian(key, space, 16, sigma=0.1)
curve = js.delta(loss, probe, text)
held = sum(x.addressable_shards[0].data.size for x in jax.tree.leaves(space.basis)) / 3
print(f"{num_parameters(params):,} parameters on {mesh.size} of {jax.default_backend()}")
print(f"of each direction a device holds {held:,.0f} numbers")
print("eigenvalues", np.asarray(space.eigenvalues).round(3), "residuals", space.residuals.round(5))
row = jax.tree.map(lambda x: np.asarray(x)[None], curve)
plot.delta_k2(curve.k, row.mean, row.sem, ["σ = 0.1"], loss_variance=[row.loss_variance.mean()])

# %% [markdown]
# ## A large one, compiled
#
# libtpu (`pip install -e '.[tpu-check]'`) compiles for a TPU that is not there. Each job gets
# shapes with their shardings, no arrays. `like` tells the eigensolver how its vectors are to lie:
# its shapes carry the shardings. Of 16 sequences at a time each chip has one.


# %%
def shapes_on(mesh, tree, rows=0):
    """The shapes of the tree with their shardings, after ``rows`` axes more if any are given."""

    def leaf(x):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding(mesh, x.shape, rows))

    return jax.tree.map(leaf, tree)


def jobs_on(mesh):
    """Each job's function and its arguments, shapes alone."""
    model = models.build("transformer", **LARGE, mesh=mesh)
    loss, whole = loss_of(model), NamedSharding(mesh, PartitionSpec())
    example = jnp.zeros((1, CONTEXT), jnp.int32)
    plain = jax.eval_shape(model.init, jax.random.key(0), example)
    several = jax.eval_shape(
        lambda w: jax.tree.map(lambda x: jnp.zeros((DIRECTIONS, *x.shape)), w), plain
    )
    params, basis = shapes_on(mesh, plain), shapes_on(mesh, several, rows=1)
    tokens = jax.ShapeDtypeStruct((SEGMENTS * BATCH, CONTEXT + 1), jnp.int32, sharding=whole)
    theta = jax.ShapeDtypeStruct((POINTS, DIRECTIONS), jnp.float32, sharding=whole)
    seed = jax.ShapeDtypeStruct((2,), jnp.uint32, sharding=whole)

    def sweep(params, basis, theta, tokens):
        probe = js.points(js.Subspace(params, basis), theta)
        return js.delta(loss, probe, tokens, batch_size=BATCH, point_batch=1)

    def product(params, vector, tokens):
        return js.hessian_operator(loss, params, tokens, batch_size=BATCH)(vector)

    def pairs(seed, w, tokens):
        operator = js.hessian_operator(loss, w, tokens, batch_size=BATCH)
        options = {"krylov_dim": KRYLOV, "find_repeated": False}
        key = jax.random.wrap_key_data(seed)
        return js.top_eigenpairs(key, operator, params, DIRECTIONS, **options)

    found = {
        "sweep": (sweep, (params, basis, theta, tokens)),
        "Hessian product": (product, (params, params, tokens)),
        "eigenpairs": (pairs, (seed, params, tokens)),
    }
    return num_parameters(plain), {name: found[name] for name in JOBS}


# %%
os.environ |= {  # for a compiler without its chips
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
try:
    topology = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGY)
except Exception as error:  # whatever says that there is no compiler
    topology = None
    print(f"nothing is compiled: {str(error).splitlines()[0]}; pip install '.[tpu-check]'")

compiled = {}
if topology is not None:
    chips = Mesh(np.array(topology.devices), ("chips",))
    size, jobs = jobs_on(chips)
    print(f"{size:,} parameters, {4 * size / 1e9:.2f} GB, on {chips.size} chips of {TOPOLOGY}")
    print(f"{'GB on a chip':16} arguments results  beside     all  exchanges")
    for name, (function, arguments) in jobs.items():
        program = jax.jit(function).lower(*arguments).compile()
        memory = program.memory_analysis()
        parts = [
            memory.argument_size_in_bytes,
            memory.output_size_in_bytes,
            memory.temp_size_in_bytes,
        ]
        compiled[name] = np.array(parts) / 1e9
        lines = hlo.Text(program.as_text()).lines.values()
        count = Counter(line.op.removesuffix("-start") for line in lines)
        exchanges = ", ".join(f"{count[op]} {op}" for op in hlo.EXCHANGES if count[op])
        gigabytes = [*compiled[name], compiled[name].sum()]
        print(f"{name:16}", *(f"{x:8.2f}" for x in gigabytes), f" {exchanges}")
        assert compiled[name].sum() < 16

# %% [markdown]
# ## From 1 to 256 chips, on paper
#
# One sequence on each chip at a time, a sweep at one point. Work: all products of the traced
# program, each of six passes of bfloat16 (float32 at `highest`), at the 197 TFLOP/s of a v5e.
# Exchange: every chip receives all weights once for a sweep's losses. For a Hessian product it
# receives weights and direction twice, as gradients compute a block anew, and passes on one
# product: five times the parameters, at 1,600 Gbit/s between chips. Memory: arguments shrink with
# the chips, all else stays as compiled. That of the eigenpairs is not compiled: it is that of a
# product and four times the Krylov vectors. Their rate is that of one product.


# %%
def work(function, arguments):
    """FLOPs of a program's products, for one sequence (of one point, in a sweep)."""
    found = batching.products_in(jax.make_jaxpr(function)(*arguments), [SEGMENTS])
    return 2 * 6 * sum(product.work for product in found) / (SEGMENTS * BATCH)


def on_paper(name, flops, times, vectors, beside):
    """A row for each number of chips: sequences a second, memory, and what limits them."""
    for count in (1, 4, 16, 64, 256):
        seconds = flops / 197e12, times * 4 * size * (1 - 1 / count) / 200e9
        memory = beside + vectors * 4 * size / 1e9 / count
        limit = "work" if seconds[0] >= seconds[1] else "exchange"
        limit = limit if memory < 16 else "memory: does not fit"
        rate = f"{count / max(seconds):10.1f}" if memory < 16 else f"{'-':>10}"
        milliseconds = " ".join(f"{1000 * x:8.1f}" for x in seconds)
        print(f"{name:16} {count:5} {rate} {milliseconds} {memory:8.1f}  {limit}")


if "sweep" in compiled and "Hessian product" in compiled:
    print(f"{'':16} chips  per second  work, ms  exchange  GB each  limited by")
    flops = {name: work(*jobs[name]) for name in ("sweep", "Hessian product")}
    beside = {name: parts[1:].sum() for name, parts in compiled.items()}
    on_paper("sweep", flops["sweep"] / POINTS, 1, 1 + DIRECTIONS, beside["sweep"])
    product = flops["Hessian product"], 5
    on_paper("Hessian product", *product, 2, beside["Hessian product"])
    # a restart writes the basis and its products anew
    on_paper("eigenpairs", *product, 1 + 4 * KRYLOV, beside["Hessian product"])
