"""The command ``bounds``: how loose the published bounds are on a trained network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

import jaxscape as js
from experiments.common import bounds, cli, console, prepare, segments, tables
from experiments.common.bounds import FORMS
from experiments.common.config import RunConfig, above, at_least, between
from experiments.common.console import progress
from experiments.common.problem import Problem
from experiments.common.run_folder import Record
from jaxscape.lab.style import Keywords, canvas, curve, legend
from jaxscape.types import InputError, Params

NOTE = (
    "The first table is log10. Looseness is bound over measured, where it is smallest. Of a "
    "Hessian the Gauss-Newton part is measured. Within R the bound is no proof where a ReLU "
    "network has kinks."
)

SEGMENT = 1000  # Gauss-Newton norms between two signs of progress


@dataclass(frozen=True)
class BoundsConfig(RunConfig):
    """The published bounds on one sample's effect, and how loose each is.

    Trains an mlp, measures the constants of the Hessian-norm bound and the loss-difference bound
    of Kiselev and Grabovoy 2024 and of the rate bound of Kiselev and Grabovoy 2026, and sets each
    bound beside what it bounds.

    Examples:
        python -m experiments.bounds --dataset mnist
        python -m experiments.bounds --dataset glyphs --k-max 3000  # a first look
    """

    dim: Annotated[int, between(1, segments.MAX_LAW_DIM)] = 10
    """Number of eigenvectors, at most 32."""
    sigma: Annotated[float, above(0)] = 0.01
    """Standard deviation σ along each direction, in units of the parameters."""
    points: Annotated[int, at_least(2)] = 64
    """Random points at which losses are evaluated, at least 2."""

    def check(self) -> None:
        """See ``ProblemConfig.check``."""
        super().check()
        if self.model != "mlp":
            wanted = "--model mlp, which the bounds are of"
            raise InputError(f"expected {wanted}, found {self.model}; change it")


def _check(problem: Problem, config: BoundsConfig) -> None:
    del config
    if not problem.dataset.num_classes:
        raise InputError(
            "expected classes as targets, found numbers to be predicted; the bounds are of the "
            "cross-entropy, so take a data set of classes"
        )


def _find(problem: Problem, config: BoundsConfig, work: Path) -> Record:
    store, sigma = work / "checkpoint", config.sigma
    params = prepare.trained(problem, config, store)
    space, _ = prepare.eigenspace(problem, params, config.dim, store)
    probe = js.gaussian(problem.keys["probe"], space, config.points, sigma)
    with console.timed("swept", f"{config.points} points at σ = {sigma:g}"):
        values = segments.losses_at(problem, probe)
    with console.timed("theory", "the quadratic law of every k"):
        model = js.project(problem.loss, space, problem.samples)
        inputs, points = problem.samples["inputs"], np.asarray(probe.coordinates)
        arrays, constants = bounds.against(params, inputs, model, points, values, sigma)
    arrays |= {"order": problem.order, "coordinates": points}
    arrays["gauss_newton_norms"] = norms(problem, params)
    entries = bounds.compare(arrays)
    measured = [[*constants], [f"{value:.4g}" for value in constants.values()]]
    text = "\n\n".join([*map(tables.as_text, (table(entries), measured)), NOTE, verdict(entries)])
    summary = {"constants": constants, "bounds": entries}
    return Record(arrays, summary, {"looseness": _looseness(entries)}, text)


def norms(problem: Problem, params: Params) -> np.ndarray:
    """The exact Gauss-Newton norm of every sample."""
    num, name, found = len(problem.order), "Gauss-Newton norms", []
    with console.timed(name, "exact"), progress(name, num, "samples") as advance:
        for start in range(0, num, SEGMENT):
            few = slice(start, start + SEGMENT)
            batch = jax.tree.map(lambda leaf, few=few: leaf[few], problem.samples)
            found.append(np.asarray(bounds.gauss_newton_norms(problem.model, params, batch)))
            advance(len(found[-1]))
    return np.concatenate(found)


def table(entries: list[dict[str, Any]]) -> list[list[str]]:
    """Rows of text, the first one the header."""
    header = ["bound on", *FORMS, "measured, largest", "median", "looseness, published"]
    rows = [[*header, "corrected"]]
    names = (*FORMS, "largest", "median", *(f"{form}_looseness" for form in FORMS))
    for entry in entries:
        numbers = (entry[name] for name in names)
        rows.append([entry["name"], *("-" if x is None else f"{x:.2f}" for x in numbers)])
    return rows


def verdict(entries: list[dict[str, Any]]) -> str:
    """Which bounds are exceeded, in one line."""
    exceeded = [
        f"the {form} bound on the {entry['name']}"
        for entry in entries
        for form in FORMS
        if entry[f"{form}_looseness"] < 0
    ]
    return "exceeded: " + "; ".join(exceeded) if exceeded else "no bound is exceeded"


def _looseness(entries: Sequence[Mapping[str, Any]]) -> Figure:
    """One row per bound: published, corrected and median measured over the largest measured."""
    xlabel = r"$\log_{10}$ of the value over the largest measured"
    figure, (axes,) = canvas("How loose the bounds are", xlabel, "")
    place = -np.arange(len(entries))
    fields = {"median": "median measured", **{form: f"bound, {form}" for form in FORMS[::-1]}}
    for row, (field, label) in enumerate(fields.items()):
        found = [np.nan if entry[field] is None else entry[field] for entry in entries]
        shift = np.array(found) - [entry["largest"] for entry in entries]
        # the published bound, drawn hollow and larger, shows around the corrected one
        look: Keywords = {"mfc": "none", "mew": 2, "ms": 13} if field == "published" else {"ms": 8}
        axes.plot(shift, place, label=label, **curve(row, lw=0, **look))
    axes.axvline(0, color="0.2", lw=1.5, label="largest measured")
    names = [entry["name"] for entry in entries]
    for plain, symbol in (("δ_k", r"$\delta_k$"), ("Δ_k", r"$\Delta_k$"), ("w*", "$w^*$")):
        names = [name.replace(plain, symbol) for name in names]
    axes.set_yticks(place, names)
    axes.margins(x=0.06, y=0.1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend(figure, "a bound left of the line is exceeded")
    return figure


main = cli.command("bounds", BoundsConfig, _find, check=_check)
"""The command; its exit status."""

if __name__ == "__main__":
    cli.leave(main())
