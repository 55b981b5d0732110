"""What is timed: each stage of the work as a ratio to something measured right beside it."""

import functools
import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import jaxscape as js
from experiments.common.console import seconds, timer
from experiments.common.problem import Problem
from jaxscape import batching
from jaxscape.lab import train
from jaxscape.quadratic import project
from jaxscape.trees import num_parameters
from jaxscape.types import Params, Probe

SQUARE = 2048
"""Side of the matrices whose product measures the machine."""
ALONG = 256
"""Points of the sweeps in the subspace."""
MAIN = 128
"""Those of the main command, at each σ."""
PART = 4
"""Of the samples, PyTorch's sweep meets one in so many: it is long, and as long for each."""
RESIDUAL = 1e-4
"""Relative residual of the eigenpairs, here and in PyTorch."""


class Stage(NamedTuple):
    """How to measure a ratio once."""

    what: str
    measure: Callable[[], float]
    target: str


def machine() -> dict[str, Any]:
    """The device, its rate of float32 matrix products, its rate of copying memory."""
    block = jnp.zeros((64, 1024, 1024))
    copy = jax.jit(lambda x: x + 1)
    return {
        "device": f"{jax.devices()[0].device_kind}, {jax.device_count()} of them",
        "matrix product, GFLOP/s": round(product_rate() / 1e9),
        "copy, GB/s": round(2 * block.nbytes / seconds(lambda: copy(block), times=3) / 1e9, 1),
    }


@functools.cache
def _square() -> Callable[[], jax.Array]:
    square = jax.random.normal(jax.random.key(0), (SQUARE, SQUARE))

    def multiply(w: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.matmul(x, w, precision="highest")

    product = jax.jit(
        multiply, compiler_options=batching.compiler_options(multiply, square, square)
    )
    return functools.partial(product, square, square)


def product_rate() -> float:
    """Floating-point operations per second of a square matrix product."""
    return 2 * SQUARE**3 / seconds(_square(), times=5)


def stages_of(problem: Problem, params: Params, points: int, dim: int) -> list[Stage]:
    """Each stage, measured right before what it is compared with."""
    n, data, key = len(problem.order), problem.samples, problem.keys["probe"]
    forward = lambda: train.mean_loss(problem.loss, params, data, batch_size=1000)  # noqa: E731
    hessian = js.hessian_operator(problem.loss, params, data)
    solve = functools.partial(
        js.top_eigenpairs, problem.keys["subspace"], hessian, params, dim, find_repeated=False
    )
    pairs = solve()
    space = js.Subspace(params, pairs.vectors)
    everywhere = js.isotropic(key, params, points, 0.01)
    along = js.gaussian(key, space, ALONG, 0.01)

    def sweep(probe: Probe) -> Callable[[], float]:
        operations = 2 * num_parameters(params) * n * probe.num_points
        spent = timer(lambda: js.delta(problem.loss, probe, data))
        return lambda: operations / spent() / product_rate()

    def against(what: Callable[[], Any], unit: Callable[[], Any]) -> Callable[[], float]:
        above, below = timer(what), timer(unit, times=3)
        return lambda: above() / below()

    once = lambda: hessian(params)  # noqa: E731
    products = float(pairs.matvecs)
    alone = against(solve, once)
    passes = against(lambda: project(problem.loss, space, data), forward)
    rate = "operations per second / matrix product's"
    return [
        Stage(f"sweep over all parameters, {rate}", sweep(everywhere), ">= 0.85"),
        Stage(f"sweep in the subspace, {rate}", sweep(along), ">= 2"),
        Stage("Hessian product / forward pass", against(once, forward), "<= 4"),
        Stage("eigenpairs, Hessian products", lambda: products, "<= 30"),
        Stage("eigenpairs / their Hessian products alone", lambda: alone() / products, ""),
        Stage("project / forward pass", passes, "<= 30"),
    ]


def against_pytorch(problem: Problem, params: Params, dim: int) -> list[Stage]:
    """How many times as long the same takes in PyTorch, where that is there; see ``pytorch``."""
    network = sorted(params) == [f"Dense_{layer}" for layer in range(len(params))]
    if not (network and problem.dataset.num_classes and importlib.util.find_spec("torch")):
        return []
    from experiments.benchmark.pytorch import Rival

    few = jax.tree.map(lambda leaf: leaf[: max(2, len(leaf) // PART)], problem.samples)
    swept, rival = Rival(params, few), Rival(params, problem.samples)
    space = js.random_subspace(problem.keys["subspace"], params, dim)
    probe = js.gaussian(problem.keys["probe"], space, ALONG, 0.01)
    hessian = js.hessian_operator(problem.loss, params, problem.samples)
    search = functools.partial(js.top_eigenpairs, problem.keys["subspace"], find_repeated=False)

    ours = {
        "sweep": timer(lambda: js.delta(problem.loss, probe, few)),
        "eigenpairs": timer(lambda: search(hessian, params, dim)),
    }
    theirs = {  # nothing is compiled there, so nothing has to be warmed up
        "sweep": timer(lambda: swept.delta(space, probe.coordinates), warm=True),
        "eigenpairs": timer(lambda: rival.eigenpairs(dim, RESIDUAL), warm=True),
    }
    targets = {"sweep": ">= 3", "eigenpairs": ">= 2"}
    ratio = lambda name: theirs[name]() / ours[name]()  # noqa: E731
    return [
        Stage(f"{name}, time in PyTorch / here", functools.partial(ratio, name), target)
        for name, target in targets.items()
    ]
