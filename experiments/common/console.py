"""What a command prints while it runs: progress on stderr, finished stages on stdout; timers."""

import contextlib
import sys
import threading
import time
import timeit
from collections.abc import Callable, Iterator
from typing import Any

import jax
from tqdm import tqdm

from experiments.common.problem import Problem

EVERY = 5.0
"""Seconds between plain lines."""

SILENT = 10.0
"""Seconds after which a command that has said nothing says that it is at work."""


_last: dict[str, Any] = {"when": 0.0, "what": ""}
"""When something was said last, and of what."""


def _now(what: str) -> None:
    _last.update(when=time.monotonic(), what=what)


@contextlib.contextmanager
def alive() -> Iterator[None]:
    """Say on stderr from time to time that the block is at work, where it says nothing else."""
    done, started = threading.Event(), time.monotonic()
    _now("starting")

    def speak() -> None:
        while not done.wait(1.0):
            if time.monotonic() - _last["when"] >= SILENT:
                spent, what = in_words(time.monotonic() - started), _last["what"]
                tqdm.write(f"at work for {spent}; last: {what}", file=sys.stderr)
                _now(what)

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
    started = spoken = time.monotonic()
    first = done

    def advance(count: int) -> None:
        nonlocal done, spoken
        done += count
        bar.update(count)
        _now(label)
        now = time.monotonic()
        if bar.disable and now - spoken >= EVERY and done < total:
            spoken = now
            rate = (done - first) / (now - started)
            pace = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
            text = f"{label}: {done:,} of {total:,} {unit}, {pace} per second, "
            print(f"{text}{in_words((total - done) / rate)} left", file=sys.stderr)

    look: dict[str, Any] = {"unit": f" {unit}", "unit_scale": True, "disable": None}  # no terminal
    with tqdm(total=total, initial=done, desc=label, **look) as bar:
        yield advance


def in_words(seconds: float) -> str:
    """A time in seconds, minutes or hours."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def problem(found: Problem, order: str) -> None:
    """Print the data set; first, whether it stands in for another."""
    dataset, count = found.dataset, f"{len(found.order):,} of {len(found.dataset.train_inputs):,}"
    if dataset.note:
        print(f"note: {dataset.note}")
    print(f"data: {dataset.name}, {count} samples, {order} order ({dataset.source})", flush=True)


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


def timer(what: Callable[[], Any], times: int = 1, *, warm: bool = False) -> Callable[[], float]:
    """A function that measures the mean time of a call, compiled beforehand unless ``warm``."""
    call = lambda: jax.block_until_ready(what())  # noqa: E731
    if not warm:
        call()
    return lambda: timeit.timeit(call, number=times) / times
