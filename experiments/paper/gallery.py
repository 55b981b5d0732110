"""One page of every figure that has been made."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments import report
from experiments.paper.bench import Bench
from experiments.report import Picture


def write(out: Path, titles: Mapping[str, str], bench: Bench, settings: dict[str, Any]) -> None:
    """``out/report.html``: each figure of ``titles`` that is there, with its paragraph."""
    done = [name for name in titles if (out / name / "summary.json").exists()]
    dataset = bench.problem.dataset
    report.render(
        out,
        "paper/paper.html.j2",
        sections=[_section(out / name, name, titles[name]) for name in done],
        dataset=dataset.name,
        note=dataset.note,
        settings=settings,
    )


def _section(folder: Path, name: str, title: str) -> dict[str, Any]:
    figures = folder / "figures"
    seen = json.loads((folder / "summary.json").read_text())["seen"]
    pictures = [
        report.image(figures, Picture(path.stem, path.stem))
        for path in sorted(figures.glob("*.png"))
    ]
    return {"name": name, "title": title, "seen": seen, "pictures": pictures}
