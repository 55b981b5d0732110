"""Tables and figure of what pilots of a few samples predict, from the arrays of ``results.npz``.

An answer is an entry of the summary: ``sigma``, ``pilots`` (each with its ``samples``, the
intervals ``law`` and ``exceedance`` as (low, value, high), None where beyond all numbers, and
``coverage``) and ``all``, what all samples say.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.common import tables
from experiments.common.run_folder import plain
from jaxscape.lab.style import canvas, colour, curve, legend
from jaxscape.loss_variance import TRUSTED
from jaxscape.sample_size import MOST

QUANTITIES = ("loss_variance", "law", "distance", "exceedance")
KINDS = (("law", "order law"), ("exceedance", "last exceedance of a run"))


def answers_of(arrays: dict[str, np.ndarray], num: int) -> list[dict[str, Any]]:
    """One answer per sigma, from the arrays of ``num`` samples; None where infinite."""
    by_sigma = {name: x for name, x in arrays.items() if name != "pilot"}
    return [
        {"sigma": tables.short(sigma)}
        | _answer(arrays["pilot"], {name: x[row] for name, x in by_sigma.items()}, num)
        for row, sigma in enumerate(arrays["sigma"])
    ]


def _answer(sizes: np.ndarray, arrays: dict[str, np.ndarray], most: int) -> dict[str, Any]:
    """Of one sigma; ``held_*`` are [R, sizes], ``own_*`` [sizes, 3]."""
    trusted = arrays["trial_effective"] >= TRUSTED
    # of K of a run, only orders count in which it is reached
    reached = np.broadcast_to((arrays["trial_k"] < most)[:, None], trusted.shape)

    def shares(chosen: Any) -> dict[str, float | None]:
        chosen = np.broadcast_to(chosen, trusted.shape)
        held = {
            "loss_variance": arrays["held_loss_variance"][chosen],
            "exceedance": arrays["held_exceedance"][chosen & reached],
        }
        return {key: float(hits.mean()) if hits.size else None for key, hits in held.items()}

    return {
        "pilots": [
            {
                "samples": int(size),
                "effective_samples": plain(arrays["own_effective"][i]),
                "trend": plain(arrays["own_trend"][i]),
                **{key: plain(arrays[f"own_{key}"][i]) for key in QUANTITIES},
                "coverage": shares(np.arange(len(sizes)) == i),
            }
            for i, size in enumerate(sizes)
        ],
        "all": {key: plain(arrays[f"true_{key}"][1]) for key in QUANTITIES[:3]}
        | {"exceedance": plain(arrays["true_k"])},
        "trusted": float(trusted.mean()),
        "coverage_trusted": shares(trusted),
        "coverage_others": shares(~trusted),
    }


def text(summary: dict[str, Any]) -> str:
    """All that the command prints of its summary."""
    tolerance, epsilon = summary["tolerance"], summary["epsilon"]
    lines = [f"K: Δ_k stays below {tolerance:g} (squared units of the loss); K_ε: the landscape is",
             f"within ε = {epsilon:g} of the population's; held: share of random orders whose",
             "interval held the truth, of K over orders in which it is reached;",
             tables.TREND_WORDS]  # fmt: skip
    for answer in summary["answers"]:
        lines += ["", f"σ = {answer['sigma']:g}"]
        lines += [tables.as_text(_table(answer, summary["num_samples"])), ""]
        lines += [tables.as_text(_coverage_table(answer))]
    return "\n".join(lines)


def _table(answer: dict[str, Any], n: int) -> list[list[str]]:
    """A row is the pilot along the order of the data, the last one all samples at all points.

    "held" alone is of the random orders' pilots.
    """
    rows = [["pilot", "E S²", "90 %", "held", "effective", "trend"]]
    rows[0] += ["K, order law, 90 %", f"K, run of {n:,}, 90 %", "held", "K_ε, 90 %"]
    for pilot in answer["pilots"]:
        low, value, high = ("any" if x is None else f"{x:.3g}" for x in pilot["loss_variance"])
        held = pilot["coverage"]
        rows.append([
            f"{pilot['samples']:,}", value, f"{low} to {high}", _share(held["loss_variance"]),
            f"{pilot['effective_samples'] or 0:,.0f}", tables.trend(pilot["trend"]),
            tables.between(pilot["law"][::2]),
            tables.between(pilot["exceedance"][::2]), _share(held["exceedance"]),
            tables.between(pilot["distance"][::2]),
        ])  # fmt: skip
    truth = answer["all"]
    last = f"this run: {truth['exceedance']:,.0f}" if truth["exceedance"] < n else "not reached"
    law, distance = (tables.count(truth[name]) for name in ("law", "distance"))
    level = f"{truth['loss_variance']:.3g}"
    return [*rows, [f"all {n:,}", level, "", "", "", "", law, last, "", distance]]


def _coverage_table(answer: dict[str, Any]) -> list[list[str]]:
    """Coverage of the pilots' intervals by their effective sample size."""
    rows = [["effective sample size", "of all pilots", "held E S²", "held K of a run"]]
    shares = {"trusted": answer["trusted"], "others": 1 - answer["trusted"]}
    for name, (which, share) in zip((f"at least {TRUSTED}", "less"), shares.items(), strict=True):
        held = answer[f"coverage_{which}"]
        cells = (share, held["loss_variance"], held["exceedance"])
        rows.append([name, *map(_share, cells)])
    return rows


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def pilots(summary: Mapping[str, Any], tolerance: float, unit: str) -> Figure:
    """K with its interval against the samples of the pilots, a panel per answer.

    Lines are what all samples say: of the order law, and of the one order that was run.
    """
    title = rf"Sample size predicted, $\Delta_k$ < {tolerance:g} {unit}²"
    titles = [f"σ = {answer['sigma']:g}" for answer in summary["answers"]]
    figure, panels = canvas(title, "samples $n$ of the pilot", "$K$ (samples)", titles)
    for axes, answer in zip(panels, summary["answers"], strict=True):
        sizes = np.array([pilot["samples"] for pilot in answer["pilots"]])
        for row, (kind, label) in enumerate(KINDS):
            limits = [[MOST if x is None else x for x in p[kind]] for p in answer["pilots"]]
            low, value, high = np.array(limits, float).T
            bars = np.maximum([value - low, high - value], 0)
            style = curve(row, capsize=3, lw=0, elinewidth=1.6, label=label)
            axes.errorbar(sizes * 1.06 ** (2 * row - 1), value, bars, **style)
            if answer["all"][kind] is not None:
                axes.axhline(answer["all"][kind], color=colour(row), ls=("--", ":")[row], lw=1.4)
        axes.axhline(summary["num_samples"], color="0.6", lw=1)
        axes.set(xscale="log", yscale="log")
    grey = f"grey: {summary['num_samples']:,} samples"
    legend(figure, f"bars: 90 % interval of a pilot; lines of the same colour: all samples; {grey}")
    return figure
