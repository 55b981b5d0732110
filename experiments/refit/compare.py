"""The forecasts of several runs of ``refit`` in one table and one figure."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments.common import cli
from experiments.common.config import default
from experiments.refit import prediction, report
from jaxscape.lab import plot
from jaxscape.types import InputError


@dataclass(frozen=True)
class CompareConfig:
    """By which factor each forecast misses, per data set and weight decay, over runs of refit.

    Examples:
        python -m experiments.refit.compare runs/refit-mnist-* --figure forecasts
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders of refit."""
    figure: Annotated[Path | None, default("none is drawn")] = None
    """Also draw the figure, as .png and .pdf of this name."""


def pooled(summaries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry per forecast over all runs, and its misses in each group of them."""
    groups = sorted({(run["dataset"], run["weight_decay"]) for run in summaries})
    found: dict[tuple, dict[tuple, list]] = {}
    for run in summaries:
        for entry in run["forecasts"]:
            kind = entry["name"], entry["of"], entry["samples"]
            own = found.setdefault(kind, {group: [] for group in groups})
            own[run["dataset"], run["weight_decay"]].append(entry)
    return [
        {"name": name, "of": of, "samples": samples}
        | {"misses": {group: prediction.pooled(some)["miss"] for group, some in own.items()}}
        | prediction.pooled([entry for some in own.values() for entry in some])
        for (name, of, samples), own in found.items()
    ]


def table(entries: list[dict[str, Any]]) -> list[list[str]]:
    """Rows of text, the first one the header: a row per forecast, its numbers per pilot."""
    rows = [["forecast", "of", "samples"]]
    rows[0] += [f"{data}, λ = {decay:g}" for data, decay in entries[0]["misses"]]
    rows[0] += [f"within a factor {prediction.FACTOR:g}", "90 % held"]
    for kind in dict.fromkeys((entry["name"], entry["of"]) for entry in entries):
        pilots = []
        for entry in (entry for entry in entries if (entry["name"], entry["of"]) == kind):
            misses = ["-" if miss is None else f"{miss:.2g}" for miss in entry["misses"].values()]
            shares = [f"{entry[share]:.0%}" for share in ("within", "share_held")]
            pilots.append([f"{entry['samples']:,}", *misses, *shares])
        rows.append([*kind, *map(" / ".join, zip(*pilots, strict=True))])
    return rows


def run(config: CompareConfig) -> None:
    """Print the table, and draw the figure where it is asked for.

    Raises:
        InputError: a folder that is no run of refit.
    """
    summaries = []
    for folder in config.runs:
        path = folder / "summary.json"
        found = json.loads(path.read_text()) if path.exists() else {}
        if "forecasts" not in found:
            raise InputError(f"expected run folders of refit, found {folder}; leave it out")
        summaries.append(found)
    entries = [entry for entry in pooled(summaries) if entry["factors"]]
    if not entries:
        raise InputError("expected a truth beyond a pilot, found none; take --shares between")
    print("\n".join(f"| {' | '.join(row)} |" for row in table(entries)))
    if config.figure:
        plot.save(report.forecasts(entries), config.figure.parent, config.figure.name)


main = partial(cli.main, "refit.compare", CompareConfig, run)
"""The command; its exit status."""

if __name__ == "__main__":
    cli.leave(main())
