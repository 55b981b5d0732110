"""What every command does around its work: parse, report errors in one line, exit."""

import contextlib
import errno
import io
import itertools
import os
import re
import shlex
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import jax
import tyro

from experiments import hosts, manual, run_folder
from jaxscape import InputError

INTERRUPTED = 130
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def main(name: str, config: type, run: Callable[[Any], Any], argv: Sequence[str] | None) -> int:
    """Run ``run(config)`` on the command line's settings; the exit status.

    0: done. 2: bad input or an output that cannot be written, one line on stderr. 130:
    interrupted, or another host of the run was, with what to type to resume.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    command = f"python -m experiments.{name}"
    can = hasattr(config, "resume")
    again = [*argv, "--resume"] if can and "--resume" not in argv else argv
    go_on = f"to {'resume' if can else 'start again'}: {command} {shlex.join(again)}"
    try:
        run(parse(command, config, argv))
    except (InputError, OSError) as error:
        notes = [n for n in getattr(error, "__notes__", []) if n.startswith(run_folder.KEPT)]
        kept = "".join(f"; {note}; {go_on}" for note in notes)  # JAX adds notes of its own
        print(f"{command}: {_line(error)}{kept}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\ninterrupted; {go_on}", file=sys.stderr)
        return INTERRUPTED
    except jax.errors.JaxRuntimeError as error:
        if not jax.distributed.is_initialized() or "RESOURCE_EXHAUSTED" in str(error):
            raise
        print(f"\nlost another host ({str(error).splitlines()[0]}); {go_on}", file=sys.stderr)
        return INTERRUPTED
    return 0


def leave(status: int) -> NoReturn:
    """End the process; at once where a thread, of XLA after an interruption, is still at work."""
    meeting = any(thread.name == hosts.MEETING for thread in threading.enumerate())
    if status == INTERRUPTED or meeting:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def parse(command: str, config: type, argv: Sequence[str]) -> Any:
    """The settings; an ``InputError`` of one line where tyro would print a box."""
    box, flags = io.StringIO(), io.StringIO()
    markers = (tyro.conf.DisallowNone,)
    try:
        with contextlib.redirect_stderr(box), contextlib.redirect_stdout(flags):
            return tyro.cli(config, prog=command, args=argv, description="", config=markers)
    except SystemExit as stop:
        if not stop.code:
            print(manual.page(config, flags.getvalue()), end="")
            raise
        raise InputError(f"{_message(box.getvalue())}; see {command} --help") from None


def _message(box: str) -> str:
    """The first paragraph of tyro's framed message."""
    lines = [re.sub(r"^[│╭╰|+]\s?|\s?[│╮╯|+]$", "", line).strip() for line in box.splitlines()]
    is_rule = lambda line: set(line) <= {"─", "-"}  # noqa: E731  # the latter where text is ASCII
    body = itertools.dropwhile(is_rule, lines[1:])
    return " ".join(itertools.takewhile(lambda line: not is_rule(line), body))


def _line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename else ""
        if error.errno in NO_ROOM:
            return f"expected room on the disk, found: {error.strerror}{where}; free some space"
        return f"expected a path to read or write, found: {error.strerror}{where}; choose another"
    return " ".join(str(error).split())
