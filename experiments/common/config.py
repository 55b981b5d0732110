"""The settings that every command shares: which network, trained on which samples."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_type_hints

import tyro

from jaxscape import InputError


def default(words: str) -> Any:
    """Annotates a flag whose default is None: what ``--help`` says in its place."""
    return tyro.conf.arg(help_behavior_hint=f"(default: {words})")


class Range(NamedTuple):
    """The range of a setting, in its type: ``points: Annotated[int, at_least(2)] = 256``."""

    holds: Callable[[Any], bool]
    words: str

    def check(self, name: str, value: Any) -> None:
        """Raise an ``InputError`` unless the value, or each of several, is in range."""
        several = isinstance(value, tuple)
        values = value if several else (value,)
        if value is None or (values and all(map(self.holds, values))):
            return
        words = f"one or more numbers {self.words}" if several else self.words
        found = " ".join(f"{v:g}" for v in values) or "none" if several else value
        raise InputError(f"expected --{name.replace('_', '-')} {words}, found {found}; change it")


def at_least(low: float) -> Range:
    """A finite number of at least ``low``."""
    return Range(lambda value: low <= value < math.inf, f"of at least {low:g}")


def above(low: float) -> Range:
    """A finite number above ``low``."""
    return Range(lambda value: low < value < math.inf, f"above {low:g}")


def between(low: float, high: float) -> Range:
    """A number from ``low`` to ``high``."""
    return Range(lambda value: low <= value <= high, f"from {low:.10g} to {high:.10g}")


SIZES = {"mlp": (256, 2), "cnn": (256, 2), "transformer": (24, 1)}
"""Hidden units and layers by default."""


@dataclass(frozen=True)
class ProblemConfig:
    """Which network, trained on which samples."""

    dataset: str = "auto"
    """A name above, npz:PATH, tfds:NAME, or auto: MNIST where it can be had, else glyphs."""
    data_dir: Annotated[str | None, default("JAXSCAPE_DATA_DIR, else a download")] = None
    """Folder with the data set's files."""
    k_max: Annotated[int, at_least(2)] = 60_000
    """Number of samples N, at least 2: w* is trained on them, and k runs up to N − 1."""
    order: Literal["shuffled", "dataset"] = "shuffled"
    """Order of the samples: shuffled by the seed, or as the data set has them."""
    model: Literal["mlp", "cnn", "transformer"] = "mlp"
    """Fully connected, convolutional, or for sequences of tokens, such as sums."""
    hidden: Annotated[int | None, at_least(1), default("256, transformer 24")] = None
    """Units per hidden layer; for a cnn 8 times its first channels, for a transformer the width."""
    layers: Annotated[int | None, at_least(0), default("2, transformer 1")] = None
    """Number of hidden layers, or of transformer blocks."""
    epochs: Annotated[int, at_least(0)] = 10
    """Training, in passes over the samples; 0 leaves the network as initialised."""
    batch_size: Annotated[int, at_least(1)] = 64
    """Samples per training step."""
    learning_rate: Annotated[float, above(0)] = 1e-3
    """Adam's learning rate: the size of its first steps, in units of the parameters."""
    weight_decay: Annotated[float, at_least(0)] = 0.0
    """λ of (λ/2)‖w‖² in the training loss (L2, not decoupled); losses and spectra are without."""
    schedule: Literal["constant", "cosine"] = "constant"
    """The learning rate stays as it is, or falls to 0 at the last step as half a cosine does."""
    finish: Annotated[int, at_least(0)] = 0
    """Most steps of L-BFGS, along all samples, with which the training ends, nearer a minimum."""
    seed: Annotated[int, between(0, 2**32 - 1)] = 0
    """Seed of every random choice, an integer from 0 to 4294967295."""

    def __post_init__(self) -> None:
        """Fill in what depends on other settings."""
        for name, usual in zip(("hidden", "layers"), SIZES[self.model], strict=True):
            if getattr(self, name) is None:
                object.__setattr__(self, name, usual)

    def check(self) -> None:
        """Raise an ``InputError`` for the first setting out of range."""
        for name, hint in get_type_hints(type(self), include_extras=True).items():
            for bound in getattr(hint, "__metadata__", ()):
                if isinstance(bound, Range):
                    bound.check(name, getattr(self, name))

    def training(self) -> dict[str, Any]:
        """How ``jaxscape.lab.train.fit`` trains; it tells the gradient's norm where it is small."""
        names = "epochs", "batch_size", "learning_rate", "weight_decay", "schedule"
        near = self.finish or self.schedule != "constant"
        found = {name: getattr(self, name) for name in names}
        return found | {"finish": self.finish if near else None}

    @property
    def visits(self) -> int:
        """How often the training shows its network: after each epoch, and after a finish."""
        return self.epochs + (self.finish > 0)

    def settings(self) -> dict[str, Any]:
        """Every setting that the result depends on."""
        where = {"data_dir", "out", "resume", "checkpoint_every", "devices", "distributed"}
        return {name: value for name, value in asdict(self).items() if name not in where}


HOLDOUT = Range(lambda number: number == 0 or number >= 2, "of 0 or at least 2")
"""Of the samples that w* is not trained on: a variance takes two."""


@dataclass(frozen=True)
class RunConfig(ProblemConfig):
    """The settings of a command that writes a run folder."""

    out: Annotated[Path | None, default("runs/<command>-<dataset>-<hash of the settings>")] = None
    """Run folder."""
