"""The frame of every command: settings from the command line, errors in one line, exit status."""

import contextlib
import errno
import gc
import inspect
import io
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import tyro

from experiments.common import console, run_folder
from experiments.common.problem import Problem
from jaxscape import InputError

INTERRUPTED = 130

EVERYWHERE = """\
Data sets:
    glyphs, mnist, fashion_mnist, kmnist, cifar10, cifar100, sums (for --model transformer);
    npz:PATH: a file of arrays inputs, targets (test_inputs, test_targets), read into memory, or a
    folder of inputs.npy and so on, which may be larger than memory;
    tfds:NAME: images with classes of TensorFlow Datasets (needs pip install '.[tfds]')

Exit status:
    0 done; 2 bad input, or an output that cannot be written; 130 interrupted;
    1 a program that fails in benchmark --compile-for

Environment:
    JAXSCAPE_DATA_DIR  folder with the data sets' files, where --data-dir is not given
    JAXSCAPE_OFFLINE   1 forbids every network use
    JAXSCAPE_MIRROR    another server of the data sets' files
    JAX_PLATFORMS      the device: cpu, cuda or tpu"""
"""The end of every command's description."""


def main(
    name: str, config: type, run: Callable[[Any], Any], argv: Sequence[str] | None = None
) -> int:
    """Run ``run(config)`` on the command line's settings and return the exit status.

    Errors are one line on stderr, an interruption one with the command line that resumes.
    """
    if argv is None:  # the process is this command's own
        gc.set_threshold(10_000, 20, 20)  # a full collection walks through all of JAX
    argv = list(sys.argv[1:] if argv is None else argv)
    command = f"python -m experiments.{name}"
    resumes = hasattr(config, "resume")
    again = shlex.join(argv) + " --resume" * (resumes and "--resume" not in argv)
    go_on = f"to {'resume' if resumes else 'start again'}: {command} {again}"
    try:
        settings = parse(command, config, argv)
        with console.alive():
            run(settings)
    except (InputError, OSError) as error:
        notes = [n for n in getattr(error, "__notes__", []) if n.startswith(run_folder.KEPT)]
        kept = "".join(f"; {note}; {go_on}" for note in notes)  # JAX adds notes of its own
        print(f"{command}: {_line(error)}{kept}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\ninterrupted; {go_on}", file=sys.stderr)
        return INTERRUPTED
    return 0


def command(
    name: str, config: type, find: Callable[[Problem, Any, Path], run_folder.Record], **more: Any
) -> Callable[..., int]:
    """``main`` of a command that writes what ``find`` gives; see ``run_folder.run``."""
    return partial(main, name, config, partial(run_folder.run, name, find, **more))


def leave(status: int) -> NoReturn:
    """End the process; at once after an interruption, where threads of XLA may still compute."""
    if status == INTERRUPTED:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def parse(command: str, config: type, argv: Sequence[str]) -> Any:
    """The settings; an ``InputError`` for an unknown flag or a value of another type."""
    words = f"{inspect.cleandoc(config.__doc__ or '')}\n\n{EVERYWHERE}"
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            return tyro.cli(
                config, prog=command, args=argv, description=words, config=(tyro.conf.DisallowNone,)
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        plain = re.sub(r"\x1b\[[0-9;]*m", "", box.getvalue())  # in a terminal it has colours
        text = re.split(r"[─-]{3,}", plain)[1]  # between the box's first two rules
        text = " ".join(re.sub(r"^[│|]|[╮│|+]$", "", text, flags=re.MULTILINE).split())
        raise InputError(f"{text}; see {command} --help") from None


def _line(error: Exception) -> str:
    if isinstance(error, BrokenPipeError):
        with contextlib.suppress(OSError, ValueError):  # for what is still printed
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return "expected a reader of the output, found none any more; write it to a file"
    if not isinstance(error, OSError) or not error.strerror:
        return " ".join(str(error).split())
    found = error.strerror + (f": {error.filename}" if error.filename else "")
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"expected room on the disk, found: {found}; free some space"
    return f"expected a path to read or write, found: {found}; choose another"
