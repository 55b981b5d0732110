"""The command ``bounds``: how loose the published bounds are on a trained network."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
from jaxtyping import Int
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

import jaxscape as js
from experiments.common import bounds, cli, console, prepare, run_folder, segments, tables
from experiments.common.bounds import FORMS
from experiments.common.config import RunConfig, above, at_least, between
from experiments.common.console import progress
from experiments.common.problem import Problem
from experiments.common.run_folder import Record
from jaxscape import batching
from jaxscape.lab import style
from jaxscape.lab.style import PREFIX, Keywords, canvas, colour, curve, legend
from jaxscape.types import InputError, Params

NOTE = (
    "The first table is log10. Looseness is bound over measured, where it is smallest. Of a "
    "Hessian the Gauss-Newton part is measured. Within R the bound is no proof where a ReLU "
    "network has kinks."
)

SEGMENT = 1000  # gauss-Newton norms between two signs of progress


@dataclass(frozen=True)
class BoundsConfig(RunConfig):
    """The published bounds on one sample's effect, and how loose each is.

    Trains an mlp, measures the constants of the Hessian-norm bound and the loss-difference bound
    of Kiselev and Grabovoy 2024 and of the rate bound of Kiselev and Grabovoy 2026, and sets each
    bound beside what it bounds.

    Examples:
        python -m experiments.bounds --dataset mnist
        python -m experiments.bounds --dataset glyphs --k-max 3000 --norms 3000  # a first look
    """

    dim: Annotated[int, between(1, segments.MAX_LAW_DIM)] = 10
    """Number of eigenvectors, at most 32."""
    sigma: Annotated[float, above(0)] = 0.01
    """Standard deviation σ along each direction, in units of the parameters."""
    points: Annotated[int, at_least(2)] = 64
    """Random points at which losses are evaluated, at least 2."""
    norms: Annotated[int, at_least(1)] = 60_000
    """Samples whose Gauss-Newton norm is computed, at most k_max."""

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
        inputs, points = problem.samples["inputs"], probe.coordinates
        found = bounds.against(params, inputs, model, points, values, sigma)
    arrays = {"order": problem.order, "coordinates": np.asarray(points), **found.arrays}
    arrays |= norms(problem, params, config.norms)
    summary: dict[str, Any] = {
        "num_samples": len(problem.order),
        "norms": len(arrays["norm_samples"]),
        "sigma": sigma,
        "radius": found.radius,
        "network": {name: float(value) for name, value in found.network._asdict().items()},
        "sample": {name: float(value) for name, value in found.sample._asdict().items()},
        "bounds": bounds.compare(arrays),
    }
    figures = figures_of(arrays, summary, problem.unit)
    both = map(tables.as_text, (table(summary["bounds"]), constants_table(summary)))
    text = "\n\n".join([*both, f"{NOTE}\n{verdict(summary)}"])
    return Record(arrays, summary, figures, text)


def norms(problem: Problem, params: Params, num: int) -> dict[str, np.ndarray]:
    """Exact Gauss-Newton norms of samples drawn without replacement."""
    key = jax.random.fold_in(problem.keys["probe"], 1)
    chosen = np.sort(jax.random.permutation(key, len(problem.order))[:num])
    cut = batching.cut(len(chosen), SEGMENT)
    name, rows = "Gauss-Newton norms", []
    what = f"exact, of {len(chosen):,} of {len(problem.order):,} samples"
    with console.timed(name, what), progress(name, len(chosen), "samples") as advance:
        for start, fresh in zip(cut.starts, cut.fresh, strict=True):
            at = chosen[start : start + cut.size]
            batch = jax.tree.map(lambda leaf, at=at: leaf[at], problem.samples)
            rows.append(np.asarray(bounds.class_norms(problem.model, params, batch)))
            advance(int(fresh.sum()))
    found = np.asarray(batching.join(cut, np.stack(rows)))
    return {"norm_samples": chosen, "gauss_newton_norms": found}


def table(entries: list[dict[str, Any]]) -> list[list[str]]:
    """Rows of text, the first one the header."""
    header = ["bound on", *FORMS, "measured, largest", "median", "looseness, published"]
    rows = [[*header, "corrected"]]
    names = (*FORMS, "largest", "median", *(f"{form}_looseness" for form in FORMS))
    for entry in entries:
        numbers = (entry[name] for name in names)
        rows.append([entry["name"], *("-" if x is None else f"{x:.2f}" for x in numbers)])
    return rows


def constants_table(found: dict[str, Any]) -> list[list[str]]:
    """Rows of text: the measured constants of the network and of its samples."""
    network, sample = found["network"], found["sample"]
    named = {
        "L": network["layers"], "M_x": network["input_norm"], "M_W": network["weight_norm"],
        "M_ℓ": sample["loss"], "M_g": sample["gradient"], "M_H": sample["hessian"],
        "D": sample["dim"], "R": found["radius"], "σ": found["sigma"], "norms of": found["norms"],
    }  # fmt: skip
    return [list(named), [f"{value:.4g}" for value in named.values()]]


def verdict(found: dict[str, Any]) -> str:
    """Which bounds are exceeded, in one line."""
    every = itertools.product(found["bounds"], FORMS)
    exceeded = [
        f"the {form} bound on the {entry['name']}"
        for entry, form in every
        if entry[f"{form}_looseness"] < 0
    ]
    return "exceeded: " + "; ".join(exceeded) if exceeded else "no bound is exceeded"


def figures_of(
    arrays: dict[str, np.ndarray], found: dict[str, Any], unit: str
) -> dict[str, Figure]:
    """How loose each bound is, and steps and rates beside theirs along k."""
    steps: list[tuple[int, str, np.ndarray]] = []
    places = {"at $w^*$": "step_at_origin", "within $R$": "step_in_probe"}
    for row, (where, name) in enumerate(places.items()):
        steps.append((row, f"measured {where}", arrays[name]))
        steps.append((row, f" {where}", arrays[f"bound_{name}"]))
    rates = [(0, "Monte-Carlo", arrays["delta"]), (1, "quadratic law", arrays["law_total"])]
    rates.append((2, "", arrays["bound_rate"]))
    ball = f"The loss-step bound at $w^*$ and within $R = {found['radius']:.2g}$ of it"
    rate = rf"The rate bound at $\sigma = {found['sigma']:g}$"
    return {
        "looseness": _looseness(found["bounds"]),
        "step": _along_k(ball, rf"$|L_{{k+1}} - L_k|$   ({unit})", arrays["k"], steps),
        "rate": _along_k(rate, rf"$\Delta_k$   ({unit}²)", arrays["k"], rates),
    }


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


def _along_k(
    title: str, ylabel: str, k: Int[np.ndarray, "K"], curves: Sequence[tuple[int, str, np.ndarray]]
) -> Figure:
    """Measured values [K] and log10 of bounds [2, K], each with its colour and its label."""
    figure, (axes,) = canvas(title, PREFIX, ylabel)
    for row, label, values in curves:
        if values.ndim == 1:
            style.draw_extremes(axes, row, k, values)
            style.draw_mean(axes, row, k, values, 0.0, label)
            continue
        same = np.allclose(values[0], values[1], rtol=0, atol=0.01)  # to the eye
        names = ("bound",) if same else [f"{form} bound" for form in FORMS]
        for name, bound, dash in zip(names, values, ("--", ":"), strict=False):
            drawn = 10.0 ** np.minimum(bound, 300)  # of a deep network it may leave float64
            axes.plot(k, drawn, dash, color=colour(row), lw=2, label=name + label)
    return style.finish(figure, dots=True)


run = partial(run_folder.run, "bounds", _find, check=_check)
"""The whole command, from its settings; see ``run_folder.run``."""

main = partial(cli.main, "bounds", BoundsConfig, run)
"""The command; its exit status."""

if __name__ == "__main__":
    cli.leave(main())
