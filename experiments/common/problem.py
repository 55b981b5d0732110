"""The problem of a run: samples of a data set in order, a network, its loss, random keys."""

import functools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common.config import ProblemConfig
from experiments.common.devices import keep_programs
from jaxscape import InputError, losses
from jaxscape.batching import host
from jaxscape.lab import data, models, stream, train
from jaxscape.types import Batch, Params, PerSampleLoss

ROOM = 2**29
"""Bytes of samples in files, as float32, above which they are never in memory all at once."""
PART = 4000
"""Samples of them that are read at a time."""
KEYS = ("order", "init", "train", "subspace", "probe")


@dataclass(frozen=True, eq=False)
class Problem:
    """The samples in order, the network, and the keys of every random choice."""

    dataset: data.Dataset
    order: np.ndarray  #: [k_max] indices into the training split
    held_out: np.ndarray  #: indices into the training split that w* is not trained on
    model: models.Model
    loss: PerSampleLoss
    initial: Params
    keys: dict[str, jax.Array]
    seconds: dict[str, float] = field(default_factory=dict)  #: spent in each stage so far

    @property
    def unit(self) -> str:
        """The unit of a loss."""
        return "nats" if self.dataset.num_classes else "loss"

    def read(self, positions: slice | np.ndarray) -> Batch:
        """Inputs and targets at these positions of the order, in memory."""
        split = {"inputs": self.dataset.train_inputs, "targets": self.dataset.train_targets}
        return stream.take(split, self.order[positions])

    @functools.cached_property
    def samples(self) -> Batch:
        """All samples on the device: inputs [k_max, ...], targets [k_max, ...]."""
        try:
            return jax.tree.map(jnp.asarray, self.read(slice(None)))
        except (MemoryError, jax.errors.JaxRuntimeError) as error:
            raise InputError(
                f"expected room for {len(self.order):,} samples on the device, which training and "
                f"the Hessian need at once, found: {error}; lower --k-max"
            ) from error

    @property
    def is_large(self) -> bool:
        """Whether the samples stay in their files, to be read part by part."""
        inputs = self.dataset.train_inputs
        size = 4 * len(self.order) * int(np.prod(inputs.shape[1:]))
        return isinstance(inputs, stream.Mapped) and size > ROOM

    def parts(self) -> Iterator[Batch]:
        """All samples part by part, in the order of the files."""
        parts = np.split(np.argsort(self.order), range(PART, len(self.order), PART))
        return map(self.read, parts)

    @functools.cached_property
    def fresh(self) -> "Problem | None":
        """The same of samples that w* has not seen: those held out, else the test split, if any."""
        data, none = self.dataset, np.zeros(0, int)
        if len(self.held_out):
            return replace(self, order=self.held_out, held_out=none)
        if data.test_inputs is None or data.test_targets is None or len(data.test_inputs) < 2:
            return None
        tests = replace(data, train_inputs=data.test_inputs, train_targets=data.test_targets)
        return replace(self, dataset=tests, order=np.arange(len(data.test_inputs)), held_out=none)

    def release(self) -> None:
        """Free the memory of ``samples``, which are read again at their next use."""
        self.__dict__.pop("samples", None)


def load(config: ProblemConfig) -> Problem:
    """The data set's first k_max samples in order, flat for an MLP, and an untrained network."""
    config.check()
    keep_programs()
    started = time.monotonic()
    dataset = data.load(config.dataset, data_dir=config.data_dir)
    total = len(dataset.train_inputs)
    holdout = getattr(config, "holdout", 0)
    if config.k_max + holdout > total:
        both, more = (" and --holdout together", f" and {holdout}") if holdout else ("", "")
        raise InputError(
            f"expected --k-max{both} of at most {total}, the samples of {dataset.name}, "
            f"found {config.k_max}{more}; lower it"
        )
    model, loss = network(config, dataset)
    if config.model == "mlp" and isinstance(images := dataset.train_inputs, np.ndarray):
        # it would flatten them in each program, which takes a TPU 6 ms
        tests = None if dataset.test_inputs is None else _flat(dataset.test_inputs)
        dataset = replace(dataset, train_inputs=_flat(images), test_inputs=tests)
    with host():
        drawn = jax.random.split(jax.random.key(config.seed), len(KEYS))
        keys = dict(zip(KEYS, drawn, strict=True))
        order = np.arange(total)
        if config.order == "shuffled":
            order = np.asarray(jax.random.permutation(keys["order"], total))
        initial = model.init(keys["init"], dataset.train_inputs[:1])
    own, held_out = order[: config.k_max], order[config.k_max :][:holdout]
    problem = Problem(dataset, own, held_out, model, loss, initial, keys)
    _, loss = losses.ready(loss, initial, problem.read(slice(4)))  # looked at once for all
    return replace(problem, loss=loss, seconds={"data": time.monotonic() - started})


def _flat(inputs: np.ndarray) -> np.ndarray:
    return inputs.reshape(len(inputs), -1)


def check_test_split(problem: Problem, _: ProblemConfig) -> None:
    """Raise an ``InputError`` where the data set has no test split."""
    tests, name = problem.dataset.test_inputs, problem.dataset.name
    if tests is None or len(tests) < 2:
        raise InputError(
            f"expected a test split of at least 2 samples, found fewer in {name}; add test_inputs "
            "and test_targets, or name another data set"
        )


def tests_of(problem: Problem) -> tuple[dict[str, PerSampleLoss], Batch]:
    """What is measured on each test sample (loss; of classes, 1 where correct), and the samples."""
    data, metrics = problem.dataset, {"test_loss": problem.loss}
    if data.num_classes:
        metrics["test_accuracy"] = losses.supervised(problem.model.apply, train.correct)
    samples = {"inputs": data.test_inputs, "targets": data.test_targets}
    return metrics, jax.tree.map(jnp.asarray, samples)


def network(config: ProblemConfig, dataset: data.Dataset) -> tuple[models.Model, PerSampleLoss]:
    """The network of the settings for this data, and the loss of a sample.

    An ``InputError`` for a network of sequences where data are none, or the other way round.
    """
    if dataset.has_tokens != (config.model == "transformer"):
        kinds = ["images or vectors", "sequences of tokens"]
        found, expected = reversed(kinds) if dataset.has_tokens else kinds
        raise InputError(
            f"expected {expected} for --model {config.model}, found {found} in {dataset.name}; "
            "change --dataset or --model: a transformer takes sums, or integers [n, t] of an npz"
        )
    outputs = dataset.num_classes or int(np.prod(dataset.train_targets.shape[1:]))
    size = {"num_outputs": outputs, "hidden": config.hidden, "layers": config.layers}
    if dataset.has_tokens:
        return _network(_sequence, config.model, answers=dataset.train_targets.shape[1], **size)
    per_sample = losses.cross_entropy if dataset.num_classes else _regression
    return _network(per_sample, config.model, **size)


@functools.cache  # the same loss is the same compiled program
def _network(per_sample: Any, kind: str, **size: Any) -> tuple[models.Model, PerSampleLoss]:
    model = models.build(kind, **size)
    return model, losses.supervised(model.apply, per_sample)


def _sequence(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """The mean cross-entropy of the tokens with a target, in nats."""
    return losses.per_sequence(losses.cross_entropy(logits, targets), targets >= 0)


def _regression(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    return losses.squared_error(outputs, targets.reshape(outputs.shape))
