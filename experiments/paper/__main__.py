"""Every figure of the three papers, one folder each, and one page of all that have been made."""

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from experiments.common import cli, console, run_folder, tables
from experiments.common import problem as problems
from experiments.paper import bounds, claims, curvature_aligned, nikitin, unraveling
from experiments.paper.bench import Bench, PaperConfig, check_sizes
from jaxscape import InputError

FIGURES: dict[str, Callable[[Bench], run_folder.Record]] = {
    "fig1": nikitin.fig1, "fig2": nikitin.fig2, "fig3": nikitin.fig3, "fig4": nikitin.fig4,
    "fig5": nikitin.fig5, "fig6": nikitin.fig6, "fig7": nikitin.fig7, "fig8": nikitin.fig8,
    "fig9": nikitin.fig9, "unraveling": unraveling.unraveling,
    "family": curvature_aligned.family, "model-error": curvature_aligned.model_error,
    "bounds": bounds.bounds, "claims": claims.claims,
}  # fmt: skip


def run(config: PaperConfig) -> None:
    """Make the chosen figures that are not there yet.

    Raises:
        InputError: settings or data that cannot be used; figures that failed, after all others.
    """
    config.check()
    config = config.sized()
    problem = problems.load(config)
    chosen = config.figures or [n for n in FIGURES if n != "bounds" or config.model == "mlp"]
    check_sizes(config, problem, chosen)
    console.problem(problem, config.order)
    out = run_folder.out_of("paper", config, problem)
    settings = run_folder.settings_of(config, problem)
    if out.exists() and any(out.iterdir()):
        if not (out / run_folder.CONFIG).exists():
            wanted = "expected a new, empty or unfinished folder of figures"
            raise InputError(f"{wanted}, found {out} with other files; choose another --out")
        run_folder.check_settings(out, settings)
    (out / "shared" / "published").mkdir(parents=True, exist_ok=True)  # w* and its eigenvectors
    run_folder.write_json(out / run_folder.CONFIG, {"settings": settings})
    bench, failed = Bench(problem, config, out / "shared"), []
    for figure in chosen:
        try:
            _make(figure, bench, out / figure, settings)
        except InputError as error:
            failed.append(f"{figure}: {error}")
        else:
            write_report(out, bench)
    if failed:
        raise InputError("; ".join(failed))
    print(f"\nreport: {out / 'report.html'}")


def _make(figure: str, bench: Bench, out: Path, settings: dict[str, Any]) -> None:
    """One figure's run folder, and its tables on stdout."""
    if run_folder.is_finished(out, settings):
        print(f"\n{figure}: finished before, left as it is: {out}", flush=True)
        return
    started, whose = time.monotonic(), "of this project"
    if figure.startswith("fig") or figure == "claims":
        bench, whose = bench.as_published, "trained as published"
    print(f"\n{figure}: {_title(figure)}", flush=True)

    def find(_: Path) -> run_folder.Record:
        made = FIGURES[figure](bench)
        made.summary["notes"].insert(0, f"network {whose}, {len(bench.problem.order):,} samples")
        return made

    found = run_folder.write(out, settings, bench.config, bench.problem, find)
    texts = map(tables.as_text, found.summary["tables"])
    print("\n".join([*texts, *found.summary["notes"]]))
    print(f"{time.monotonic() - started:.0f} s, {out}", flush=True)


def _title(figure: str) -> str:
    return (FIGURES[figure].__doc__ or figure).splitlines()[0]


def write_report(out: Path, bench: Bench) -> None:
    """``out/report.html``: each figure that is there, with its tables."""
    dataset, sections = bench.problem.dataset, []
    for name in FIGURES:
        if (out / name / "summary.json").exists():
            found = json.loads((out / name / "summary.json").read_text())
            names = sorted(path.stem for path in (out / name / "figures").glob("*.png"))
            pictures = [run_folder.image(out / name / "figures", x, x) for x in names]
            sections.append(found | {"name": name, "title": _title(name), "pictures": pictures})
    run_folder.render(
        out, Path(__file__).parent / "paper.html.j2", dataset=dataset.name, note=dataset.note,
        sections=sections, settings=bench.config.settings(),
    )  # fmt: skip


main = partial(cli.main, "paper", PaperConfig, run)

if __name__ == "__main__":
    cli.leave(main())
