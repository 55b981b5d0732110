"""What is timed: each stage of the work as a ratio to something measured right beside it."""

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

import jaxscape as js
from experiments.common.console import timer
from experiments.common.problem import Problem
from jaxscape import batching
from jaxscape.lab import train
from jaxscape.probes import SubspaceProbe
from jaxscape.trees import num_parameters
from jaxscape.types import Params

SIDE = 2048  # of the matrices whose product measures the machine
ALONG = 256  # points of the sweeps in the subspace
PART = 4  # PyTorch's sweep meets one sample in so many: it is long, and as long for each

Timer = Callable[[], float]


class Stage(NamedTuple):
    """The ratio ``factor * above() / below()`` of times, with its target in words."""

    what: str
    above: Timer
    below: Timer
    target: str
    factor: float = 1.0


def matrix_product() -> Timer:
    """The time of a square matrix product in float32, which takes 2·``SIDE``³ operations."""
    square = jax.random.normal(jax.random.key(0), (SIDE, SIDE))
    multiply = lambda w, x: jnp.matmul(x, w, precision="highest")  # noqa: E731
    options = batching.compiler_options(multiply, square, square)
    product = jax.jit(multiply, compiler_options=options)
    return timer(lambda: product(square, square), times=5)


def stages_of(
    problem: Problem, params: Params, product: Timer, points: int, dim: int
) -> list[Stage]:
    """Each stage, beside the time of a matrix product, a forward pass or a Hessian product."""
    loss, data, keys = problem.loss, problem.samples, problem.keys
    forward = timer(lambda: train.mean_loss(loss, params, data, batch_size=1000), times=3)
    hessian = js.hessian_operator(loss, params, data)
    once = timer(lambda: hessian(params), times=3)
    search = partial(js.top_eigenpairs, keys["subspace"], like=params, num=dim, find_repeated=False)
    solve = partial(search, hessian)
    pairs = solve()
    space, products = js.Subspace(params, pairs.vectors), float(pairs.matvecs)
    everywhere = js.isotropic(keys["probe"], params, points, 0.01)
    along = js.gaussian(keys["probe"], space, ALONG, 0.01)
    work = num_parameters(params) * len(problem.order) / SIDE**3  # of a point, in matrix products
    rate = "operations per second / matrix product's"
    return [
        Stage(f"sweep over all parameters, {rate}", product,
              timer(lambda: js.delta(loss, everywhere, data)), ">= 0.85", work * points),
        Stage(f"sweep in the subspace, {rate}", product,
              timer(lambda: js.delta(loss, along, data)), ">= 2", work * ALONG),
        Stage("Hessian product / forward pass", once, forward, "<= 4"),
        Stage("eigenpairs, Hessian products", lambda: products, lambda: 1.0, "<= 30"),
        Stage("eigenpairs, each product / forward pass", timer(solve), forward, "<= 4",
              1 / products),
        Stage("project / forward pass", timer(lambda: js.project(loss, space, data)), forward,
              "<= 30"),
        *_against_pytorch(problem, along, search, timer(solve)),
    ]  # fmt: skip


def _against_pytorch(
    problem: Problem, along: SubspaceProbe, search: Callable, solve: Timer
) -> list[Stage]:
    """How many times as long the same takes in PyTorch, where that is there; see ``pytorch``."""
    space, params, data = along.space, along.space.origin, problem.samples
    network = sorted(params) == [f"Dense_{layer}" for layer in range(len(params))]
    if not (network and problem.dataset.num_classes and importlib.util.find_spec("torch")):
        return []
    from experiments.benchmark.pytorch import PACKED, Rival

    few = jax.tree.map(lambda leaf: leaf[: max(2, len(leaf) // PART)], data)
    swept, rival, packed = Rival(params, few), Rival(params, data), Rival(params, few, PACKED)
    theirs = partial(timer, warm=True)  # nothing is compiled there
    sweep = theirs(lambda: swept.delta(space, along.coordinates))
    pairs = theirs(lambda: rival.eigenpairs(space.dim, 1e-4))  # as here
    ours = timer(lambda: js.delta(problem.loss, along, few))
    stages = [
        Stage("sweep, time in PyTorch / here", sweep, ours, ">= 3"),
        Stage("eigenpairs, time in PyTorch / here", pairs, solve, ">= 2"),
    ]
    packages = list(filter(importlib.util.find_spec, ("curvlinops", "hessian_eigenthings")))
    if not packages:
        return stages
    hessian, unravel = js.hessian_operator(problem.loss, params, few), ravel_pytree(params)[1]
    find = partial(search, hessian)
    found, here = find(), timer(find)
    own = float((found.residuals / abs(found.values)).max())
    for name in packages:
        there = partial(getattr(packed, name), space.dim, 1e-4)
        gaps = [jnp.linalg.norm(ravel_pytree(hessian(unravel(vector)))[0] / value - vector)
                for value, vector in zip(*there(), strict=True)]  # fmt: skip
        what = f"eigenpairs, time in {name} / here, residuals {max(gaps):.0e} / {own:.0e}"
        stages.append(Stage(what, theirs(there), here, ""))
    return stages
