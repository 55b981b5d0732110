"""The run folder of a command that is done in one go: arrays, summary, settings, figures."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from experiments import environment, run_folder
from experiments.problem import Problem
from jaxscape.lab import plot


class Record(NamedTuple):
    """What a command has found."""

    arrays: dict[str, np.ndarray]  #: of results.npz, without pickles
    summary: dict[str, Any]  #: of summary.json
    figures: Mapping[str, Figure]  #: by file name, without its ending


class Kept(NamedTuple):
    """A record, and the run folder in which it lies."""

    arrays: dict[str, np.ndarray]
    summary: dict[str, Any]
    figures: Mapping[str, Figure]
    folder: Path


def keep(name: str, config: Any, problem: Problem, find: Callable[[Path], Record]) -> Kept:
    """Write what ``find`` gives into ``config.out``, or runs/<name>-<dataset>-<hash>.

    ``find`` gets the folder to work in. Bad input that it finds leaves nothing behind; what an
    interruption leaves, the next run of the same settings takes over.

    Raises:
        InputError: a folder in use, or what ``find`` raises.
    """
    default = Path("runs") / f"{name}-{problem.dataset.label}-{config.short_hash()}"
    out = run_folder.absolute(config.out or default)
    settings = config.settings() | {"data_sha256": problem.dataset.sha256}
    return write(out, settings, config, problem, find)


def write(
    out: Path,
    settings: dict[str, Any],
    config: Any,
    problem: Problem,
    find: Callable[[Path], Record],
) -> Kept:
    """Write what ``find`` gives into the folder ``out``; see ``keep``."""
    with run_folder.staged(out, settings, resume=True) as work:
        found = find(work)
        run_folder.write_arrays(work / "results.npz", found.arrays)
        run_folder.write_json(work / "summary.json", found.summary)
        facts = environment.facts(problem.dataset, config, settings)
        run_folder.write_json(work / run_folder.CONFIG, facts)
        for figure_name, figure in found.figures.items():
            plot.save(figure, work / "figures", figure_name)
    return Kept(*found, folder=out)


def marks(problem: Problem) -> dict[str, Any]:
    """What every figure says of its data."""
    return {"dataset": problem.dataset.label, "fallback": bool(problem.dataset.note)}
