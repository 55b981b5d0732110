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
# Parameters, or a solver's vectors, that no single device holds are sharded by their owner.
# Points of a sweep, Hessian products and the eigensolver's vectors lie on the devices as the
# parameters do. jaxscape gathers none of them. The model itself gathers the weights of a block
# when it runs.
#
# This notebook first runs a small transformer for real, on the devices that JAX finds, or on eight
# made of one CPU. Then it compiles a transformer of the size of GPT-2 small for 16 TPU chips that
# are not there. The compiler says how much memory a chip needs and what the chips exchange. Last
# comes a table of what limits such a run on 1 to 256 chips, on paper.

# %%
import os
import time
from collections import Counter
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxscape as js
from experiments.benchmark import hlo
from experiments.benchmark.compile_for import CHIPS
from jaxscape import batching
from jaxscape.lab import models, plot, style
from jaxscape.trees import num_parameters

jax.config.update("jax_num_cpu_devices", 8)
# %matplotlib inline
plt.rcParams.update(style.STYLE)

# %% tags=["parameters"]
SMALL = {"num_outputs": 32, "hidden": 32, "layers": 4}
SEQUENCES, TOKENS = 256, 16  # of the small run
LARGE = {"num_outputs": 50257, "hidden": 768, "layers": 12}  # GPT-2 small, outputs untied
CONTEXT, SEGMENTS = 1024, 16  # tokens of a sequence; sequences of each chip, one at a time
TOPOLOGY = "v5e:4x4"
DIRECTIONS, POINTS, KRYLOV = 10, 16, 40
EFFORT = -0.5  # of the compiler, from -1 to 1, by default 0

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
pairs = zip(space.eigenvalues, space.residuals, strict=True)
print("eigenvalues", ", ".join(f"{value:.3f} (residual {error:.0e})" for value, error in pairs))
row = jax.tree.map(lambda x: np.asarray(x)[None], curve)
plot.delta_k2(curve.k, row.mean, row.sem, ["σ = 0.1"], loss_variance=[row.loss_variance.mean()])

# %% [markdown]
# ## A large one, compiled
#
# libtpu (`pip install -e '.[tpu-check]'`) compiles for a TPU that is not there. Each job gets
# shapes with their shardings, no arrays. `like` tells the eigensolver how its vectors are to lie:
# its shapes carry the shardings. Of 16 sequences at a time each chip has one.
#
# The compiler spends most of its time on products of float32, each of six passes of bfloat16. At
# the effort set above it is done in a sixth to a tenth of the time, and estimates 1.6 to 1.7 times
# the time for its programs. At full effort the three jobs took 41, 362 and 527 seconds of CPU time
# to compile, and were estimated at 5.8, 2.1 and 89 seconds. That pays where they run often.


# %%
def shapes_on(mesh, tree, rows=0):
    """The shapes of the tree with their shardings, after ``rows`` axes more if any are given."""

    def leaf(x):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding(mesh, x.shape, rows))

    return jax.tree.map(leaf, tree)


def jobs_on(mesh):
    """The number of parameters; each job's function, its arguments (shapes), and its loops.

    Loops that end by a condition have no length in the program: of the restarts there is one.
    """
    model = models.build("transformer", **LARGE, mesh=mesh)
    loss, whole = loss_of(model), NamedSharding(mesh, PartitionSpec())
    example = jnp.zeros((1, CONTEXT), jnp.int32)
    plain = jax.eval_shape(model.init, jax.random.key(0), example)
    several = jax.eval_shape(
        lambda w: jax.tree.map(lambda x: jnp.zeros((DIRECTIONS, *x.shape)), w), plain
    )
    params, basis = shapes_on(mesh, plain), shapes_on(mesh, several, rows=1)
    shape = SEGMENTS * mesh.size, CONTEXT + 1
    tokens = jax.ShapeDtypeStruct(shape, jnp.int32, sharding=whole)
    theta = jax.ShapeDtypeStruct((POINTS, DIRECTIONS), jnp.float32, sharding=whole)
    seed = jax.ShapeDtypeStruct((2,), jnp.uint32, sharding=whole)

    def sweep(params, basis, theta, tokens):
        probe = js.points(js.Subspace(params, basis), theta)
        return js.delta(loss, probe, tokens, batch_size=mesh.size, point_batch=1)

    def product(params, vector, tokens):
        return js.hessian_operator(loss, params, tokens, batch_size=mesh.size)(vector)

    def pairs(seed, w, tokens):
        operator = js.hessian_operator(loss, w, tokens, batch_size=mesh.size)
        options = {"krylov_dim": KRYLOV, "find_repeated": False}
        key = jax.random.wrap_key_data(seed)
        return js.top_eigenpairs(key, operator, params, DIRECTIONS, **options)

    return num_parameters(plain), {
        "sweep": (sweep, (params, basis, theta, tokens), []),
        "Hessian product": (product, (params, params, tokens), [SEGMENTS]),
        "eigenpairs": (pairs, (seed, params, tokens), [1, KRYLOV, SEGMENTS]),
    }


