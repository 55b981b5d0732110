"""The main job's programs compiled for a chip that is not there, with the compiler's own numbers.

libtpu compiles ahead of time for a described TPU, JAX's CUDA plugin for a described GPU. The
optimised program names the cycles expected of each kernel, loops give how often it runs.
"""

import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding
from jax.tree_util import Partial

import jaxscape as js
from experiments.benchmark import hlo
from experiments.common import console, segments
from experiments.common import problem as problems
from experiments.common.config import ProblemConfig
from experiments.common.problem import Problem
from experiments.common.tables import as_text
from jaxscape import InputError, batching, quadratic, reductions, sweep
from jaxscape.lab import train

POINTS, SIGMAS = 128, 2  # of the main job: points at each σ, and how many σ
PRODUCTS = 28  # Hessian products of its eigenpairs, as seen on MNIST, without a restart
PASSES = {"highest": 6, "high": 3, "default": 1}  # of bfloat16 products, for one of float32
H100 = """gpu_device_info {
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98 cuda_compute_capability { major: 9 }
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536 shared_memory_per_core: 233472
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448 l2_cache_size: 52428800
  memory_bandwidth: 3350000000000 device_memory_size: 80000000000 }
platform_name: "CUDA" dnn_version_info { major: 9 minor: 10 }
"""


class Chip(NamedTuple):
    """One chip, by its maker's figures."""

    topology: Mapping[str, Any]  #: as JAX is told of it
    cycles: float  #: per second
    flops: float  #: per second, in one pass
    bandwidth: float  #: of its memory, GB per second
    memory: float  #: GB
    passes: Mapping[str, float] = PASSES  #: that a float32 product of each precision takes
    options: Mapping[str, bool] | None = None  #: of the compiler
    extra: str = "tpu-check"  #: of this package, which installs the compiler
    note: str = "estimate: of all kernels but copies"


TPU = {"platform": "tpu", "chips_per_host_bounds": (1, 1, 1)}
CHIPS = {
    "v5e": Chip(TPU | {"topology_name": "v5e:1x1"}, 1.5e9, 197e12, 819, 16),
    "v6e": Chip(TPU | {"topology_name": "v6e:1x1"}, 1.75e9, 918e12, 1640, 32),
    "h100": Chip(
        {"platform": "cuda", "topology": "1x1x1", "target_config": H100}, 1.98e9, 67e12, 3350, 80,
        {"highest": 1, "high": 67 / 495, "default": 67 / 495},  # below: TensorFloat-32
        {"xla_gpu_enable_triton_gemm": False, "xla_gpu_collect_cost_model_stats": True},
        "gpu-check", "estimate: of XLA's own kernels, without launches. As no device is there to "
        "tune them on, products are left to cuBLAS and cuDNN: add 'products alone' for these",
    ),
}  # fmt: skip


class Program(NamedTuple):
    """One program, ``function(*args)``, and how often the job calls it."""

    name: str
    function: Callable
    args: tuple
    calls: int = 1
    loops: Sequence[int] = ()  #: lengths of those that end by a condition, the outermost first
    precision: str = "highest"  #: asked of its products


def run(config: ProblemConfig, name: str, dim: int) -> None:
    """Print the table of all programs; end the command with status 1 where one fails.

    Raises:
        InputError: a chip that is not known, or no compiler for it.
    """
    chip, place = describe(name)
    problem = problems.load(config)
    failed, in_all = [], np.zeros(5)
    rows = [["program", "calls", "compiled, CPU s", "peak, GB", "estimate, s", "products alone, s"]]
    rows[0] += ["memory alone, s", "kernels", "runs", "collectives", "products"]
    for program in programs(problem, config, dim):
        console.begin(f"compiling {program.name} ...")
        try:
            numbers, counts, products = compiled(program, chip, place)
        except jax.errors.JaxRuntimeError as error:
            failed.append(f"{program.name}: {str(error).splitlines()[0][:200]}")
            continue
        in_all += numbers
        if numbers[1] > chip.memory:
            failed.append(f"{program.name}: needs {numbers[1]:.1f} GB")
        for precision in products:
            if chip.passes[precision] < chip.passes[program.precision]:
                failed.append(f"{program.name}: {precision}, asked for {program.precision}")
        words = ", ".join(f"{count} {precision}" for precision, count in products.items())
        figures = (f"{number:.3g}" for number in numbers)
        rows.append([program.name, str(program.calls), *figures, *counts, words or "none"])
    print(f"{config.model}, {len(problem.order):,} samples, {dim} directions, {POINTS} points at "
          f"{SIGMAS} σ, for one {name}")  # fmt: skip
    print(as_text(rows))
    print("all: compiled in {:.3g} CPU s, estimate {:.3g} s, products alone {:.3g} s, memory alone "
          "{:.3g} s".format(*np.delete(in_all, 1)))  # fmt: skip
    print(f"seconds, runs: of all calls; kernels, collectives: of a loop once\n{chip.note}")
    for line in failed:
        print(f"fails: {line}")
    if failed:
        sys.exit(1)


