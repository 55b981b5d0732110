"""What XLA's text of an optimised program says: its kernels, how often each runs, what it takes."""

import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "iota")
"""Operations that take no time."""
BITS = {"pred": 8, "s8": 8, "u8": 8, "bf16": 16, "f16": 16, "s16": 16, "u16": 16, "f64": 64,
        "s64": 64, "u64": 64}  # fmt: skip

_LINE = re.compile(r"^\s*(ROOT )?%([\w.-]+) = (.*?) ([a-z][\w-]*)\((.*)$")
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\](\{[^}]*\})?")


class Instruction(NamedTuple):
    """One line of a program."""

    name: str
    root: bool
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


Computation = dict[str, Instruction]


class Kernel(NamedTuple):
    """An instruction that the device runs ``times`` times, in a computation."""

    own: Instruction
    times: int
    inside: Computation


class Text:
    """A program's computations, ``loops`` the lengths of those that end by a condition."""

    def __init__(self, text: str, loops: Sequence[int] = ()) -> None:
        self.computations: dict[str, Computation] = {}
        entry, own = "", {}
        for line in text.splitlines():
            if head := re.match(r"(ENTRY )?%([\w.-]+) .*\{$", line):
                own = self.computations[head[2]] = {}
                entry = head[2] if head[1] else entry
            elif found := _LINE.match(line):
                own[found[2]] = Instruction(found[2], bool(found[1]), *found.groups()[2:])
        self.kernels = list(self._walk(entry, 1, tuple(loops)))

    def _walk(self, name: str, times: int, loops: tuple[int, ...]) -> Iterator[Kernel]:
        inside = self.computations[name]
        for own in inside.values():
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
                yield Kernel(own, times, inside)

    def _length(self, condition: str, loops: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
        """How often a loop runs, by the constant in its condition, else the next of ``loops``."""
        lines = self.computations[condition]
        root = next(line for line in lines.values() if line.root)
        bounds = [lines[name] for name in root.operands if lines[name].op == "constant"]
        if root.op == "compare" and bounds:
            return int(bounds[0].rest.split(")")[0]), loops
        return (loops[0], loops[1:]) if loops else (1, ())

    def cycles(self) -> int:
        """The compiler's estimate; copies and collectives beside the kernels have none."""
        found = ((k, re.search(r'"estimated_cycles":"(\d+)"', k.own.rest)) for k in self.kernels)
        return sum(kernel.times * int(cycles[1]) for kernel, cycles in found if cycles)

    def bytes(self) -> int:
        """Read from and written to the chip's main memory by its kernels."""
        return sum(kernel.times * self._moved(kernel) for kernel in self.kernels)

    def _moved(self, kernel: Kernel) -> int:
        own, written = kernel.own, size_of(kernel.own.shape)
        sizes = [size_of(kernel.inside[name].shape) for name in own.operands]
        read = [self._read(own, place, size, kernel.inside) for place, size in enumerate(sizes)]
        inner = self.computations.get(own.called("calls"), {own.name: own})
        for line in inner.values():
            if line.op == "dynamic-update-slice":  # in place
                part = (inner | kernel.inside)[line.operands[1]]
                written += min(0, size_of(part.shape) - size_of(line.shape))
        return sum(read) + max(0, written)

    def _read(self, own: Instruction, place: int, size: int, inside: Computation) -> int:
        """Of an operand's bytes, those that are read: a fusion may take a slice of it alone."""
        if own.op in ("dynamic-slice", "slice"):
            return min(size, size_of(own.shape)) if place == 0 else size
        if own.op == "dynamic-update-slice" and place == 0:
            return 0
        inner = self.computations.get(own.called("calls"), {})
        for line in inner.values():
            if line.op == "parameter" and line.rest.startswith(f"{place})"):
                users = [user for user in inner.values() if line.name in user.operands]
                each = [self._read(u, u.operands.index(line.name), size, inner) for u in users]
                return min(size, sum(each))
        return size

    def collectives(self) -> dict[str, int]:
        """How often each kind of exchange between chips takes place."""
        found: dict[str, int] = {}
        for kernel in self.kernels:
            kind = kernel.own.op.removesuffix("-start")
            if kind in COLLECTIVES:
                found[kind] = found.get(kind, 0) + kernel.times
        return found

    def precisions(self) -> dict[str, int]:
        """How many products of numbers of 32 bits and more have each precision."""
        found: dict[str, int] = {}
        for lines in self.computations.values():
            for own in lines.values():
                target = re.search(r'custom_call_target="([^"]*)"', own.rest)
                name = target[1].lower() if target else ""
                gemm = "gemm" in name or "conv" in name
                if own.op in ("dot", "convolution") or (own.op == "custom-call" and gemm):
                    wide = [lines[name].shape.startswith(("f32", "f64")) for name in own.operands]
                    said = re.search(r'operand_precision"?[=:][{\[]"?(\w+)', own.rest)
                    name = said[1].lower() if said else "default"
                    if any(wide[:2]):
                        found[name] = found.get(name, 0) + 1
        return found


def size_of(shape: str) -> int:
    """Bytes of an array, or of a tuple of them; 0 of one in a TPU's fast memory."""
    total = 0
    for kind, sides, layout in _ARRAY.findall(shape):
        if "S(" not in (layout or ""):
            total += math.prod(map(int, filter(None, sides.split(",")))) * BITS.get(kind, 32) // 8
    return total
