"""The forecasts of several runs of ``refit`` in one table and one figure."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import tyro

from experiments.common import cli
from experiments.refit import prediction, report
from jaxscape.lab import plot
from jaxscape.types import InputError


@dataclass(frozen=True)
class CompareConfig:
    """By which factor each forecast misses, per data set and weight decay, over runs of refit.

    Examples:
        python -m experiments.refit.compare runs/refit-mnist-*
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders of refit."""
    figure: Path = Path("forecasts")
    """The figure, written as .png and .pdf of this name."""


def pooled(summaries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry per forecast: its misses in each group of runs, and over all of them."""
    groups = sorted({(run["dataset"], run["weight_decay"]) for run in summaries})
    found: dict[tuple, dict[str, Any]] = {}
    for run in summaries:
        for entry in run["forecasts"]:
            kind = entry["name"], entry["of"], entry["samples"]
            new = {"factors": [], "held": [], "groups": {group: [] for group in groups}}
            own = found.setdefault(kind, new)
            own["groups"][run["dataset"], run["weight_decay"]] += entry["factors"]
            own["factors"] += entry["factors"]
            own["held"] += entry["held"]
    return [
        dict(zip(("name", "of", "samples"), kind, strict=True)) | own
        | prediction.summary(own["factors"], own["held"])
        for kind, own in found.items() if own["factors"]
    ]  # fmt: skip


def table(entries: list[dict[str, Any]]) -> list[list[str]]:
    """Rows of text, the first one the header: a row per forecast, its numbers per pilot."""
    groups = list(entries[0]["groups"])
    rows = [["forecast", "of", "samples", *(f"{data}, λ = {decay:g}" for data, decay in groups)]]
    rows[0] += [f"within a factor {prediction.FACTOR:g}", "90 % held"]
    each: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for entry in entries:
        each.setdefault((entry["name"], entry["of"]), []).append(entry)
    for kind, pilots in each.items():
        columns = [[f"{entry['samples']:,}" for entry in pilots]]
        for group in groups:
            misses = [prediction.summary(e["groups"][group], [True])["miss"] for e in pilots]
            columns.append(["-" if miss is None else f"{miss:.2g}" for miss in misses])
        columns += [[f"{e[x]:.0%}" for e in pilots] for x in ("within", "share_held")]
        rows.append([*kind, *(" / ".join(column) for column in columns)])
    return rows


def run(config: CompareConfig) -> None:
    """Print the table and write the figure.

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
    entries = pooled(summaries)
    if not entries:
        raise InputError("expected a truth beyond a pilot, found none; take --shares between")
    print("\n".join(f"| {' | '.join(row)} |" for row in table(entries)))
    plot.save(report.forecasts(entries), config.figure.parent, config.figure.name)


main = partial(cli.main, "refit.compare", CompareConfig, run)
"""The command; its exit status."""

if __name__ == "__main__":
    cli.leave(main())