def describe(name: str) -> tuple[Chip, SingleDeviceSharding]:
    """A chip's figures, and its place to compile for."""
    if name not in CHIPS:
        raise InputError(f"expected --compile-for among {', '.join(CHIPS)}, found {name}; name one")
    chip = CHIPS[name]
    os.environ |= {
        "TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5litepod-1" if name == "v5e" else f"{name}-1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }  # fmt: skip
    jax.config.update("jax_platforms", "cpu")  # the device of all else
    jax.config.update("jax_enable_compilation_cache", False)  # its seconds are told
    try:  # with a first program, as it starts up
        found = topologies.get_topology_desc(**chip.topology)
        place = SingleDeviceSharding(found.devices[0])
        jax.jit(jnp.exp, in_shardings=place).lower(jax.ShapeDtypeStruct((8,), "float32")).compile()
    except (RuntimeError, NotImplementedError, ValueError) as error:
        raise InputError(
            f"expected a compiler for {name}, found: {str(error).splitlines()[0]}; "
            f"install it: pip install -e '.[{chip.extra}]'"
        ) from error
    return chip, place


def programs(problem: Problem, config: ProblemConfig, dim: int) -> Iterator[Program]:
    """What ``experiments.sweep`` runs on an accelerator, at shapes alone."""
    loss, n, params = problem.loss, len(problem.order), problem.initial
    one, data = jax.tree.map(lambda x: x[None], params), _rows(problem, n)
    last = config.epochs * math.ceil(n / config.batch_size)
    rates = config.learning_rate, config.weight_decay, last if config.schedule == "cosine" else None
    state = train.State(one, jax.vmap(train.adam(*rates).init)(one))
    epoch = partial(train.epoch, config.batch_size, rates, 1, Partial(loss), ks=None)
    args = state, jax.ShapeDtypeStruct((1, n), jnp.int32), data
    yield Program("training, an epoch", epoch, args, config.epochs, precision="default")

    def solve(key, params, data):
        operator = js.hessian_operator(loss, params, data)
        return js.top_eigenpairs(key, operator, params, dim, find_repeated=False)

    given = problem.keys["subspace"], params, data
    yield Program("eigenpairs", solve, given, 1, (1, PRODUCTS, math.ceil(n / 1000)))
    yield from _around(problem, jax.eval_shape(solve, *given).vectors)
    if problem.dataset.test_inputs is not None:
        metrics, tests = problems.tests_of(problem)
        for name, metric in metrics.items():
            mean = partial(train.mean_loss, metric, batch_size=1000)
            yield Program(name.replace("_", " "), mean, (params, tests))


def _around(problem: Problem, vectors: Any) -> Iterator[Program]:
    """In the subspace: a segment of the run's samples; the new ones, where they are fewer."""
    loss, length = problem.loss, segments.length_of(problem, POINTS, "tpu")
    segment, calls = _rows(problem, length), math.ceil(len(problem.order) / length)
    space = jax.eval_shape(js.Subspace, problem.initial, vectors)
    draw = partial(js.sobol, num_points=POINTS, sigma=1.0)
    probe, skip = jax.eval_shape(draw, problem.keys["probe"], space), jnp.int32(0)
    keep = reductions.delta_of(probe)
    carry = jax.eval_shape(lambda probe: sweep.begin(probe, keep), probe)

    def swept(probe, data, carry, skip):
        sizes: dict[str, Any] = {"batch_size": batching.ELSEWHERE, "point_batch": sweep.POINTS}
        return sweep.advance(loss, probe, data, carry, keep, skip=skip, **sizes)

    yield Program("sweep, a segment", swept, (probe, segment, carry, skip), SIGMAS * calls)
    if problem.fresh and (new := len(problem.fresh.order)) < length:
        fewer = probe, _rows(problem, new), carry, skip
        yield Program("sweep of new samples", swept, fewer, SIGMAS)
    at_origin = partial(js.per_sample_losses, loss, batch_size=batching.ELSEWHERE)
    yield Program("losses at w*, a segment", at_origin, (problem.initial, segment), calls)
    if space.dim > segments.MAX_LAW_DIM:
        return
    project = partial(js.project, loss, batch_size=max(1, batching.ELSEWHERE // space.dim))
    yield Program("quadratic model, a segment", project, (space, segment), calls)
    model = jax.eval_shape(project, space, segment)
    law = quadratic.begin(len(jax.tree.leaves(vectors)[0])), model, jnp.zeros(SIGMAS), skip
    yield Program("law, a segment", quadratic.advance, law, calls)


def _rows(problem: Problem, n: int) -> Any:
    """The shapes of n samples."""
    shape = lambda x: jax.ShapeDtypeStruct((n, *x.shape[1:]), x.dtype)  # noqa: E731
    return jax.tree.map(shape, problem.read(slice(1)))


def compiled(
    program: Program, chip: Chip, place: SingleDeviceSharding
) -> tuple[list[float], list[str], dict[str, int]]:
    """The numbers of a row of the table, for all calls; its cells; products of each precision.

    libtpu counts the bytes of a loop's body once: they count as often as the cycles do.
    """
    args = jax.eval_shape(lambda *args: args, *program.args)
    traced = jax.jit(program.function, in_shardings=place).trace(*args)
    lowered = traced.lower()
    started = os.times()
    found = lowered.compile(chip.options)
    seconds = sum(os.times()[:4]) - sum(started[:4])  # of other processes too
    text, memory = hlo.Text(found.as_text()), found.memory_analysis()
    peak = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    products = batching.products_in(traced.jaxpr, program.loops)
    work = 2 * program.calls * sum(product.work for product in products)
    cycles, runs, moved = program.calls * text.totals(program.loops)
    if said := found.cost_analysis():
        moved = said["bytes accessed"] * cycles / max(text.totals(None)[0], 1)
    least = work * chip.passes[program.precision] / chip.flops
    kernels, collectives = map(str, text.kernels())
    numbers = [seconds, peak / 1e9, cycles / chip.cycles, least, moved / 1e9 / chip.bandwidth]
    return numbers, [kernels, f"{runs:,.0f}", collectives], text.precisions()
