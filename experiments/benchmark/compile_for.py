"""The main job's programs compiled for a chip that is not there, with the compiler's own numbers.

libtpu compiles ahead of time for a described TPU (``jax.experimental.topologies``). The optimised
program names the cycles that the compiler expects of each kernel, loops give how often it runs.
"""

import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding
from jax.tree_util import Partial

import jaxscape as js
from experiments.benchmark import hlo
from experiments.common import problem as problems
from experiments.common import segments
from experiments.common.config import ProblemConfig
from experiments.common.problem import Problem
from experiments.common.tables import as_text
from jaxscape import InputError, batching, quadratic, reductions, sweep
from jaxscape.lab import train

SIGMAS = 2
"""Of the main job."""
PRODUCTS = 28
"""Hessian products of its eigenpairs, as seen on MNIST, without a restart."""
PASSES = {"highest": 6, "high": 3, "default": 1}
"""Products of bfloat16 numbers that stand for one of float32."""


class Chip(NamedTuple):
    """One chip, by its maker's figures."""

    accelerator: str
    cycles: float  #: per second
    flops: float  #: per second, of bfloat16
    bandwidth: float  #: of its memory, bytes per second
    memory: float  #: bytes


CHIPS = {
    "v5e": Chip("v5litepod", 1.5e9, 197e12, 819e9, 16e9),
    "v6e": Chip("v6e", 1.75e9, 918e12, 1640e9, 32e9),
}


class Program(NamedTuple):
    """One program, ``function(*args)``, and how often the job calls it."""

    name: str
    function: Callable
    args: tuple
    calls: int = 1
    loops: Sequence[int] = ()  #: lengths of those that end by a condition, the outermost first
    precision: str = "highest"  #: asked of its products


class Compiled(NamedTuple):
    """What the compiler says of a program."""

    program: Program
    seconds: float  #: of the CPU, to compile it
    peak: float  #: bytes
    estimate: float  #: seconds of its kernels, of all calls
    flops: float  #: of all calls
    bytes: float  #: of all calls
    kernels: int
    collectives: dict[str, int]
    precisions: dict[str, int]

    def lacks(self, chip: Chip) -> str:
        """What is wrong with it, or nothing."""
        order = list(PASSES)
        below = [p for p in self.precisions if order.index(p) > order.index(self.program.precision)]
        if below:
            return f"products at {', '.join(below)}, asked for {self.program.precision}"
        return "" if self.peak <= chip.memory else f"needs {self.peak / 1e9:.1f} GB"


def run(config: ProblemConfig, name: str, dim: int, points: int) -> list[Compiled]:
    """The table of all programs, printed; ends the command with status 1 where one fails.

    Raises:
        InputError: a chip that is not known, or no compiler for it.
    """
    chip, device = describe(name)
    problem = problems.load(config)
    found, failed = [], []
    jax.jit(lambda x: x + 1).lower(_on(device, jax.ShapeDtypeStruct((8,), jnp.float32))).compile()
    for program in programs(problem, config, dim, points):
        print(f"compiling: {program.name}", file=sys.stderr)
        try:
            found.append(compiled(program, chip, device))
        except jax.errors.JaxRuntimeError as error:
            failed.append(f"{program.name}: {str(error).splitlines()[0][:200]}")
    print(f"{config.model}, {len(problem.order):,} samples, {dim} directions, {points} points at "
          f"{SIGMAS} σ, for one {device.device_kind}")  # fmt: skip
    if found:
        print(as_text(rows_of(found, chip)))
    failed += [f"{each.program.name}: {why}" for each in found if (why := each.lacks(chip))]
    for line in failed:
        print(f"fails: {line}")
    if failed:
        sys.exit(1)
    return found


def describe(name: str) -> tuple[Chip, Any]:
    """A chip's figures, and a device to compile for."""
    if name not in CHIPS:
        raise InputError(f"expected --compile-for among {', '.join(CHIPS)}, found {name}; name one")
    chip = CHIPS[name]
    os.environ |= {
        "TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": f"{chip.accelerator}-1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }  # fmt: skip
    jax.config.update("jax_platforms", "cpu")  # the device of all else
    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=f"{name}:1x1", chips_per_host_bounds=(1, 1, 1)
        )
    except (RuntimeError, NotImplementedError, ValueError) as error:
        raise InputError(
            f"expected libtpu to compile for a {name}, found: {str(error).splitlines()[0]}; "
            "install it: pip install '.[tpu-check]'"
        ) from error
    return chip, found.devices[0]


def programs(problem: Problem, config: ProblemConfig, dim: int, points: int) -> Iterator[Program]:
    """What ``experiments.sweep`` runs on an accelerator, at shapes alone."""
    loss, n = problem.loss, len(problem.order)
    params, data = _shapes(problem.initial), _rows(_shapes(problem.read(slice(1))), n)
    yield _training(problem, config, data)

    def solve(key, params, data):
        operator = js.hessian_operator(loss, params, data)
        return js.top_eigenpairs(key, operator, params, dim, find_repeated=False)

    given = _shapes(problem.keys["subspace"]), params, data
    yield Program("eigenpairs", solve, given, 1, (1, PRODUCTS, math.ceil(n / 1000)))
    space = jax.eval_shape(js.Subspace, params, jax.eval_shape(solve, *given).vectors)
    length = segments.length_of(problem, points, "tpu")
    segment, calls = _rows(data, length), math.ceil(n / length)
    new = len(problem.fresh.order) if problem.fresh else length
    yield from _sweeps(problem, space, points, segment, calls, _rows(data, new))
    at_origin = partial(js.per_sample_losses, loss, batch_size=batching.ELSEWHERE)
    yield Program("losses at w*, a segment", at_origin, (params, segment), calls)
    project = partial(js.project, loss)
    yield Program("quadratic model, a segment", project, (space, segment), calls)
    before, model = partial(quadratic.begin, dim), jax.eval_shape(project, space, segment)
    law = jax.eval_shape(before), model, jnp.zeros(SIGMAS), jax.ShapeDtypeStruct((), jnp.int32)
    yield Program("law, a segment", quadratic.advance, law, calls)
    if problem.dataset.test_inputs is not None:
        metrics, tests = problems.tests_of(problem)
        for name, metric in metrics.items():
            mean = partial(train.mean_loss, metric, batch_size=1000)
            yield Program(name.replace("_", " "), mean, (params, _shapes(tests)))


