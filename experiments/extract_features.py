"""Features of a data set's images by a Vision Transformer, as an npz: data set."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float

from experiments import vision_transformer
from experiments.common import cli, console
from experiments.common.config import default
from experiments.common.console import progress
from experiments.vision_transformer import Extract
from jaxscape import InputError
from jaxscape.lab import cache, data, mapped
from jaxscape.lab.dataset import Dataset
from jaxscape.lab.mapped import Mapped


@dataclass(frozen=True)
class ExtractConfig:
    """Features of a data set's images by a Vision Transformer, as an npz: data set.

    Resizes the images to the model's size, normalises them by its own mean and standard deviation,
    runs it without gradients, and keeps of each image the class token's output after the last
    layer. The file serves the other commands as --dataset npz:FILE. Needs PyTorch and transformers:
    pip install -e '.[features]'. A ViT of base size takes a CPU hours for 60,000 images.

    Examples:
        python -m experiments.extract_features --dataset cifar10 --out features.npz
    """

    out: Path
    """The npz file to write, which must not exist."""
    dataset: str = "auto"
    """A name below, npz:FILE of your own, or auto: MNIST where it can be had, else glyphs."""
    data_dir: Annotated[str | None, default("JAXSCAPE_DATA_DIR, else a download")] = None
    """Folder with the data set's files."""
    model: str = "google/vit-base-patch16-224-in21k"
    """Name on the Hugging Face hub, or a folder saved with save_pretrained."""
    batch_size: int = 64
    """Images per pass."""

    def check(self) -> None:
        """Raise an ``InputError`` for a setting that cannot be used."""
        if self.batch_size < 1:
            raise InputError(
                f"expected --batch-size at least 1, found {self.batch_size}; change it"
            )
        if self.out.suffix != ".npz":
            raise InputError(f"expected --out to end in .npz, found {self.out}; change it")
        if self.out.exists():
            raise InputError(
                f"expected no file at {self.out}, found one; remove it, or choose another --out"
            )


def run(config: ExtractConfig) -> Path:
    """Write the file, and say what it holds.

    Raises:
        InputError: settings, data or a model that cannot be used, or libraries that are not there.
    """
    config.check()
    found = data.load(config.dataset, data_dir=config.data_dir)
    _check_images(found)
    extract = vision_transformer.load(config.model)
    if found.note:
        print(f"note: {found.note}")
    print(f"data: {found.name} ({found.source})", flush=True)
    started = time.monotonic()
    with cache.replacing(config.out) as file:  # opened first: a place that refuses it is told now
        arrays: dict[str, Any] = _arrays(found, extract, config.batch_size)
        np.savez(file, **arrays)
    number = sum(len(arrays[name]) for name in arrays if "inputs" in name)
    dim = arrays["inputs"].shape[1]
    console.stage("features", f"{dim} of each of {number:,} images", time.monotonic() - started)
    print(f"use it: --dataset npz:{config.out}")
    return config.out


def _check_images(found: Dataset) -> None:
    inputs = found.train_inputs
    shape = inputs.shape
    ends = [(block.min(), block.max()) for block in mapped.blocks(inputs)]
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    if inputs.ndim != 4 or shape[-1] not in (1, 3) or low < 0 or high > 1:
        raise InputError(
            f"expected images in {found.name}, [n, height, width, 1 or 3] with pixels from 0 to 1 "
            f"or bytes, found {list(shape)} from {low:g} to {high:g}; choose "
            "another --dataset"
        )


def _arrays(found: Dataset, extract: Extract, batch_size: int) -> dict[str, np.ndarray]:
    """What the file holds."""
    arrays = {"targets": np.asarray(found.train_targets)}
    arrays["inputs"] = _features(extract, found.train_inputs, batch_size)
    if found.test_inputs is not None and found.test_targets is not None:
        arrays["test_targets"] = np.asarray(found.test_targets)
        arrays["test_inputs"] = _features(extract, found.test_inputs, batch_size)
    return arrays


def _features(
    extract: Extract, images: Float[np.ndarray, "n h w c"] | Mapped, batch_size: int
) -> Float[np.ndarray, "n p"]:
    rows = []
    with progress("features", len(images), "images") as advance:
        for first in range(0, len(images), batch_size):
            rows.append(extract(images[first : first + batch_size]))
            advance(len(rows[-1]))
    return np.concatenate(rows)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    return cli.main("extract_features", ExtractConfig, run, argv)


if __name__ == "__main__":
    cli.leave(main())
