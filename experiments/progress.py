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
            rate = (done - first) / (now - started)
            pace = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
            left = in_words((total - done) / rate)
            print(f"{label}: {done:,} of {total:,} {unit}, {pace} per second, {left} left",
                  file=sys.stderr)  # fmt: skip

    yield advance


def in_words(seconds: float) -> str:
    """A time in the units that it takes."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