def _training(problem: Problem, config: ProblemConfig, data: Any) -> Program:
    many, rates = _shapes(problem.initial, 1), (config.learning_rate, config.weight_decay)
    moments = jax.eval_shape(jax.vmap(train.adam(*rates).init), many)
    order = jax.ShapeDtypeStruct((1, len(problem.order)), jnp.int32)
    epoch = partial(train.epoch, config.batch_size, rates, 1, Partial(problem.loss), ks=None)
    args = train.State(many, moments), order, data
    return Program("training, an epoch", epoch, args, config.epochs, precision="default")


def _sweeps(
    problem: Problem, space: Any, points: int, segment: Any, calls: int, new: Any
) -> Iterator[Program]:
    """A segment of the run's samples; the ``new`` ones, where they are fewer."""
    draw = lambda key, space: js.gaussian(key, space, points, 1.0)  # noqa: E731
    probe = jax.eval_shape(draw, _shapes(problem.keys["probe"]), space)
    keep = reductions.delta_of(probe)
    zeros = lambda tree: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), tree)  # noqa: E731
    carry = jax.eval_shape(lambda: sweep.begin(zeros(probe), keep))
    sizes: dict[str, Any] = {"batch_size": batching.ELSEWHERE, "point_batch": sweep.POINTS}

    def swept(probe, data, carry, skip):
        return sweep.advance(problem.loss, probe, data, carry, keep, skip=skip, **sizes)

    rest = carry, jax.ShapeDtypeStruct((), jnp.int32)
    yield Program("sweep, a segment", swept, (probe, segment, *rest), SIGMAS * calls)
    if batching.length_of(new) < batching.length_of(segment):
        yield Program("sweep of new samples", swept, (probe, new, *rest), SIGMAS)


def compiled(program: Program, chip: Chip, device: Any) -> Compiled:
    """The program, compiled for the device."""
    traced = jax.jit(program.function).trace(*_on(device, program.args))
    lowered = traced.lower()
    started = time.process_time()
    found = lowered.compile()
    seconds = time.process_time() - started
    text, memory = hlo.Text(found.as_text(), program.loops), found.memory_analysis()
    peak = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    products = batching.products_in(traced.jaxpr, program.loops)
    flops = 2 * sum(product.work for product in products)
    return Compiled(
        program, seconds, peak, program.calls * text.cycles() / chip.cycles,
        program.calls * flops, program.calls * text.bytes(), len(text.kernels),
        text.collectives(), text.precisions(),
    )  # fmt: skip


def rows_of(found: Sequence[Compiled], chip: Chip) -> list[list[str]]:
    """The table."""
    rows = [["program", "calls", "compiled, CPU s", "peak, GB", "kernels", "estimate, s", "GFLOP",
             "their least, s", "GB", "their least, s", "exchanges", "products"]]  # fmt: skip
    for each in found:
        program, passes = each.program, PASSES[each.program.precision]
        exchanges = ", ".join(f"{count} {kind}" for kind, count in each.collectives.items())
        products = ", ".join(f"{count} {name}" for name, count in each.precisions.items())
        rows.append([
            program.name, str(program.calls), f"{each.seconds:.1f}", f"{each.peak / 1e9:.3g}",
            str(each.kernels), f"{each.estimate:.3g}", f"{each.flops / 1e9:,.0f}",
            f"{passes * each.flops / chip.flops:.3g}", f"{each.bytes / 1e9:.3g}",
            f"{each.bytes / chip.bandwidth:.3g}", exchanges or "none", products or "none",
        ])  # fmt: skip
    total = [sum(values) for values in zip(*((e.seconds, e.estimate) for e in found), strict=True)]
    peak = max(each.peak for each in found)
    rows.append(["all", "", f"{total[0]:.1f}", f"{peak / 1e9:.3g}", "", f"{total[1]:.3g}",
                 *[""] * 6])  # fmt: skip
    return rows


def _shapes(tree: Any, *first: int) -> Any:
    """The shapes of arrays, perhaps behind further axes."""
    of = lambda x: jax.ShapeDtypeStruct((*first, *jnp.shape(x)), jnp.asarray(x).dtype)  # noqa: E731
    return jax.tree.map(of, tree)


def _rows(tree: Any, n: int) -> Any:
    """The shapes of n samples like these."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((n, *x.shape[1:]), x.dtype), tree)


def _on(device: Any, tree: Any) -> Any:
    """The shapes of arrays that lie on the device."""
    sharding = SingleDeviceSharding(device)
    put = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)  # noqa: E731
    return jax.tree.map(put, tree)
