"""What every command does around its work: parse, report errors in one line, exit.

A command's ``--help``: what it does, its flags, examples, exit status, environment.
"""

import contextlib
import dataclasses
import errno
import inspect
import io
import itertools
import os
import re
import shlex
import shutil
import sys
import textwrap
import threading
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import jax
import tyro

from experiments.common import devices, run_folder
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
    meeting = any(thread.name == devices.MEETING for thread in threading.enumerate())
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
            print(page(config, flags.getvalue()), end="")
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


_DATA = {"dataset", "data_dir", "k_max", "order"}


_OUTPUT = {"out", "resume", "checkpoint_every", "devices", "precision", "interactive", "json"}


_OUTPUT |= {"hosts", "host", "coordinator"}


_END = """\
data sets:
  glyphs, mnist, fashion_mnist, kmnist, cifar10, cifar100, sums (for --model transformer);
  npz:PATH: a file of arrays inputs, targets (test_inputs, test_targets), read into memory, or a
  folder of inputs.npy and so on, which may be larger than memory;
  tfds:NAME: images with classes of TensorFlow Datasets (needs pip install '.[tfds]')

exit status:
  0    done
  2    bad input, or an output that cannot be written: one line on stderr says what to do
  130  interrupted: one line on stderr says how to go on

environment:
  JAXSCAPE_DATA_DIR  folder with the data sets' files, where --data-dir is not given
  JAXSCAPE_OFFLINE   1 forbids every network use
  JAXSCAPE_MIRROR    another server of the data sets' files
  JAX_PLATFORMS      the device: cpu, cuda or tpu
"""


def page(config: type, flags: str) -> str:
    """The help text, from tyro's of the flags alone, without frames.

    The docstring of ``config`` holds what the command does and, under ``Examples:``, command
    lines, which come after the flags.
    """
    text, _, examples = inspect.cleandoc(config.__doc__ or "").partition("\nExamples:\n")
    width = max(40, min(shutil.get_terminal_size().columns, 100))
    paragraphs = [
        part if "\n  " in part else textwrap.fill(part, width)
        for part in text.strip().split("\n\n")
    ]
    usage, *rest = _blocks(config, flags)
    lines = textwrap.indent(textwrap.dedent(examples).rstrip(), "  ")
    usage = textwrap.fill(usage, width, subsequent_indent="  ")
    return "\n\n".join([usage, *paragraphs, *rest, f"examples:\n{lines}", _END])


def _blocks(config: type, flags: str) -> list[str]:
    """The usage, then each section's flags under its heading."""
    head, *rows = re.split(r"\n(?=  -)", flags)
    usage, *positional = re.split(r"\n+(?= \w)", head.partition("\n options")[0].strip())
    sections: dict[str, list[str]] = {"data": [], "network": [], "what is done": [], "output": []}
    for row in rows[1:]:  # the first is --help
        sections[_section(config, row)].append(_trim(row))
    blocks = [f"{name}:\n" + "\n".join(rows) for name, rows in sections.items() if rows]
    named = [_trim(part).replace(" positional arguments", "arguments:") for part in positional]
    return [_trim(usage), *named, *blocks]


def _section(config: type, row: str) -> str:
    (flag,) = re.findall(r"^ +--?([\w-]+)", row)
    name = flag.replace("-", "_")
    bases = [base for base in config.__mro__[1:] if dataclasses.is_dataclass(base)]
    if name in _DATA:
        return "data"
    if name in _OUTPUT:
        return "output"
    inherited = any(name == field.name for base in bases for field in dataclasses.fields(base))
    return "network" if inherited else "what is done"


def _trim(text: str) -> str:
    """Without spaces at the ends of lines, rules, and empty lines."""
    lines = [line.rstrip() for line in text.splitlines()]
    return "\n".join(line for line in lines if line.strip("- "))
