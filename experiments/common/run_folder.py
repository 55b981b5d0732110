"""A run's folder, which appears whole or not at all.

What a result depends on besides the code: settings, data, versions, devices.

The run folder of a command that is done in one go: arrays, summary, settings, figures.
"""

import contextlib
import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure

from experiments.common.problem import Problem
from jaxscape import InputError
from jaxscape.lab import plot
from jaxscape.lab.data import Dataset

CONFIG = "config.json"


KEPT = "what was done is kept in"
"""How the note of an error begins after which the run can be resumed."""


def absolute(out: Path) -> Path:
    """``out`` from the root on; an ``InputError`` where it has no name of its own."""
    found = Path(os.path.abspath(out))
    if not found.name:
        raise InputError(f"expected a folder with a name, found {found}; choose another --out")
    return found


def is_finished(out: Path, settings: dict[str, Any]) -> bool:
    """Whether ``out`` holds a finished run of these settings; an ``InputError`` if of others."""
    if not (out / "summary.json").exists():
        return False
    check_settings(out, settings)
    return True


@contextlib.contextmanager
def staged(out: Path, settings: dict[str, Any], *, resume: bool) -> Iterator[Path]:
    """Yields the folder to work in, which becomes ``out`` once the work is done.

    Until then it lies beside it as ``out.partial``. Bad input found on the way removes it, unless
    it was there before; an interruption, or a process killed, leaves it for ``resume``.
    """
    work = out.with_name(out.name + ".partial")
    _refuse_occupied(out)
    resumed = work.exists()
    if resumed and not resume:
        raise InputError(
            f"expected no unfinished run, found {work}; add --resume to carry it on, or remove it"
        )
    if resumed and (work / CONFIG).exists():
        check_settings(work, settings)
    work.mkdir(parents=True, exist_ok=resume)
    try:
        write_json(work / CONFIG, {"settings": settings})
        yield work
    except InputError:
        if not resumed:
            shutil.rmtree(work, ignore_errors=True)
        raise
    except OSError as error:
        if (work / "checkpoint").exists():
            error.add_note(f"{KEPT} {work}")
        elif not resumed:
            shutil.rmtree(work, ignore_errors=True)
        raise
    _refuse_occupied(out)
    os.replace(work, out)


def plain(values: Any) -> Any:
    """Numbers for JSON, which knows neither NaN nor infinity: None in their place."""
    if np.ndim(values):
        return [plain(value) for value in values]
    return float(values) if np.isfinite(values) else None


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` in one step: a reader sees the old file or the new one."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(json.dumps(value, indent=2) + "\n")
    os.replace(beside, path)


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write ``arrays`` as ``path``, an .npz file, in one step."""
    beside = path.with_name("new." + path.name)
    named: dict[str, Any] = dict(arrays)
    np.savez(beside, **named)
    os.replace(beside, path)


def _refuse_occupied(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(
            f"expected a new or empty folder for the run, found {out} in use; "
            "read it, remove it, or choose another --out"
        )


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


PACKAGES = (
    "jaxscape-loss",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
    "matplotlib",
    "pillow",
)


def facts_of(dataset: Dataset, config: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """The content of ``config.json``; ``settings`` are those that the result depends on."""
    given = {name: value for name, value in asdict(config).items() if name not in settings}
    return {
        "settings": settings,
        "other_settings": {n: str(v) if isinstance(v, Path) else v for n, v in given.items()},
        "dataset": {
            "name": dataset.name,
            "source": dataset.source,
            "note": dataset.note,
            "sha256": dataset.sha256,
        },
        "versions": {"python": platform.python_version()} | {p: _version(p) for p in PACKAGES},
        "devices": [f"{device.platform}: {device.device_kind}" for device in jax.devices()],
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


class Record(NamedTuple):
    """What a command has found."""

    arrays: dict[str, np.ndarray]  #: of results.npz, without pickles
    summary: dict[str, Any]  #: of summary.json
    figures: Mapping[str, Figure]  #: by file name, without its ending


class Kept(NamedTuple):
    """A record, and the run folder in which it lies."""

    arrays: dict[str, np.ndarray]
    summary: dict[str, Any]
    figures: Mapping[str, Figure]
    folder: Path


def keep(name: str, config: Any, problem: Problem, find: Callable[[Path], Record]) -> Kept:
    """Write what ``find`` gives into ``config.out``, or runs/<name>-<dataset>-<hash>.

    ``find`` gets the folder to work in. Bad input that it finds leaves nothing behind; what an
    interruption leaves, the next run of the same settings takes over.

    Raises:
        InputError: a folder in use, or what ``find`` raises.
    """
    default = Path("runs") / f"{name}-{problem.dataset.label}-{config.short_hash()}"
    out = absolute(config.out or default)
    settings = config.settings() | {"data_sha256": problem.dataset.sha256}
    return write(out, settings, config, problem, find)


def write(
    out: Path,
    settings: dict[str, Any],
    config: Any,
    problem: Problem,
    find: Callable[[Path], Record],
) -> Kept:
    """Write what ``find`` gives into the folder ``out``; see ``keep``."""
    with staged(out, settings, resume=True) as work:
        found = find(work)
        write_arrays(work / "results.npz", found.arrays)
        write_json(work / "summary.json", found.summary)
        facts = facts_of(problem.dataset, config, settings)
        write_json(work / CONFIG, facts)
        for figure_name, figure in found.figures.items():
            plot.save(figure, work / "figures", figure_name)
    return Kept(*found, folder=out)


def marks(problem: Problem) -> dict[str, Any]:
    """What every figure says of its data."""
    return {"dataset": problem.dataset.label, "fallback": bool(problem.dataset.note)}
