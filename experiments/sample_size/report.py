"""Tables and figures of what pilots of a few samples predict.

An answer is a mapping: ``sigma``, ``part`` ("delta" or "centered"), ``pilots`` (each with the
intervals ``law`` and ``exceedance`` as (low, value, high), None where beyond all numbers, and
``coverage``) and ``all``, what all samples say.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.common import tables
from experiments.common.run_folder import plain
from experiments.sample_size.measure import PARTS
from jaxscape.lab.style import MARKERS, Keywords, canvas, colour, legend
from jaxscape.loss_variance import TRUSTED
from jaxscape.sample_size import MOST

NAMES = {"delta": "Δ and its level", "centered": "centered Δ"}
QUANTITIES = ("loss_variance", "law", "distance", "exceedance")


def answers_of(arrays: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """One entry per sigma and part, from the arrays of results.npz; None where infinite."""
    return [
        _entry({key: values[row, part] for key, values in arrays.items() if values.ndim > 1})
        | {"sigma": float(sigma), "part": name}
        for row, sigma in enumerate(arrays["sigma"])
        for part, name in enumerate(PARTS)
    ]


def _entry(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Of one sigma and part; ``held_*`` are [R, sizes], ``own_*`` [sizes, 3]."""
    trusted = arrays["trial_effective"] >= TRUSTED
    return {
        "pilots": [
            {
                "effective_samples": plain(arrays["own_effective"][i]),
                **{key: plain(arrays[f"own_{key}"][i]) for key in QUANTITIES},
                "coverage": {key: _share(arrays[f"held_{key}"][:, i]) for key in QUANTITIES},
            }
            for i in range(trusted.shape[1])
        ],
        "all": {key: plain(arrays[f"true_{key}"][1]) for key in QUANTITIES[:3]}
        | {"exceedance": plain(arrays["true_k"])},
        "trusted": _share(trusted),
        "coverage_trusted": {key: _share(arrays[f"held_{key}"][trusted]) for key in QUANTITIES},
        "coverage_others": {key: _share(arrays[f"held_{key}"][~trusted]) for key in QUANTITIES},
    }


def _share(hits: np.ndarray) -> float | None:
    return float(hits.mean()) if hits.size else None


def table(entry: dict[str, Any], sizes: Sequence[int], n: int) -> list[list[str]]:
    """Rows of text, the first one the header, the last one what all samples at all points say.

    A row is the pilot along the order of the data. Only "held" is of the random orders' pilots.
    """
    rows = [["pilot", "E S²", "90 %", "held", "effective", "K, order law, 90 %"]]
    rows[0] += [f"K, run of {n:,}, 90 %", "held", "K_ε, 90 %"]
    for size, pilot in zip(sizes, entry["pilots"], strict=True):
        low, value, high = pilot["loss_variance"]
        rows.append(
            [
                f"{size:,}",
                f"{value:.3g}",
                f"{_level(low)} to {_level(high)}",
                f"{pilot['coverage']['loss_variance']:.1%}",
                f"{pilot['effective_samples'] or 0:,.0f}",
                tables.between(pilot["law"][::2]),
                tables.between(pilot["exceedance"][::2]),
                f"{pilot['coverage']['exceedance']:.1%}",
                tables.between(pilot["distance"][::2]),
            ]
        )
    truth = entry["all"]
    last = f"this run: {truth['exceedance']:,.0f}" if truth["exceedance"] < n else "not by them"
    law, distance = (tables.count(truth[key]) for key in ("law", "distance"))
    rows.append(
        [f"all {n:,}", f"{truth['loss_variance']:.3g}", "", "", "", law, last, "", distance]
    )
    return rows


def trust_table(entry: dict[str, Any]) -> list[list[str]]:
    """Rows of text, the first one the header: coverage by the pilots' effective sample size."""
    rows = [["effective sample size", "of all pilots", "held E S²", "held K of a run"]]
    for name, which, share in (
        (f"at least {TRUSTED}", "trusted", entry["trusted"]),
        ("less", "others", 1 - entry["trusted"]),
    ):
        held = entry[f"coverage_{which}"]
        cells = (share, held["loss_variance"], held["exceedance"])
        rows.append([name, *("-" if x is None else f"{x:.1%}" for x in cells)])
    return rows


def _level(value: float | None) -> str:
    return "any" if value is None else f"{value:.3g}"


PILOT = "samples $n$ of the pilot"
PART_LABELS = {"delta": r"$\Delta_k$", "centered": r"centered $\tilde\Delta_k$"}
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
    title = rf"Sample size predicted, $\Delta_k$ < {tolerance:g} {unit}²: {dataset}"
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
        "bars: 90 % interval of a pilot; lines of the same colour: all samples; "
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
    """How often the pilots' intervals held what they predict, a panel per answer."""
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
    axes.set_title(f"σ = {answer['sigma']:g}, {PART_LABELS[answer['part']]}")


def _limits(pilots: Sequence[Mapping[str, Any]], kind: str) -> np.ndarray:
    """low, value, high of each pilot; one beyond all numbers at the last number looked at."""
    rows = [[MOST if x is None else x for x in pilot[kind]] for pilot in pilots]
    return np.array(rows, float).T
