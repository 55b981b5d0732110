"""What is probed: a network trained on the first samples of a data set."""

import functools
import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments.manual import default
from jaxscape import InputError, losses
from jaxscape.lab import data, models, stream
from jaxscape.lab.data import Dataset
from jaxscape.lab.models import Model
from jaxscape.types import Batch, Params, PerSampleLoss

KEYS = ("order", "init", "train", "subspace", "probe")
SIZES = {"mlp": (256, 2), "cnn": (256, 2), "transformer": (24, 1)}
"""Hidden units, and layers, where none are named."""


@dataclass(frozen=True)
class ProblemConfig:
    """Which network, trained on which samples."""

    dataset: str = "auto"
    """A name below, npz:PATH, tfds:NAME, or auto: MNIST where it can be had, else glyphs."""
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


@dataclass(frozen=True, eq=False)
class Problem:
    """The samples in order, the network, and the keys of every random choice."""

    dataset: Dataset
    order: np.ndarray  #: [k_max] indices into the training split
    apply: Any
    loss: PerSampleLoss
    initial: Params
    keys: dict[str, jax.Array]

    def read(self, positions: slice) -> Batch:
        """Inputs and targets at these positions of the order, in memory."""
        split = {"inputs": self.dataset.train_inputs, "targets": self.dataset.train_targets}
        return stream.take(split, self.order[positions])

    @functools.cached_property
    def samples(self) -> Batch:
        """All of them on the device: inputs [k_max, ...], targets [k_max, ...]."""
        try:
            return jax.tree.map(jnp.asarray, self.read(slice(None)))
        except (MemoryError, jax.errors.JaxRuntimeError) as error:
            raise InputError(
                f"expected room for {len(self.order):,} samples on the device, which training and "
                f"the Hessian need at once, found: {error}; lower --k-max"
            ) from error

    def release(self) -> None:
        """Give back what ``samples`` takes; they are read anew when they are asked for again."""
        self.__dict__.pop("samples", None)


def load(config: ProblemConfig) -> Problem:
    """The data set's first k_max samples in order, and an untrained network for them."""
    config.check()
    dataset = data.load(config.dataset, data_dir=config.data_dir)
    total = len(dataset.train_inputs)
    if config.k_max > total:
        raise InputError(
            f"expected --k-max of at most {total}, the samples of {dataset.name}, "
            f"found {config.k_max}; lower it"
        )
    keys = dict(zip(KEYS, jax.random.split(jax.random.key(config.seed), len(KEYS)), strict=True))
    order = np.arange(total)
    if config.order == "shuffled":
        order = np.asarray(jax.random.permutation(keys["order"], total))
    model, loss = network(config, dataset)
    initial = model.init(keys["init"], dataset.train_inputs[:1])
    return Problem(dataset, order[: config.k_max], model.apply, loss, initial, keys)


def check_test_split(problem: Problem) -> None:
    """Raise an ``InputError`` where the data set has no test split."""
    if problem.dataset.test_inputs is None:
        raise InputError(
            f"expected a data set with a test split, found none in {problem.dataset.name}; add "
            "test_inputs and test_targets, or name another"
        )


def network(config: ProblemConfig, dataset: Dataset) -> tuple[Model, PerSampleLoss]:
    """The network of the settings for this data, and the loss of a sample.

    Raises:
        InputError: a network of sequences for other data, or another one for sequences.
    """
    if dataset.has_tokens != (config.model == "transformer"):
        kinds = ["images or vectors", "sequences of tokens"]
        found, expected = reversed(kinds) if dataset.has_tokens else kinds
        raise InputError(
            f"expected {expected} for --model {config.model}, found {found} in {dataset.name}; "
            "change --dataset or --model: a transformer takes sums, or integers [n, t] of an npz"
        )
    size = config.model, config.hidden, config.layers
    if dataset.has_tokens:
        answers = dataset.train_targets.shape[1]
        return _network(*size, dataset.num_classes, _sequence, answers)
    outputs = dataset.num_classes or int(np.prod(dataset.train_targets.shape[1:]))
    return _network(*size, outputs, losses.cross_entropy if dataset.num_classes else _regression)


@functools.cache  # the same loss is the same compiled program
def _network(
    kind: str,
    hidden: int,
    layers: int,
    num_outputs: int,
    per_sample: Any,
    answers: int | None = None,
) -> tuple[Model, PerSampleLoss]:
    model = models.build(
        kind, num_outputs=num_outputs, hidden=hidden, layers=layers, answers=answers
    )
    return model, losses.supervised(model.apply, per_sample)


def _sequence(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """The mean cross-entropy of the tokens that count, in nats."""
    return losses.per_sequence(losses.cross_entropy(logits, targets), targets >= 0)


def _regression(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    return losses.squared_error(outputs, targets.reshape(outputs.shape))