# %%
@dataclass
class Program:
    """What the compiler says of a job."""

    seconds: float  # of CPU time, to compile
    estimate: float  # seconds that its kernels take
    memory: np.ndarray  # GB on a chip: arguments, results, and what it needs beside them
    exchanges: Counter  # operations between chips, those in a loop counted once


def compiled(job):
    """The job's program."""
    function, arguments, loops = job
    options = {"exec_time_optimization_effort": EFFORT}
    lowered = jax.jit(function, compiler_options=options).lower(*arguments)
    started = time.process_time()
    program = lowered.compile()
    seconds, said = time.process_time() - started, program.memory_analysis()
    parts = said.argument_size_in_bytes, said.output_size_in_bytes, said.temp_size_in_bytes
    text = hlo.Text(program.as_text())
    count = Counter(line.op.removesuffix("-start") for line in text.lines.values())
    estimate = text.totals(loops)[0] / CHIPS["v5e"].cycles
    return Program(seconds, estimate, np.array(parts) / 1e9, count)


def topology(name):
    """The chips of a TPU that is not there, if there is a compiler for it."""
    rows, columns = map(int, name.split(":")[1].split("x"))
    os.environ |= {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": f"v5litepod-{rows * columns}",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=name)
    except Exception as error:  # whatever says that there is no compiler
        print(f"nothing is compiled: {str(error).splitlines()[0]}; pip install '.[tpu-check]'")
        return None
    return Mesh(np.array(found.devices), ("chips",))


# %%
programs = {}
if chips := topology(TOPOLOGY):
    size, jobs = jobs_on(chips)
    print(f"{size:,} parameters, {4 * size / 1e9:.2f} GB, on {chips.size} chips of {TOPOLOGY}")
    print(f"{'':16} compiled,  kernels,  GB on a chip")
    print(f"{'':16}    CPU s estimate s arguments results  beside     all  exchanges")
    for name, job in jobs.items():
        found = programs[name] = compiled(job)
        count = found.exchanges
        ops = ", ".join(f"{count[op]} {op}" for op in hlo.EXCHANGES if count[op])
        gigabytes = [*found.memory, found.memory.sum()]
        cells = f"{found.seconds:9.0f} {found.estimate:10.2f}", *(f"{x:8.2f}" for x in gigabytes)
        print(f"{name:16}", *cells, f" {ops}")
        assert found.memory.sum() < 16

# %% [markdown]
# ## From 1 to 256 chips, on paper
#
# Each chip has one sequence at a time, in a sweep at one point.
#
# - **Work** is the compiler's estimate for 16 chips, at that lower effort. The products alone, each
#   of six passes of bfloat16 (float32 at `highest`) at the 197 TFLOP/s of a v5e, stand beside it.
# - **Exchange**: every chip receives all weights once for a sweep's losses. For a Hessian product
#   it receives weights and direction twice, as gradients compute a block anew, and adds up one
#   product, which moves it twice: six times the parameters, at 1,600 Gbit/s between chips.
# - **Memory**: parameters, directions and the eigensolver's vectors shrink with the chips, all else
#   stays as compiled for 16. Compiled for 8 chips and for 64, the eigenpairs took 15.9 and 4.7 GB:
#   on 8 they just fit.
#
# The eigensolver's rate is that of one of its products.


# %%
def products_alone(job):
    """Seconds that all products of a program take at the chip's peak, for one sequence."""
    function, arguments, _ = job
    found = batching.products_in(jax.make_jaxpr(function)(*arguments), [SEGMENTS])
    return 2 * 6 * sum(each.work for each in found) / (SEGMENTS * chips.size) / CHIPS["v5e"].flops


def on_paper(name, work, least, times, vectors):
    """A row for each number of chips: sequences a second, memory, and what limits them."""
    whole = 4 * size / 1e9
    beside = programs[name].memory.sum() - vectors * whole / chips.size
    for count in (1, 4, 8, 16, 64, 256):
        exchange = times * whole * (1 - 1 / count) / 200
        memory = beside + vectors * whole / count
        limit = "work" if work >= exchange else "exchange"
        limit = limit if memory < 16 else "memory: does not fit"
        rate = f"{count / max(work, exchange):10.1f}" if memory < 16 else f"{'-':>10}"
        cells = " ".join(f"{1000 * x:8.1f}" for x in (work, least, exchange))
        print(f"{name:16} {count:5} {rate} {cells} {memory:8.1f}  {limit}")


if programs:
    print(f"{'':16} chips  per second work, ms products exchange  GB each  limited by")
    one = {name: program.estimate / SEGMENTS for name, program in programs.items()}
    least = {name: products_alone(jobs[name]) for name in ("sweep", "Hessian product")}
    on_paper("sweep", one["sweep"] / POINTS, least["sweep"] / POINTS, 1, 1 + DIRECTIONS)
    on_paper("Hessian product", one["Hessian product"], least["Hessian product"], 6, 3)
    # a restart writes the basis and its products anew
    vectors = 1 + 4 * KRYLOV + DIRECTIONS
    on_paper("eigenpairs", one["eigenpairs"] / KRYLOV, least["Hessian product"], 6, vectors)
