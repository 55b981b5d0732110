"""What XLA's text of an optimised program says: its kernels, their cycles and precision."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

KERNELS = ("fusion", "convolution", "dot", "custom-call", "copy")
EXCHANGES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

Loops = Sequence[int] | None  # None: each counts once
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

    def cycles(self, loops: Loops = (), of: str = "ENTRY") -> int:
        """The compiler's estimate for a computation, of branches the longest; copies have none.

        ``loops`` are the lengths of nested loops that end by a condition, the outermost first.
        """
        total = 0
        for own in self.computations[of]:
            if own.op == "while":
                length, rest = self._length(own.called("condition"), loops)
                total += length * self.cycles(rest, own.called("body"))
            elif own.op in ("conditional", "call"):
                attributes = own.rest.partition("), ")[2].partition("metadata")[0]
                branches = re.findall(r"%([\w.-]+)", attributes)
                total += max(self.cycles(loops, branch) for branch in branches)
            elif said := re.search(r'"estimated_cycles":"(\d+)"', own.rest):
                total += int(said[1])
        return total

    def _length(self, condition: str, loops: Loops) -> tuple[int, Loops]:
        """How often a loop runs, by the constant in its condition, else the next of ``loops``."""
        if loops is None:
            return 1, None
        root = next(line for line in self.computations[condition] if line.root)
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
            if own.op in ("dot", "convolution") and any(wide):
                said = re.search(r"operand_precision=\{(\w+)", own.rest)
                found[said[1] if said else "default"] += 1
        return found
