"""What a command prints while it runs: progress on stderr, finished stages on stdout; timers."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from experiments.common.problem import Problem
from jaxscape.lanczos import Eigenpairs

EVERY = 5.0
"""Seconds between plain lines."""

SILENT = 10.0
"""Seconds after which a command that has said nothing says that it is at work."""


class _Last:
    """When the last line was printed, and of what."""

    when = 0.0
    what = ""


def _now(what: str) -> None:
    _Last.when, _Last.what = time.monotonic(), what


@contextlib.contextmanager
def alive() -> Iterator[None]:
    """Say on stderr from time to time that the block is at work, where it says nothing else."""
    done, started = threading.Event(), time.monotonic()
    _now("starting")

    def speak() -> None:
        while not done.wait(1.0):
            if time.monotonic() - _Last.when >= SILENT:
                spent = in_words(time.monotonic() - started)
                tqdm.write(f"at work for {spent}; last: {_Last.what}", file=sys.stderr)
                _now(_Last.what)

    thread = threading.Thread(target=speak, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextlib.contextmanager
def progress(label: str, total: int, unit: str, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Yield ``advance(count)``, to be called whenever ``count`` more units are done.

    On a terminal stderr shows a bar, elsewhere a plain line every few seconds.
    """
    if sys.stderr.isatty():
        with tqdm(total=total, initial=done, desc=label, unit=f" {unit}", unit_scale=True) as bar:

            def moved(count: int) -> None:
                bar.update(count)
                _now(label)

            yield moved
        return
    started, spoken, first = time.monotonic(), time.monotonic(), done

    def advance(count: int) -> None:
        nonlocal done, spoken
        done += count
        now = time.monotonic()
        if now - spoken >= EVERY and done < total:
            spoken = now
            _now(label)
            rate = (done - first) / (now - started)
            pace = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
            left = in_words((total - done) / rate)
            print(f"{label}: {done:,} of {total:,} {unit}, {pace} per second, {left} left",
                  file=sys.stderr)  # fmt: skip

    yield advance


def in_words(seconds: float) -> str:
    """A time in seconds, minutes or hours."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def problem(found: Problem, order: str) -> None:
    """Print the data set; first, whether it stands in for another."""
    dataset = found.dataset
    if dataset.note:
        print(f"note: {dataset.note}")
    print(
        f"data: {dataset.name}, {len(found.order):,} of {len(dataset.train_inputs):,} samples, "
        f"{order} order ({dataset.source})",
        flush=True,
    )


def begin(what: str) -> None:
    """Say on stderr what begins."""
    print(what, file=sys.stderr, flush=True)
    _now(what.split(":")[0])


def stage(name: str, what: str, seconds: float) -> None:
    """Print a finished stage."""
    print(f"{name}: {what}, {seconds:.1f} s", flush=True)
    _now(name)


@contextlib.contextmanager
def timed(name: str, what: str) -> Iterator[None]:
    """Print the stage that the block is, with its time, once it is finished."""
    started = time.monotonic()
    yield
    stage(name, what, time.monotonic() - started)


def directions(kind: str, pairs: Eigenpairs | None, seconds: float) -> None:
    """Print the subspace; of eigenpairs, how many converged."""
    what = kind
    if pairs is not None:
        # float32 resolves no eigenvalue below 1 % of the largest to a better relative error
        size, good = np.abs(pairs.values), np.asarray(pairs.converged)
        floor = max(0.01 * size.max(), np.finfo(np.float32).tiny)
        relative = np.divide(pairs.residuals, np.maximum(size, floor)).max()
        what = (
            f"{good.sum()} of {good.size} eigenpairs converged, "
            f"{int(pairs.matvecs)} Hessian products, largest relative residual {relative:.1e}"
        )
    stage("directions", what, seconds)


def seconds(what: Callable[[], Any], times: int = 1) -> float:
    """The mean time of a call in seconds, without compilation."""
    return timer(what, times)()


def timer(what: Callable[[], Any], times: int = 1, *, warm: bool = False) -> Callable[[], float]:
    """A function that measures the mean time of a call; unless ``warm``, it first compiles."""

    def measure() -> float:
        nonlocal warm
        if not warm:
            jax.block_until_ready(what())
            warm = True
        started = time.perf_counter()
        for _ in range(times):
            jax.block_until_ready(what())
        return (time.perf_counter() - started) / times

    return measure
