"""What XLA's text of an optimised program says: its kernels, their cycles, bytes and precision."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

KERNELS = ("fusion", "convolution", "dot", "custom-call", "copy")
CUTS, UPDATE = ("dynamic-slice", "slice", "gather"), "dynamic-update-slice"
EXCHANGES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

Loops = Sequence[int] | None  # None: each counts once
_ARRAY = re.compile(r"\b(?:pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")  # f32[60,4]
_CYCLES = re.compile(r'"(?:estimated|end_to_end)_cycles":"?(\d[\d.e+-]*)')  # of a TPU, of a GPU
_PRECISION = re.compile(r'\boperand_precision(?:=\{|":\[")(\w+)')  # of XLA's products, of cuBLAS's
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

    def totals(self, loops: Loops = (), of: str = "ENTRY") -> np.ndarray:
        """Cycles as the compiler estimates them, kernels run, bytes moved; of branches the most.

        ``loops`` are the lengths of nested loops that end by a condition, the outermost first.
        Copies and the calls of a GPU's libraries have no estimate.
        """
        total = np.zeros(3)
        for own in self.computations[of]:
            if own.op == "while":
                length, rest = self._length(own, loops)
                total += length * self.totals(rest, own.called("body"))
            elif own.op in ("conditional", "call"):
                attributes = own.rest.partition("), ")[2].partition("metadata")[0]
                branches = re.findall(r"%([\w.-]+)", attributes)
                total += np.max([self.totals(loops, branch) for branch in branches], 0)
            else:
                said, kernel = _CYCLES.search(own.rest), own.op in KERNELS
                total += float(said[1]) if said else 0, kernel, self._moved(own) if kernel else 0
        return total

    def _moved(self, own: Instruction) -> float:
        """Bytes that a kernel reads and writes: of an array that it cuts or updates, the part."""
        if own.op != "fusion":  # of a library's result the first array, next is working memory
            taken = sum(_size(self.lines[name].shape) for name in own.operands)
            return taken + _size(own.shape.split("}")[0])
        inner, total = self.computations[own.called("calls")], _size(own.shape)
        root = next(line for line in inner if line.root)
        made = {root.name, *(root.operands if root.op in ("tuple", "bitcast") else ())}
        for line in inner:
            if line.op == UPDATE and line.name in made:
                total += _size(self.lines[line.operands[1]].shape) - _size(line.shape)
            elif line.op == "parameter":
                users = [user for user in inner if line.name in user.operands]
                partly = all(u.op in (*CUTS, UPDATE) and u.operands[0] == line.name for u in users)
                cut = sum(_size(user.shape) for user in users if user.op in CUTS)
                total += min(cut, _size(line.shape)) if partly else _size(line.shape)
        return total

    def _length(self, loop: Instruction, loops: Loops) -> tuple[int, Loops]:
        """How often a loop runs: as it says, by the constant in its condition, or as ``loops``."""
        if loops is None:
            return 1, None
        if said := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest):
            return int(said[1]), loops
        root = next(line for line in self.computations[loop.called("condition")] if line.root)
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
            product = own.op in ("dot", "convolution") or 'target="__cu' in own.rest
            if product and any(wide):
                said = None if _FAST.search(own.rest) else _PRECISION.search(own.rest)
                found[said[1].lower() if said else "default"] += 1
        return found


def _size(shape: str) -> float:
    """The bytes of all arrays in a shape."""
    arrays = ((bits, dims.split(",") if dims else []) for bits, dims in _ARRAY.findall(shape))
    return sum(int(bits or 8) / 8 * math.prod(map(int, dims)) for bits, dims in arrays)
