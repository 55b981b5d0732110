"""How fast the core runs, each figure as a ratio to something measured in the same run."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import jaxscape as js
from experiments import cli, prepare, say
from experiments import problem as problems
from experiments.problem import Problem, ProblemConfig
from experiments.summary import as_text
from jaxscape.lab import train
from jaxscape.quadratic import project
from jaxscape.subspace import num_parameters
from jaxscape.types import Params

SQUARE = 2048
"""Side of the matrices whose product measures the machine."""


@dataclass(frozen=True)
class BenchmarkConfig(ProblemConfig):
    """How fast the core runs, each figure as a ratio to something measured in the same run.

    Trains the network first, so that the eigenpairs are those of a real Hessian.
    """

    points: int = 32
    """Points of the timed sweep."""
    dim: int = 10
    """Number of directions."""
    repeats: int = 3
    """Measurements of each ratio; the table shows the smallest, the median and the largest."""

    def ranges(self) -> list[tuple[str, Any, bool, str]]:
        """See ``ProblemConfig.ranges``."""
        least = (("points", 1), ("dim", 1), ("repeats", 1))
        mine = [
            (name, getattr(self, name), getattr(self, name) >= low, f"at least {low}")
            for name, low in least
        ]
        return [*super().ranges(), *mine]


class Ratio(NamedTuple):
    """A figure measured a few times, with the target of the design in words."""

    what: str
    values: list[float]
    target: str


def run(config: BenchmarkConfig) -> list[Ratio]:
    """Every ratio, printed as a table."""
    problem = problems.load(config)
    say.problem(problem, config.order)
    print(f"device: {jax.devices()[0].device_kind}, {jax.device_count()} of them", flush=True)
    params = prepare.fit(problem, config)
    ratios = measure(problem, params, config)
    rows = [["ratio", "min", "median", "max", "target"]]
    for what, values, target in ratios:
        figures = (min(values), statistics.median(values), max(values))
        rows.append([what, *(f"{value:.3g}" for value in figures), target])
    print(as_text(rows))
    return ratios


def measure(problem: Problem, params: Params, config: BenchmarkConfig) -> list[Ratio]:
    """Each stage timed right after what it is compared with, ``repeats`` times."""
    n, data = len(problem.order), problem.samples
    square = jax.random.normal(jax.random.key(0), (SQUARE, SQUARE))
    product = jax.jit(lambda a: jnp.matmul(a, a, precision="highest"))
    forward = lambda: train.mean_loss(problem.loss, params, data, batch_size=1000)  # noqa: E731
    hessian = js.hvp(problem.loss, params, data)
    solve = lambda: js.top_eigenpairs(hessian, params, config.dim, key=problem.keys["subspace"])  # noqa: E731
    pairs = solve()
    space = js.Subspace(params, pairs.vectors)
    probe = js.gaussian(problem.keys["probe"], space, config.points, 0.01)

    def rate() -> float:
        """Floating-point operations per second of a square matrix product."""
        return 2 * SQUARE**3 / seconds(lambda: product(square), times=5)

    def sweep() -> float:
        spent = seconds(lambda: js.delta(problem.loss, probe, data))
        return 2 * num_parameters(params) * n * config.points / spent / rate()

    def against(what: Callable[[], Any], unit: Callable[[], Any]) -> Callable[[], float]:
        return lambda: seconds(what) / seconds(unit, times=3)

    product_once = lambda: hessian(params)  # noqa: E731
    stages = [
        ("sweep, operations per second / matrix product's", sweep, ">= 0.85"),
        ("Hessian product / forward pass", against(product_once, forward), "<= 6.5"),
        ("eigenpairs, Hessian products", lambda: float(pairs.matvecs), "<= 60"),
        (
            "eigenpairs / their Hessian products alone",
            lambda: seconds(solve) / seconds(product_once, times=3) / float(pairs.matvecs),
            "",
        ),
        (
            "project / forward pass",
            against(lambda: project(problem.loss, space, data), forward),
            "<= 120",
        ),
    ]
    return [
        Ratio(what, [stage() for _ in range(config.repeats)], target)
        for what, stage, target in stages
    ]


def seconds(what: Callable[[], Any], times: int = 1) -> float:
    """The mean time of a call, compilation left out."""
    jax.block_until_ready(what())
    started = time.perf_counter()
    for _ in range(times):
        jax.block_until_ready(what())
    return (time.perf_counter() - started) / times


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    return cli.main("benchmark", BenchmarkConfig, run, argv)


if __name__ == "__main__":
    cli.leave(main())
