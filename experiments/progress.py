"""Progress on stderr: a bar on a terminal, a plain line every few seconds elsewhere."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from tqdm import tqdm

EVERY = 5.0
"""Seconds between plain lines."""


@contextlib.contextmanager
def progress(label: str, total: int, unit: str, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Yields ``advance(count)``, to be called whenever ``count`` more units are done."""
    if sys.stderr.isatty():
        with tqdm(total=total, initial=done, desc=label, unit=f" {unit}", unit_scale=True) as bar:
            yield bar.update
        return
    started, spoken, first = time.monotonic(), time.monotonic(), done

    def advance(count: int) -> None:
        nonlocal done, spoken
        done += count
        now = time.monotonic()
        if now - spoken >= EVERY and done < total:
            spoken = now
            left = (total - done) * (now - started) / (done - first)
            print(f"{label}: {done:,} of {total:,} {unit}, {left:.0f} s left", file=sys.stderr)

    yield advance
