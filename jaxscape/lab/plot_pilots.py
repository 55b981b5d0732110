"""Figures of what pilots of few samples foretell, from a list of answers.

An answer is a mapping: ``sigma``, ``part`` ("delta" or "shape"), ``pilots`` (each with the
intervals ``law`` and ``exceedance`` as (low, value, high), None where beyond all numbers, and
``coverage``) and ``all``, what all samples say.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxscape.lab.style import MARKERS, Keywords, canvas, colour, legend
from jaxscape.sample_size import MOST

PILOT = "samples $n$ of the pilot"
PARTS = {"delta": r"$\Delta_k$", "shape": r"shape $\tilde\Delta_k$"}
KINDS = (("law", "order law"), ("exceedance", "last exceedance of a run"))


def pilots(
    answers: Sequence[Mapping[str, Any]],
    sizes: Int[np.ndarray, "p"],
    num_samples: int,
    *,
    tolerance: float,
    dataset: str,
    unit: str = "nats",
    fallback: bool = False,
) -> Figure:
    """K with its interval against the ``sizes`` of the pilots, a panel per answer.

    Lines are what all samples say: of the order law, and of the one order that was run.
    """
    title = rf"Sample size foretold, $\Delta_k$ < {tolerance:g} {unit}²: {dataset}"
    figure, panels = canvas(title, PILOT, "$K$ (samples)", fallback=fallback, panels=len(answers))
    for axes, answer in zip(panels, answers, strict=True):
        _title(axes, answer)
        for row, (kind, label) in enumerate(KINDS):
            beside = sizes * 1.06 ** (2 * row - 1)
            low, value, high = _limits(answer["pilots"], kind)
            bars = np.maximum([value - low, high - value], 0)
            style: Keywords = {"color": colour(row), "marker": MARKERS[row], "ms": 5, "capsize": 3}
            axes.errorbar(beside, value, bars, lw=0, elinewidth=1.6, label=label, **style)
            if answer["all"][kind] is not None:
                axes.axhline(answer["all"][kind], color=colour(row), ls=("--", ":")[row], lw=1.4)
        axes.axhline(num_samples, color="0.6", lw=1)
        axes.set(xscale="log", yscale="log")
    legend(
        figure,
        "bars: 90 % interval of a pilot; lines of the same colour: all samples, to be hit; "
        f"grey: {num_samples:,} samples",
    )
    return figure


def coverage(
    answers: Sequence[Mapping[str, Any]],
    sizes: Int[np.ndarray, "p"],
    level: float,
    trials: int,
    *,
    dataset: str,
    fallback: bool = False,
) -> Figure:
    """How often the pilots' intervals held what they are about, a panel per answer."""
    title = f"Coverage of {level:.0%} intervals over {trials} random orders: {dataset}"
    ylabel = "share of pilots"
    figure, panels = canvas(title, PILOT, ylabel, fallback=fallback, panels=len(answers))
    for axes, answer in zip(panels, answers, strict=True):
        _title(axes, answer)
        error = 2 * np.sqrt(level * (1 - level) / trials)
        axes.axhspan(level - error, min(level + error, 1), color="0.88", lw=0)
        axes.axhline(level, color="0.4", lw=1)
        names = (("loss_variance", "level $\\mathrm{E}_q S^2$"), ("exceedance", "$K$ of a run"))
        for row, (kind, label) in enumerate(names):
            shares = [pilot["coverage"][kind] for pilot in answer["pilots"]]
            style: Keywords = {"color": colour(row), "marker": MARKERS[row], "ms": 5}
            axes.plot(sizes, shares, label=label, **style)
        axes.set(xscale="log", ylim=(0, 1.03))
    legend(figure, "grey: two standard errors of the trials around the level asked for")
    return figure


def _title(axes: Axes, answer: Mapping[str, Any]) -> None:
    axes.set_title(f"σ = {answer['sigma']:g}, {PARTS[answer['part']]}")


def _limits(pilots: Sequence[Mapping[str, Any]], kind: str) -> np.ndarray:
    """low, value, high of each pilot; one beyond all numbers at the last number looked at."""
    rows = [[MOST if x is None else x for x in pilot[kind]] for pilot in pilots]
    return np.array(rows, float).T
