"""The command ``benchmark``: each figure is a ratio to something measured in the same run."""

import statistics
import sys
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import jax

from experiments.benchmark import compile_for, measure
from experiments.common import cli, console, prepare
from experiments.common import problem as problems
from experiments.common.config import ProblemConfig, at_least, default
from experiments.common.tables import as_text


@dataclass(frozen=True)
class BenchmarkConfig(ProblemConfig):
    """How fast the core runs, each figure as a ratio to something measured in the same run.

    Trains the network first, so that the eigenpairs are those of a real Hessian.

    Examples:
        python -m experiments.benchmark --dataset mnist
        python -m experiments.benchmark --dataset glyphs --k-max 3000 --repeats 1  # a first look
        python -m experiments.benchmark --compile-for v5e    # by libtpu, without a TPU
        python -m experiments.benchmark --compile-for h100 --model transformer --dataset sums
    """

    points: Annotated[int, at_least(1)] = 32
    """Random points of the timed sweep over all parameters."""
    dim: Annotated[int, at_least(1)] = 10
    """Number of directions."""
    repeats: Annotated[int, at_least(1)] = 3
    """Measurements of each ratio, of which the smallest, median and largest are shown."""

    compile_for: Annotated[str | None, default("nothing")] = None
    """Compile the main job for v5e, v6e or h100, which need not be there; 1 where one fails."""


def run(config: BenchmarkConfig) -> None:
    """Print every ratio."""
    if config.compile_for:
        compile_for.run(config, config.compile_for, config.dim)
        return
    problem = problems.load(config)
    console.problem(problem, config.order)
    console.begin("benchmark: compiles each stage, then measures it ...")
    params, product = prepare.fit(problem, config), measure.matrix_product()
    rows = [["ratio", "min", "median", "max", "target"]]
    for stage in measure.stages_of(problem, params, product, config.points, config.dim):
        values = [stage.factor * stage.above() / stage.below() for _ in range(config.repeats)]
        print(f"{stage.what}: {', '.join(f'{value:.3g}' for value in values)}", file=sys.stderr)
        figures = (f"{of(values):.3g}" for of in (min, statistics.median, max))
        rows.append([stage.what, *figures, stage.target + missed(values, stage.target)])
    device, rate = jax.devices()[0].device_kind, 2 * measure.SIDE**3 / product()
    print(f"{jax.device_count()} {device}, matrix product at {rate / 1e9:.0f} GFLOP/s")
    print(as_text(rows))


def missed(values: list[float], target: str) -> str:
    """A word where the median misses the target, such as ">= 0.85"."""
    sign, _, limit = target.partition(" ")
    middle = statistics.median(values)
    holds = not limit or (middle >= float(limit) if sign == ">=" else middle <= float(limit))
    return "" if holds else ", missed"


main = partial(cli.main, "benchmark", BenchmarkConfig, run)
"""The command; its exit status."""

if __name__ == "__main__":
    cli.leave(main())
