"""A run's folder: settings, arrays, summary, figures, report; it appears whole or not at all."""

import base64
import contextlib
import hashlib
import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jinja2
import numpy as np
from jax.experimental import multihost_utils
from matplotlib.figure import Figure

from experiments.common import console
from experiments.common.problem import Problem, load
from jaxscape import InputError
from jaxscape.lab import plot
from jaxscape.subspace import check_dim

CONFIG = "config.json"

KEPT = "what was done is kept in"
"""How the note of an error begins after which the run can be resumed."""

PACKAGES = ("jaxscape-loss", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy",
            "matplotlib", "pillow")  # fmt: skip


class Record(NamedTuple):
    """What a command has found."""

    arrays: dict[str, np.ndarray]  #: of results.npz, without pickles
    summary: dict[str, Any]  #: of summary.json
    figures: Mapping[str, Figure]  #: by file name, without its ending
    text: str = ""  #: the tables to print
    folder: Path = Path()  #: the run folder, once it is there


def run(
    name: str,
    find: Callable[[Problem, Any, Path], Record],
    config: Any,
    *,
    check: Callable[[Problem, Any], None] = lambda problem, config: None,
    tell: Callable[[Record], None] = lambda found: print(
        f"\n{found.text}\n\nfigures: {found.folder / 'figures'}"
    ),
    report: Callable[[Path, Record, dict[str, Any]], None] | None = None,
) -> Record:
    """The whole command ``name``: load the data, write what ``find`` gives, tell it.

    ``find(problem, config, work)`` does the work in the folder ``work``. ``check`` raises an
    ``InputError`` for data that the command cannot use. Bad input leaves nothing behind. The next
    run of the same settings goes on with what an interruption leaves. A command with a flag
    ``resume`` does so where it is set, and then tells a finished run again.
    """
    config.check()
    resume = getattr(config, "resume", None)
    if config.out and not resume:  # before the data are loaded
        refuse_occupied(Path(os.path.abspath(config.out)))
    problem = load(config)
    check(problem, config)
    if hasattr(config, "dim") and getattr(config, "subspace", None) != "isotropic":
        check_dim(config.dim, problem.initial)
    console.problem(problem, config.order)
    out, settings = out_of(name, config, problem), settings_of(config, problem)
    if resume and is_finished(out, settings):
        found = read(out)
    else:
        more: dict[str, Any] = {"resume": resume is not False, "report": report}
        found = write(out, settings, config, problem, partial(find, problem, config), **more)
    tell(found)
    return found


def write(
    out: Path,
    settings: dict[str, Any],
    config: Any,
    problem: Problem,
    find: Callable[[Path], Record],
    *,
    resume: bool = True,
    report: Callable[[Path, Record, dict[str, Any]], None] | None = None,
) -> Record:
    """Write what ``find`` gives, of the folder to work in, into the folder ``out``.

    The result depends on the ``settings``. ``resume`` goes on with an unfinished run.
    ``report(folder, record, facts)`` writes report.html.
    """
    with staged(out, settings, resume=resume) as work:
        found = find(work)
        facts = facts_of(problem, config, settings)
        if jax.process_index() == 0:
            np.savez(work / "results.npz", **dict[str, Any](found.arrays))
            write_json(work / "summary.json", found.summary)
            write_json(work / CONFIG, facts)
            if found.figures:
                print(f"figures: drawing {len(found.figures)} ...", file=sys.stderr)
            for name, figure in found.figures.items():
                data = problem.dataset
                plot.name_data(figure, data.title, fallback=bool(data.note))
                plot.save(figure, work / "figures", name)
            if report is not None:
                report(work, found, facts)
    return found._replace(folder=out)


def read(out: Path) -> Record:
    """A finished run, without its figures."""
    with np.load(out / "results.npz") as arrays:
        summary = json.loads((out / "summary.json").read_text())
        return Record(dict(arrays), summary, {}, folder=out)


def out_of(name: str, config: Any, problem: Problem) -> Path:
    """``config.out``, or runs/<name>-<dataset>-<hash>, from the root on."""
    text = json.dumps(config.settings(), sort_keys=True)
    short = hashlib.sha256(text.encode()).hexdigest()[:8]
    return Path(os.path.abspath(config.out or f"runs/{name}-{problem.dataset.label}-{short}"))


def settings_of(config: Any, problem: Problem) -> dict[str, Any]:
    """What the result depends on: settings and data."""
    return config.settings() | {"data_sha256": problem.dataset.sha256}


