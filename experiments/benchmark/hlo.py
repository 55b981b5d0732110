"""What XLA's text of an optimised program says: its kernels, how often each runs, what it takes."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "iota")
"""Operations that take no time."""

_LINE = re.compile(r"^\s*(ROOT )?%([\w.-]+) = (.*?) ([a-z][\w-]*)\((.*)$")
_ARRAY = re.compile(r"\b(?:pred|[a-z]+(\d+))\[([\d,]*)\](\{[^}]*\})?")


class Instruction(NamedTuple):
    """One line of a program."""

    root: str | None
    name: str
    shape: str
    op: str
    rest: str  #: operands, then attributes

    @property
    def operands(self) -> list[str]:
        """The names of its operands."""
        return re.findall(r"%([\w.-]+)", self.rest.split(")")[0])

    def called(self, attribute: str) -> str:
        """The computation that an attribute names."""
        found = re.search(rf"\b{attribute}=%([\w.-]+)", self.rest)
        return found[1] if found else ""


class Text:
    """A program's computations, ``loops`` the lengths of those that end by a condition."""

    def __init__(self, text: str, loops: Sequence[int] = ()) -> None:
        self.lines: dict[str, Instruction] = {}  # no two of a program have the same name
        self.computations: dict[str, list[Instruction]] = {}
        entry, own = "", []
        for line in text.splitlines():
            if head := re.match(r"(ENTRY )?%([\w.-]+) .*\{$", line):
                own = self.computations[head[2]] = []
                entry = head[2] if head[1] else entry
            elif found := _LINE.match(line):
                own.append(Instruction(*found.groups()))
                self.lines[own[-1].name] = own[-1]
        self.kernels = list(self._walk(entry, 1, tuple(loops)))

    def _walk(
        self, name: str, times: int, loops: tuple[int, ...]
    ) -> Iterator[tuple[Instruction, int]]:
        """What the device runs, and how often."""
        for own in self.computations[name]:
            if own.op == "while":
                length, rest = self._length(own.called("condition"), loops)
                yield from self._walk(own.called("body"), times * length, rest)
            elif own.op == "conditional":
                attributes = own.rest.partition("), ")[2].partition("metadata")[0]
                for branch in re.findall(r"%([\w.-]+)", attributes):
                    yield from self._walk(branch, times, loops)
            elif own.op == "call":
                yield from self._walk(own.called("to_apply"), times, loops)
            elif own.op not in FREE:
                yield own, times

    def _length(self, condition: str, loops: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
        """How often a loop runs, by the constant in its condition, else the next of ``loops``."""
        root = next(line for line in self.computations[condition] if line.root)
        operands = [self.lines[name] for name in root.operands]
        bounds = [line.rest.split(")")[0] for line in operands if line.op == "constant"]
        if root.op == "compare" and bounds:
            return int(bounds[0]), loops
        return (loops[0], loops[1:]) if loops else (1, ())

    def cycles(self) -> int:
        """The compiler's estimate; copies beside the kernels have none."""
        found = ((re.search(r'"estimated_cycles":"(\d+)"', o.rest), n) for o, n in self.kernels)
        return sum(times * int(cycles[1]) for cycles, times in found if cycles)

    def bytes(self) -> int:
        """Read from and written to the chip's main memory by its kernels."""
        return sum(times * self._moved(own) for own, times in self.kernels)

    def _moved(self, own: Instruction) -> int:
        read = sum(self._read(own, i, self._size(name)) for i, name in enumerate(own.operands))
        written = size_of(own.shape)
        for line in self.computations.get(own.called("calls"), [own]):
            if line.op == "dynamic-update-slice":  # in place
                written += min(0, self._size(line.operands[1]) - size_of(line.shape))
        return read + max(0, written)

    def _read(self, own: Instruction, place: int, size: int) -> int:
        """Of an operand's bytes, those that are read: a fusion may take a slice of it alone."""
        if own.op in ("dynamic-slice", "slice"):
            return min(size, size_of(own.shape)) if place == 0 else size
        if own.op == "dynamic-update-slice" and place == 0:
            return 0
        inner = self.computations.get(own.called("calls"), [])
        for line in inner:
            if line.op == "parameter" and line.rest.startswith(f"{place})"):
                users = [user for user in inner if line.name in user.operands]
                each = (self._read(u, u.operands.index(line.name), size) for u in users)
                return min(size, sum(each))
        return size

    def _size(self, name: str) -> int:
        return size_of(self.lines[name].shape)

    def precisions(self) -> Counter[str]:
        """How many products of numbers of 32 bits and more have each precision."""
        found: Counter[str] = Counter()
        for own in self.lines.values():
            if own.op in ("dot", "convolution"):
                said = re.search(r"operand_precision=\{(\w+)", own.rest)
                wide = (self.lines[name].shape.startswith(("f32", "f64")) for name in own.operands)
                found[said[1] if said else "default"] += any(wide)
        return +found


def size_of(shape: str) -> int:
    """Bytes of an array, or of a tuple of them; 0 of one in a TPU's fast memory."""
    return sum(
        math.prod(map(int, filter(None, sides.split(",")))) * int(bits or 8) // 8
        for bits, sides, layout in _ARRAY.findall(shape)
        if "S(" not in layout
    )
