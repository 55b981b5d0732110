"""The forecasts of several runs of ``refit`` in one table and one figure."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from experiments.common import cli
from experiments.common.config import default
from experiments.refit import report
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


def run(config: CompareConfig) -> None:
    """Print the table, and draw the figure where it is asked for."""
    summaries = []
    for folder in config.runs:
        path = folder / "summary.json"
        found = json.loads(path.read_text()) if path.exists() else {}
        if "forecasts" not in found:
            raise InputError(f"expected run folders of refit, found {folder}; leave it out")
        summaries.append(found)
    entries = [entry for entry in report.pooled(summaries) if entry["factors"]]
    if not entries:
        raise InputError("expected a truth beyond a pilot, found none; take --shares between")
    print("\n".join(f"| {' | '.join(row)} |" for row in report.forecast_table(entries)))
    if config.figure:
        plot.save(report.forecasts(entries), config.figure.parent, config.figure.name)


main = partial(cli.main, "refit.compare", CompareConfig, run)

if __name__ == "__main__":
    cli.leave(main())
