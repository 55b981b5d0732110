"""The settings that every command shares: which network, trained on which samples."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import tyro

from jaxscape import InputError


def default(words: str) -> Any:
    """Annotates a flag whose default is nothing: what ``--help`` says in its place."""
    return tyro.conf.arg(help_behavior_hint=f"(default: {words})")


SIZES = {"mlp": (256, 2), "cnn": (256, 2), "transformer": (24, 1)}
"""Hidden units, and layers, where none are named."""


@dataclass(frozen=True)
class ProblemConfig:
    """Which network, trained on which samples."""

    dataset: str = "auto"
    """A name below, npz:PATH of your own, or auto: MNIST where it can be had, else glyphs."""
    data_dir: Annotated[str | None, default("JAXSCAPE_DATA_DIR, else a download")] = None
    """Folder with the data set's files."""
    k_max: int = 60_000
    """Samples, at least 2: w* is trained on them, and k goes up to them."""
    order: Literal["shuffled", "dataset"] = "shuffled"
    """Order of the samples: shuffled by the seed, or as the data set has them."""
    model: Literal["mlp", "cnn", "transformer"] = "mlp"
    """Fully connected, convolutional, or of sequences of tokens, such as sums."""
    hidden: Annotated[int | None, default("256, of a transformer 24")] = None
    """Units per hidden layer; of a cnn 8 times its first channels, of a transformer the width."""
    layers: Annotated[int | None, default("2, of a transformer 1")] = None
    """Number of hidden layers, or of a transformer's blocks."""
    epochs: int = 10
    """Training, in passes over the samples; 0 leaves the network as initialised."""
    batch_size: int = 64
    """Samples per training step."""
    learning_rate: float = 1e-3
    """Adam's learning rate: the size of its first steps, in units of the parameters."""
    seed: int = 0
    """Seed of every random choice, an integer from 0 to 4294967295."""

    def __post_init__(self) -> None:
        """Settle what hangs on other settings."""
        for name, usual in zip(("hidden", "layers"), SIZES[self.model], strict=True):
            if getattr(self, name) is None:
                object.__setattr__(self, name, usual)

    def ranges(self) -> list[tuple[str, Any, bool, str]]:
        """Flag, value, whether it is in range, and the range in words."""
        hidden, layers = self.hidden or 0, self.layers or 0
        return [
            ("k-max", self.k_max, self.k_max >= 2, "at least 2"),
            ("hidden", hidden, hidden >= 1, "at least 1"),
            ("layers", layers, layers >= 0, "at least 0"),
            ("epochs", self.epochs, self.epochs >= 0, "at least 0"),
            ("batch-size", self.batch_size, self.batch_size >= 1, "at least 1"),
            (
                "learning-rate",
                self.learning_rate,
                0 < self.learning_rate < float("inf"),
                "a finite number above 0",
            ),
            ("seed", self.seed, 0 <= self.seed < 2**32, "from 0 to 4294967295"),
        ]

    def check(self) -> None:
        """Raise an ``InputError`` for the first setting out of range."""
        for flag, value, good, words in self.ranges():
            if not good:
                raise InputError(f"expected --{flag} {words}, found {value}; change it")

    def settings(self) -> dict[str, Any]:
        """Every setting that the result depends on."""
        where = {"data_dir", "out", "resume", "checkpoint_every"}
        where |= {"devices", "hosts", "host", "coordinator"}
        return {name: value for name, value in asdict(self).items() if name not in where}

    def short_hash(self) -> str:
        """Eight letters that stand for ``settings``."""
        text = json.dumps(self.settings(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]
