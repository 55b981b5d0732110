"""Tables and figure of what pilots of a few samples predict, from the arrays of ``results.npz``."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.common import tables
from experiments.common.run_folder import plain
from jaxscape.lab.style import canvas, colour, curve, finish
from jaxscape.loss_variance import TREND, TRUSTED
from jaxscape.sample_size import MOST

FEW = 20  # fewer orders do not tell how often intervals held K of a run

WORDS = f"""\
Pilots are of samples that w* has not seen: the test split, or those of --holdout.
K: Δ_k stays below the tolerance (squared units of the loss); K_ε: the landscape is within ε of the
population's; held: share of random orders whose interval held the truth, for K among the orders in
which it is reached (-: fewer than {FEW});
trend: how a sample's loss changes with its position, in standard errors of random orders; beyond
±{TREND} (marked !) their order is not random, and intervals say nothing of other samples."""

QUANTITIES = ("loss_variance", "law", "distance")


def answer_of(arrays: tables.Arrays, row: int, num: int) -> dict[str, Any]:
    """What the summary says of one sigma, a row of the arrays, from ``num`` samples.

    Of each pilot intervals (low, value, high), None where beyond all numbers, and how often those
    of random orders held (``coverage``); what all samples say.
    """
    own = {name: x[row] for name, x in arrays.items() if name != "pilot"}
    trusted = own["trial_effective"] >= TRUSTED
    reached = (own["trial_k"] < num)[:, None]

    def shares(chosen: np.ndarray) -> dict[str, float | None]:
        """Of these orders' pilots [R, sizes]; of K of a run, where enough orders reach it."""
        counted = {"loss_variance": (chosen, 1), "exceedance": (chosen & reached, FEW)}
        return {
            name: float(own[f"held_{name}"][at].mean()) if at.any(1).sum() >= least else None
            for name, (at, least) in counted.items()
        }

    return {
        "sigma": tables.short(arrays["sigma"][row]),
        "pilots": [
            {
                "samples": int(size),
                "effective_samples": plain(own["own_effective"][i]),
                "trend": plain(own["own_trend"][i]),
                **{key: plain(own[f"own_{key}"][i]) for key in (*QUANTITIES, "exceedance")},
                "coverage": shares(np.broadcast_to(arrays["pilot"] == size, trusted.shape)),
            }
            for i, size in enumerate(arrays["pilot"])
        ],
        "all": {key: plain(own[f"true_{key}"][1]) for key in QUANTITIES}
        | {"exceedance": plain(own["true_k"])},
        "by_effective": {
            words: {"share": float(chosen.mean())} | shares(chosen)
            for words, chosen in ((f"at least {TRUSTED}", trusted), ("less", ~trusted))
        },
    }


def text(summary: dict[str, Any]) -> str:
    """All that the command prints of its summary."""
    lines = [f"tolerance {summary['tolerance']:g}, ε = {summary['epsilon']:g}\n{WORDS}"]
    for answer in summary["answers"]:
        table = _table(answer, summary["num_samples"])
        coverage = [["effective sample size", "of all pilots", "held E S²", "held K of a run"]]
        for words, held in answer["by_effective"].items():
            coverage.append([words, *(tables.cell(share, ".1%") for share in held.values())])
        lines.append(f"σ = {answer['sigma']:g}\n{tables.as_text(table)}")
        lines.append(tables.as_text(coverage))
    return "\n\n".join(lines)


def _table(answer: dict[str, Any], n: int) -> list[list[str]]:
    """A row is the pilot along the order of the data, the last one all samples at all points.

    "held" alone is of the random orders' pilots.
    """
    rows = [["pilot", "E S²", "90 %", "held", "effective", "trend"]]
    rows[0] += ["K, order law, 90 %", f"K, run of {n:,}, 90 %", "held", "K_ε, 90 %"]
    for pilot in answer["pilots"]:
        low, value, high = ("any" if x is None else f"{x:.3g}" for x in pilot["loss_variance"])
        law, distance = (tables.between(pilot[name][::2]) for name in ("law", "distance"))
        ends = [k if k is not None and k < n else None for k in pilot["exceedance"][::2]]
        held = {name: tables.cell(share, ".1%") for name, share in pilot["coverage"].items()}
        mark = "!" * (abs(pilot["trend"] or 0) > TREND)
        rows.append([
            f"{pilot['samples']:,}", value, f"{low} to {high}", held["loss_variance"],
            f"{pilot['effective_samples'] or 0:,.0f}", tables.cell(pilot["trend"], "+.1f") + mark,
            law, tables.between(ends, f"not by {n:,}"), held["exceedance"], distance,
        ])  # fmt: skip
    truth = answer["all"]
    last = f"this run: {truth['exceedance']:,.0f}" if truth["exceedance"] < n else "not reached"
    law, distance = (tables.count(truth[name]) for name in ("law", "distance"))
    level = f"{truth['loss_variance']:.3g}"
    return [*rows, [f"all {n:,}", level, "", "", "", "", law, last, "", distance]]


def pilots(summary: dict[str, Any], unit: str) -> Figure:
    """K with its interval against the samples of the pilots, a panel per answer.

    Lines are what all samples say: of the order law, and of the one order that was run. A K of a
    run that is not reached within it is left out.
    """
    title = rf"Sample size predicted, $\Delta_k$ < {summary['tolerance']:g} {unit}²"
    titles = [f"σ = {answer['sigma']:g}" for answer in summary["answers"]]
    figure, panels = canvas(title, "samples $n$ of the pilot", "$K$ (samples)", titles)
    kinds = {"law": "order law", "exceedance": "last exceedance of a run"}
    for axes, answer in zip(panels, summary["answers"], strict=True):
        sizes = np.array([pilot["samples"] for pilot in answer["pilots"]])
        for row, (kind, label) in enumerate(kinds.items()):
            limits = [[MOST if x is None else x for x in p[kind]] for p in answer["pilots"]]
            low, value, high = np.array(limits, float).T
            end = summary["num_samples"] if kind == "exceedance" else np.inf
            value = np.where(value < end, value, np.nan)
            bars = np.maximum([value - low, high - value], 0)
            style = curve(row, capsize=3, lw=0, elinewidth=1.6, label=label)
            axes.errorbar(sizes * 1.06 ** (2 * row - 1), value, bars, **style)
            if answer["all"][kind] is not None and answer["all"][kind] < end:
                axes.axhline(answer["all"][kind], color=colour(row), ls=("--", ":")[row], lw=1.4)
        axes.axhline(summary["num_samples"], color="0.6", lw=1)
    grey = f"grey: {summary['num_samples']:,} samples"
    note = f"bars: 90 % interval of a pilot; lines of the same colour: all samples; {grey}"
    return finish(figure, note)
