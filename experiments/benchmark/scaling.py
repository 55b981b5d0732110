"""How the time and the memory of a sweep grow with samples and points."""

import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

import jaxscape as js
from experiments.benchmark.measure import Stage
from experiments.common import cli, segments
from experiments.common.config import ProblemConfig
from experiments.common.console import timer
from experiments.common.problem import Problem
from experiments.sweep import __main__ as sweep
from jaxscape import InputError
from jaxscape.lab import stream

POINTS = (64, 128, 256)


ROUNDS = 3
"""Measurements of each time, of which the least is disturbed least."""


TIMES = 4
"""How many times as long the longest sweep is as the shortest."""


ALLOWED = 50e6
"""Bytes by which the memory of two sweeps may differ, beside their curves."""


FEW = 16
"""Points of the sweeps whose memory is measured: it is that of one block, whatever their number."""


STATUS = Path("/proc/self/status")


def stages_of(problem: Problem, config: ProblemConfig, dim: int) -> list[Stage]:
    """Time against samples and points; where the system tells it (Linux), memory too."""
    line = "sweep, largest deviation of its time from samples · (a + b · points)"
    found = [Stage(line, _time(problem, dim), "<= 0.1")]
    if STATUS.exists():
        n = len(problem.order)
        line = f"sweep of {TIMES * n:,} samples in a file, peak memory above that of {n:,}"
        found.append(
            Stage(f"{line} and its curves / 50 MB", lambda: _memory(problem, config), "<= 1")
        )
    return found


def _time(problem: Problem, dim: int) -> Callable[[], float]:
    """Measures how far the times of all numbers of samples and points are from the line."""
    parts = math.ceil(len(problem.order) / TIMES / segments.SIZE)
    size = len(problem.order) // TIMES // parts  # so that all lengths consist of equal batches
    lengths = [size * parts * times for times in (1, TIMES // 2, TIMES)]
    data = problem.read(slice(None))
    space = js.random_subspace(problem.keys["subspace"], problem.initial, dim)

    def sweep_of(length: int, points: int) -> Callable[[], float]:
        probe = js.gaussian(problem.keys["probe"], space, points, 0.01)
        few = jax.tree.map(lambda leaf: leaf[:length], data)
        return timer(lambda: js.delta(problem.loss, probe, stream.batches(few, size)))

    timers = {(n, m): sweep_of(n, m) for n in lengths for m in POINTS}

    def measure() -> float:
        rounds = [{at: spent() for at, spent in timers.items()} for _ in range(ROUNDS)]
        seconds = {at: min(found[at] for found in rounds) for at in timers}
        deviations = off_line(seconds)
        for (n, m), deviation in deviations.items():
            print(f"{n:,} samples, {m} points: {deviation:+.1%} off the line", file=sys.stderr)
        return max(map(abs, deviations.values()))

    return measure


def off_line(seconds: dict[tuple[int, int], float]) -> dict[tuple[int, int], float]:
    """By which part of the line each time at (n samples, m points) is above it.

    The line is n·(a + b·m) with a ≥ 0: what all points share, such as the first layer of a network
    in a subspace, takes its time once. It has the least squares of relative deviations.
    """
    n, m = np.array(list(seconds), float).T
    times = np.array(list(seconds.values()))
    shares, ones = np.stack([n, n * m], 1) / times[:, None], np.ones(len(n))
    slopes = np.linalg.lstsq(shares, ones)[0]
    if slopes[0] < 0:
        slopes = np.append(0, np.linalg.lstsq(shares[:, 1:], ones)[0])
    return dict(zip(seconds, (1 / (shares @ slopes) - 1).tolist(), strict=True))


def _memory(problem: Problem, config: ProblemConfig) -> float:
    """Peak memory of the command for the data repeated, less that for the data, less the curves."""
    n = len(problem.order)
    with tempfile.TemporaryDirectory() as folder:
        _repeat(problem, Path(folder))
        peak, curves = _command(config, Path(folder), n)
        longer, more = _command(config, Path(folder), TIMES * n)
    return (longer - peak - (more - curves)) / ALLOWED


def _repeat(problem: Problem, folder: Path) -> None:
    """The samples ``TIMES`` over, as ``folder/inputs.npy`` and ``folder/targets.npy``."""
    n = len(problem.order)
    for segment in segments.of(problem, segments.SIZE):
        for name, rows in segment.samples.items():
            path, shape = folder / f"{name}.npy", (TIMES * n, *rows.shape[1:])
            mode = "r+" if path.exists() else "w+"
            whole = np.lib.format.open_memmap(path, mode, rows.dtype, shape)
            for start in range(segment.start, TIMES * n, n):
                whole[start : start + len(rows)] = rows


def _command(config: ProblemConfig, folder: Path, k_max: int) -> tuple[float, float]:
    """Bytes that a sweep has had in memory at most, and of the arrays that it leaves."""
    network = {"model": config.model, "hidden": config.hidden, "layers": config.layers}
    settings = {"dataset": f"npz:{folder}", "k-max": k_max, "epochs": 0, "subspace": "random"}
    settings |= network | {"points": FEW, "sigmas": 0.01}
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    programs = {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    for time in (1, 2):  # only to compile takes more memory than to sweep, by as much as it likes
        out = folder / f"run-{k_max}-{time}"
        command = [sys.executable, "-m", "experiments.scaling", *words, "--out", str(out)]
        done = subprocess.run(
            command, env=os.environ | programs, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise InputError(f"expected a sweep of {k_max} samples to run, found: {done.stderr}")
    return float(done.stdout.split()[-1]), (out / "results.npz").stat().st_size


def main(argv: Sequence[str] | None = None) -> int:
    """A sweep, then the bytes that this process has had in memory at most; its exit status."""
    status = sweep.main(argv)
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", STATUS.read_text())
    print(1024 * int(peak))
    return status


if __name__ == "__main__":
    cli.leave(main())
