"""What the pilots said of the sample size, as entries and as tables of text."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments import summary
from experiments.pilots import PARTS
from experiments.run_folder import plain
from jaxscape.evidence import TRUSTED

NAMES = {"delta": "Δ, level and shape", "shape": "shape delta"}
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
    carried = arrays["trial_effective"] >= TRUSTED
    return {
        "pilots": [
            {
                "effective_samples": plain(arrays["own_effective"][i]),
                **{key: plain(arrays[f"own_{key}"][i]) for key in QUANTITIES},
                "coverage": {key: _share(arrays[f"held_{key}"][:, i]) for key in QUANTITIES},
            }
            for i in range(carried.shape[1])
        ],
        "all": {key: plain(arrays[f"true_{key}"][1]) for key in QUANTITIES[:3]}
        | {"exceedance": plain(arrays["true_k"])},
        "carried": _share(carried),
        "coverage_carried": {key: _share(arrays[f"held_{key}"][carried]) for key in QUANTITIES},
        "coverage_others": {key: _share(arrays[f"held_{key}"][~carried]) for key in QUANTITIES},
    }


def _share(hits: np.ndarray) -> float | None:
    return float(hits.mean()) if hits.size else None


def table(entry: dict[str, Any], sizes: Sequence[int], n: int) -> list[list[str]]:
    """Rows of text, the first one the header, the last one what all samples at all points say.

    A row is the pilot along the order of the data; only "held" is of the random orders' pilots.
    """
    rows = [["pilot", "E S²", "90 %", "held", "carried by", "K, order law, 90 %"]]
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
                summary.between(pilot["law"][::2]),
                summary.between(pilot["exceedance"][::2]),
                f"{pilot['coverage']['exceedance']:.1%}",
                summary.between(pilot["distance"][::2]),
            ]
        )
    truth = entry["all"]
    last = f"this run: {truth['exceedance']:,.0f}" if truth["exceedance"] < n else "not by them"
    law, distance = (summary.count(truth[key]) for key in ("law", "distance"))
    rows.append(
        [f"all {n:,}", f"{truth['loss_variance']:.3g}", "", "", "", law, last, "", distance]
    )
    return rows


def sentence(entry: dict[str, Any]) -> str:
    """How much more a pilot is worth that is carried by enough samples, in a line or two."""
    told = []
    for which, share in (("carried", entry["carried"]), ("others", 1 - entry["carried"])):
        held = entry[f"coverage_{which}"]
        if held["law"] is not None:
            size = f"at least {TRUSTED}" if which == "carried" else "fewer"
            told.append(
                f"pilots carried by {size} samples ({share:.0%} of all): E S² held by "
                f"{held['loss_variance']:.1%}, K of a run by {held['exceedance']:.1%}"
            )
    return "\n".join(told)


def _level(value: float | None) -> str:
    return "any" if value is None else f"{value:.3g}"
