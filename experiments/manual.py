"""A command's ``--help``: what it does, its flags, examples, exit status, environment."""

import dataclasses
import inspect
import re
import shutil
import textwrap
from typing import Any

import tyro

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


def default(words: str) -> Any:
    """Annotates a flag whose default is nothing: what ``--help`` says in its place."""
    return tyro.conf.arg(help_behavior_hint=f"(default: {words})")


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
