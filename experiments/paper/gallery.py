"""One page of every figure that has been made."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments import report
from experiments.paper.bench import Bench
from experiments.paper.config import PaperConfig
from experiments.report import Picture


def write(out: Path, titles: Mapping[str, str], bench: Bench) -> None:
    """``out/report.html``: each figure of ``titles`` that is there, with its paragraph."""
    done = [name for name in titles if (out / name / "summary.json").exists()]
    dataset, config = bench.problem.dataset, bench.config
    report.render(
        out,
        "paper/paper.html.j2",
        sections=[_section(out / name, name, titles[name]) for name in done],
        dataset=dataset.name,
        note=dataset.note,
        settings=config.settings(),
        flags=_flags(config),
    )


def _flags(config: PaperConfig) -> str:
    """What to type after a figure's name to get it again."""
    usual = PaperConfig().settings()
    given = {name: x for name, x in config.settings().items() if x != usual[name]}
    words = []
    for name, value in given.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            values = value if isinstance(value, tuple) else (value,)
            words += [f"--{flag}", *(shlex.quote(str(item)) for item in values)]
    return " ".join(words)


def _section(folder: Path, name: str, title: str) -> dict[str, Any]:
    figures = folder / "figures"
    seen = json.loads((folder / "summary.json").read_text())["seen"]
    pictures = [
        report.image(figures, Picture(path.stem, path.stem))
        for path in sorted(figures.glob("*.png"))
    ]
    return {"name": name, "title": title, "seen": seen, "pictures": pictures}
