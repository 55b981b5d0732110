"""The command ``benchmark``: each figure is a ratio to something measured in the same run."""

import statistics
import sys
from dataclasses import dataclass
from functools import partial
from typing import Annotated, NamedTuple

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
        python -m experiments.benchmark --compile-for v5e --model transformer --dataset sums
    """

    points: Annotated[int, at_least(1)] = 32
    """Random points of the timed sweep over all parameters."""
    dim: Annotated[int, at_least(1)] = 10
    """Number of directions."""
    repeats: Annotated[int, at_least(1)] = 3
    """Measurements of each ratio, of which the smallest, median and largest are shown."""

    compile_for: Annotated[str | None, default("nothing")] = None
    """Compile the main job for v5e or v6e, which need not be there; 1 where a program fails."""


class Ratio(NamedTuple):
    """A figure measured a few times, with the target of the design in words."""

    what: str
    values: list[float]
    target: str


def run(config: BenchmarkConfig) -> list[Ratio]:
    """Every ratio, printed as a table."""
    config.check()
    if config.compile_for:
        compile_for.run(config, config.compile_for, config.dim, measure.MAIN)
        return []
    problem = problems.load(config)
    console.problem(problem, config.order)
    params = prepare.fit(problem, config)
    timed = measure.stages_of(problem, params, config.points, config.dim)
    timed += measure.against_pytorch(problem, params, config.dim)
    limits = measure.machine()
    ratios, rows = [], [["ratio", "min", "median", "max", "target"]]
    for stage in timed:
        values = [stage.measure() for _ in range(config.repeats)]
        print(f"{stage.what}: {', '.join(f'{value:.3g}' for value in values)}", file=sys.stderr)
        ratios.append(Ratio(stage.what, values, stage.target))
        figures = (f"{of(values):.3g}" for of in (min, statistics.median, max))
        rows.append([stage.what, *figures, stage.target + missed(ratios[-1])])
    print(", ".join(f"{name}: {value}" for name, value in limits.items()))
    print(as_text(rows))
    return ratios


def missed(ratio: Ratio) -> str:
    """A word where the median misses the target, such as ">= 0.85"."""
    sign, _, limit = ratio.target.partition(" ")
    if not limit:
        return ""
    middle = statistics.median(ratio.values)
    holds = middle >= float(limit) if sign == ">=" else middle <= float(limit)
    return "" if holds else ", missed"


main = partial(cli.main, "benchmark", BenchmarkConfig, run)
"""The command; its exit status."""

if __name__ == "__main__":
    cli.leave(main())