def is_finished(out: Path, settings: dict[str, Any]) -> bool:
    """Whether ``out`` holds a finished run of these settings; an ``InputError`` if of others."""
    if not (out / "summary.json").exists():
        return False
    check_settings(out, settings)
    return True


def check_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Raise an ``InputError`` unless ``folder`` holds a run of these settings."""
    try:
        found = json.loads((folder / CONFIG).read_text())["settings"]
    except (ValueError, KeyError, TypeError):
        raise InputError(
            f"expected a readable {CONFIG} in {folder}, found a damaged one; remove the folder"
        ) from None
    wanted = json.loads(json.dumps(settings))
    for name in wanted | found:
        if wanted.get(name) != found.get(name):
            raise InputError(
                f"expected a run with {name} = {wanted.get(name)}, found {name} = "
                f"{found.get(name)} in {folder}; use that setting, or another --out"
            )


@contextlib.contextmanager
def staged(out: Path, settings: dict[str, Any], *, resume: bool) -> Iterator[Path]:
    """Yield the folder to work in, which becomes ``out`` once the work is done.

    Until then it lies beside it as ``out.partial``. Bad input removes it, unless it was there
    before; an interruption, or a killed process, leaves it for ``resume``. Several processes share
    it: each looks, process 0 makes and renames it.
    """
    refuse_occupied(out)
    work = out.with_name(out.name + ".partial")
    resumed = work.exists()
    if resumed and not resume:
        raise InputError(
            f"expected no unfinished run, found {work}; add --resume to go on with it, or remove it"
        )
    if resumed and (work / CONFIG).exists():
        check_settings(work, settings)
    first = jax.process_index() == 0
    multihost_utils.sync_global_devices("looked")
    if first:
        work.mkdir(parents=True, exist_ok=resume)
    try:
        if first:
            write_json(work / CONFIG, {"settings": settings})
        yield work
        multihost_utils.sync_global_devices("written")
    except (InputError, OSError) as error:
        if isinstance(error, OSError) and (work / "checkpoint").exists():
            error.add_note(f"{KEPT} {work}")
        elif not resumed:
            shutil.rmtree(work, ignore_errors=True)
        raise
    if first:
        refuse_occupied(out)
        os.replace(work, out)


def refuse_occupied(out: Path) -> None:
    """Raise an ``InputError`` where the folder of a run is in use, or has no name of its own."""
    if not out.name:
        raise InputError(f"expected a folder with a name, found {out}; choose another --out")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        finished = (out / "summary.json").exists()
        found = f"a finished run in {out}" if finished else f"{out} in use"
        raise InputError(
            f"expected a new or empty folder for the run, found {found}; read it, remove it, or "
            "choose another --out (a sweep shows a finished run again with --resume)"
        )


def plain(values: Any) -> Any:
    """Numbers for JSON, which knows neither NaN nor infinity: None in their place."""
    if np.ndim(values):
        return [plain(value) for value in values]
    return float(values) if np.isfinite(values) else None


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` in one step."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write ``text`` in one step: a reader sees the old file or the new one."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


def image(folder: Path, name: str, caption: str) -> dict[str, str]:
    """The name, caption and base64-encoded bytes of ``folder/NAME.png``."""
    data = base64.b64encode((folder / f"{name}.png").read_bytes()).decode()
    return {"name": name, "caption": caption, "data": data}


def render(folder: Path, template: str | Path, **values: Any) -> None:
    """Fill the jinja2 ``template``, beside this file or a path, as ``folder/report.html``."""
    page = jinja2.Template(
        (Path(__file__).parent / template).read_text(encoding="utf-8"),
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    write_text(folder / "report.html", page.render(**values))


def facts_of(problem: Problem, config: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """The content of ``config.json``; ``settings`` are those that the result depends on."""
    given = {name: value for name, value in asdict(config).items() if name not in settings}
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        found = [package.version for package in metadata.distributions(name=name)]
        versions[name] = found[0] if found else "not installed"
    facts = "name", "source", "note", "sha256"
    return {
        "settings": settings,
        "other_settings": {n: str(v) if isinstance(v, Path) else v for n, v in given.items()},
        "dataset": {name: getattr(problem.dataset, name) for name in facts},
        "versions": versions,
        "devices": [f"{device.platform}: {device.device_kind}" for device in jax.devices()],
    }
