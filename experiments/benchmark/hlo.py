"""What XLA's text of an optimised program says: its kernels, their cycles, bytes and precision."""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

KERNELS = ("fusion", "convolution", "dot", "custom-call", "copy")
CUTS, UPDATE = ("dynamic-slice", "slice", "gather"), "dynamic-update-slice"
EXCHANGES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

Loops = Sequence[int] | None  # None: each counts once
_ARRAY = re.compile(r"\b(?:pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")  # f32[60,4]
_CYCLES = re.compile(r'"(?:estimated|end_to_end)_cycles":"?([\d.e+-]+)')  # of a TPU, of a GPU
_PRECISION = re.compile(r'\boperand_precision(?:=\{|":\[")(\w+)')  # of XLA's products, of cuBLAS's
_LIBRARY = re.compile(r'custom_call_target="__cu(?:blas|dnn)')
_FAST = re.compile(r'algorithm(?:=|":")\w*(?:bf16|tf32)', re.IGNORECASE)
_LINE = re.compile(r"^\s*(ROOT )?%([\w.-]+) = (.*?) ([a-z][\w-]*)\((.*)$")


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
        return re.findall(rf"\b{attribute}=%([\w.-]+)", self.rest)[0]


class Text:
    """The computations of a program."""

    def __init__(self, text: str) -> None:
        self.lines: dict[str, Instruction] = {}  # no two of a program have the same name
        self.computations: dict[str, list[Instruction]] = {}
        own: list[Instruction] = []
        for line in text.splitlines():
            if head := re.match(r"(ENTRY)? ?%([\w.-]+) .*\{$", line):
                own = self.computations[head[1] or head[2]] = []
            elif found := _LINE.match(line):
                own.append(Instruction(*found.groups()))
                self.lines[own[-1].name] = own[-1]

    def cycles(self, loops: Loops = ()) -> float:
        """The compiler's estimate, of branches the longest; copies and libraries have none."""
        return self._sum(_cycles, loops)

    def runs(self, loops: Loops = ()) -> float:
        """How many kernels run, those of a loop each time."""
        return self._sum(lambda own: own.op in KERNELS, loops)

    def moved(self, loops: Loops = ()) -> float:
        """How many bytes its kernels read and write, without padding."""
        return self._sum(lambda own: sum(self._moved(own)) if own.op in KERNELS else 0, loops)

    def _sum(self, of: Callable[[Instruction], float], loops: Loops, name: str = "ENTRY") -> float:
        """The sum of a figure over a computation, of branches the one with the most.

        ``loops`` are the lengths of nested loops that end by a condition, the outermost first.
        """
        total = 0.0
        for own in self.computations[name]:
            if own.op == "while":
                length, rest = self._length(own, loops)
                total += length * self._sum(of, rest, own.called("body"))
            elif own.op in ("conditional", "call"):
                attributes = own.rest.partition("), ")[2].partition("metadata")[0]
                branches = re.findall(r"%([\w.-]+)", attributes)
                total += max(self._sum(of, loops, branch) for branch in branches)
            else:
                total += of(own)
        return total

    def _moved(self, own: Instruction) -> Iterator[float]:
        """Bytes of what a kernel takes and makes: of an array that it cuts or updates, the part."""
        inner = self.computations[own.called("calls")] if own.op == "fusion" else []
        for line in inner:
            if line.op == "parameter":
                users = list(_users(line.name, inner))
                partly = all(first and user.op in (*CUTS, UPDATE) for user, first in users)
                parts = (_size(user.shape) for user, _ in users if user.op in CUTS)
                yield sum(parts) if partly else _size(line.shape)
        if not inner:
            yield from (_size(self.lines[name].shape) for name in own.operands)
            yield _size(own.shape.split("}")[0])  # without the working memory of a library
        for root in (line for line in inner if line.root):
            for line in (
                [self.lines[name] for name in root.operands] if root.op == "tuple" else [root]
            ):
                while line.op == "bitcast":
                    line = self.lines[line.operands[0]]
                yield _size(self.lines[line.operands[1]].shape if line.op == UPDATE else line.shape)

    def _length(self, loop: Instruction, loops: Loops) -> tuple[int, Loops]:
        """How often a loop runs: as it says, by the constant in its condition, or as ``loops``."""
        if loops is None:
            return 1, None
        if said := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest):
            return int(said[1]), loops
        condition = self.computations[loop.called("condition")]
        root = next(line for line in condition if line.root)
        bounds = [self.lines[name] for name in root.operands if self.lines[name].op == "constant"]
        if root.op == "compare" and bounds:
            return int(bounds[0].rest.split(")")[0]), loops
        return (loops[0], loops[1:]) if loops else (1, ())

    def kernels(self) -> tuple[int, int]:
        """How many kernels and exchanges between chips it has, those of a loop counted once."""
        inner = {own.called("calls") for own in self.lines.values() if own.op == "fusion"}
        outer = [own for name, own in self.computations.items() if name not in inner]
        ops = Counter(line.op.removesuffix("-start") for own in outer for line in own)
        return sum(ops[op] for op in KERNELS), sum(ops[op] for op in EXCHANGES)

    def precisions(self) -> Counter[str]:
        """How many products of numbers of 32 bits and more have each precision."""
        found: Counter[str] = Counter()
        for own in self.lines.values():
            wide = (self.lines[name].shape.startswith(("f32", "f64")) for name in own.operands)
            product = own.op in ("dot", "convolution") or _LIBRARY.search(own.rest)
            if product and any(wide):
                said = None if _FAST.search(own.rest) else _PRECISION.search(own.rest)
                found[said[1].lower() if said else "default"] += 1
        return found


def _size(shape: str) -> float:
    """The bytes of the arrays in a shape."""
    arrays = _ARRAY.findall(shape)
    return sum(
        int(bits or 8) / 8 * math.prod(map(int, dims.split(",") if dims else []))
        for bits, dims in arrays
    )


def _users(name: str, lines: list[Instruction]) -> Iterator[tuple[Instruction, bool]]:
    """What takes a value, and whether as its first operand alone."""
    for line in lines:
        if name in line.operands and line.op == "bitcast":
            yield from _users(line.name, lines)
        elif name in line.operands:
            yield line, name not in line.operands[1:]


def _cycles(own: Instruction) -> float:
    """The compiler's estimate for a line, 0 where it has none."""
    said = _CYCLES.search(own.rest)
    return float(said[1]) if said else 0
