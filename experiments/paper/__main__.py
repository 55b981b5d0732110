"""Every figure of the three papers, as published beside how it should be.

One page of every figure that has been made.
"""

import json
import shlex
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.common import cli, console, report, run_folder
from experiments.common import problem as problems
from experiments.common.report import Picture
from experiments.common.run_folder import Record
from experiments.paper import curvature_aligned, increments, spectrum, surfaces, theorem, unraveling
from experiments.paper.bench import Bench, PaperConfig, check_sizes
from jaxscape import InputError

FIGURES: dict[str, Callable[[Bench], Record]] = {
    "fig1": spectrum.fig1,
    "fig2": surfaces.fig2,
    "fig3": surfaces.fig3,
    "fig4": increments.fig4,
    "fig5": increments.fig5,
    "fig6": surfaces.fig6,
    "fig7": surfaces.fig7,
    "fig8": increments.fig8,
    "fig9": theorem.fig9,
    "trajectory": surfaces.trajectory,
    "unraveling": unraveling.find,
    "family": curvature_aligned.family,
    "ratio": curvature_aligned.ratio,
    "model-error": curvature_aligned.model_error,
    "convergence": curvature_aligned.convergence,
    "error-map": curvature_aligned.error_map,
    "stages": curvature_aligned.stages,
}


SHARED = "shared"
"""The folder beside the figures' own that holds what was computed for one and serves others."""


def run(config: PaperConfig) -> dict[str, Path]:
    """Make the chosen figures that are not there yet; the folder of each.

    Raises:
        InputError: settings or data that cannot be used; figures that failed, named once the
            others are made.
    """
    config.check()
    config = config.sized()
    problem = problems.load(config)
    chosen = tuple(FIGURES) if config.all else config.figures
    check_sizes(config, problem, chosen)
    console.problem(problem, config.order)
    print("settings: " + ", ".join(f"{n} {v}" for n, v in config.settings().items()), flush=True)
    name = f"paper-{problem.dataset.label}-{config.short_hash()}"
    out = run_folder.absolute(config.out or Path("runs") / name)
    settings = config.settings() | {"data_sha256": problem.dataset.sha256}
    _claim(out, settings)
    bench = Bench(problem, config, out / SHARED)
    folders, failed = {}, {}
    for figure in chosen:
        try:
            folders[figure] = _make(figure, bench, out / figure, settings)
        except InputError as error:
            failed[figure] = str(error)
            continue
        write(out, {name: _title(name) for name in FIGURES}, bench)
    if failed:
        raise InputError("; ".join(f"{figure}: {error}" for figure, error in failed.items()))
    print(f"\nreport: {out / 'report.html'}")
    return folders


def _claim(out: Path, settings: dict[str, Any]) -> None:
    """Take ``out`` for these settings; refuse a folder of others."""
    if out.exists() and any(out.iterdir()):
        if not (out / run_folder.CONFIG).exists():
            raise InputError(
                f"expected a new, empty or unfinished folder of figures, found {out} with other "
                "files; choose another --out"
            )
        run_folder.check_settings(out, settings)
    out.mkdir(parents=True, exist_ok=True)
    run_folder.write_json(out / run_folder.CONFIG, {"settings": settings})
    (out / SHARED).mkdir(exist_ok=True)


def _make(figure: str, bench: Bench, out: Path, settings: dict[str, Any]) -> Path:
    """One figure's run folder, and its paragraph on stdout."""
    started = time.monotonic()
    if run_folder.is_finished(out, settings):
        print(f"\n{figure}: finished before, left as it is: {out}", flush=True)
        return out
    print(f"\n{figure}: {_title(figure)}", flush=True)
    find = lambda work: FIGURES[figure](bench)  # noqa: E731
    found = run_folder.write(out, settings, bench.config, bench.problem, find)
    print(textwrap.fill(found.summary["seen"], 100))
    print(f"{time.monotonic() - started:.0f} s, {out}", flush=True)
    return out


def _title(figure: str) -> str:
    return (FIGURES[figure].__doc__ or figure).splitlines()[0]


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    return cli.main("paper", PaperConfig, run, argv)


def write(out: Path, titles: Mapping[str, str], bench: Bench) -> None:
    """``out/report.html``: each figure of ``titles`` that is there, with its paragraph."""
    done = [name for name in titles if (out / name / "summary.json").exists()]
    dataset, config = bench.problem.dataset, bench.config
    report.render(
        out,
        "paper.html.j2",
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


if __name__ == "__main__":
    cli.leave(main())
