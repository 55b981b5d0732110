"""Features of a data set's images by a Vision Transformer, as an npz: data set."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float

from experiments.common import cli, console
from experiments.common.config import default
from experiments.common.console import progress
from jaxscape import InputError
from jaxscape.lab import data
from jaxscape.lab.data import Dataset
from jaxscape.lab.stream import blocks

Extract = Callable[[Float[np.ndarray, "n h w c"]], Float[np.ndarray, "n p"]]
"""From images in [0, 1] to features."""

BATCH = 64  # images per pass


@dataclass(frozen=True)
class ExtractConfig:
    """Features of a data set's images by a Vision Transformer, as an npz: data set.

    Prepares the images as the model's own image processor says (size, mean, standard deviation),
    runs the model without gradients, and keeps of each image the class token's output after the
    last layer. The file serves the other commands as --dataset npz:FILE. Needs PyTorch and
    transformers: pip install -e '.[features]'. A ViT of base size takes a CPU hours for 60,000
    images.

    Examples:
        python -m experiments.extract_features --dataset cifar10 --out features.npz
    """

    out: Path
    """The npz file to write, which must not exist."""
    dataset: str = "auto"
    """A name below, npz:PATH, tfds:NAME, or auto: MNIST where it can be had, else glyphs."""
    data_dir: Annotated[str | None, default("JAXSCAPE_DATA_DIR, else a download")] = None
    """Folder with the data set's files."""
    model: str = "google/vit-base-patch16-224-in21k"
    """Name on the Hugging Face hub, or a folder saved with save_pretrained."""

    def check(self) -> None:
        """Raise an ``InputError`` for a setting that cannot be used."""
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
    extract = vision_transformer(config.model)
    if found.note:
        print(f"note: {found.note}")
    print(f"data: {found.name} ({found.source})", flush=True)
    with (
        console.timed("features", "of each image"),
        data.replacing(config.out) as file,  # opened first: an unwritable place is told now
    ):
        arrays: dict[str, Any] = _arrays(found, extract)
        np.savez(file, **arrays)
    print(f"use it: --dataset npz:{config.out}")
    return config.out


def vision_transformer(name: str) -> Extract:
    """``extract(images)``: the class token's output after the last layer, ``p`` numbers per image.

    ``name`` is that of a model on the Hugging Face hub, or a folder. Images in [0, 1] are rounded
    to bytes, grey ones repeated for each of the model's channels, and prepared by the model's image
    processor. No gradient is taken. Runs on a GPU where PyTorch has one.

    Raises:
        InputError: no PyTorch or transformers, no such model, or one without a class token.
    """
    try:
        import torch
        import transformers
    except ImportError as error:
        raise InputError(
            f"expected PyTorch and transformers, found no {error.name}; "
            "pip install -e '.[features]'"
        ) from error
    model, processor = _pretrained(transformers, name)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = model.to(device, torch.float32).eval()

    def extract(images: Float[np.ndarray, "n h w c"]) -> Float[np.ndarray, "n p"]:
        given, wanted = images.shape[-1], model.config.num_channels
        if given not in (1, wanted):
            raise InputError(
                f"expected images of {wanted} channels for {name}, found {given}; choose another "
                "model"
            )
        raw = np.repeat(np.rint(255 * images).astype(np.uint8), wanted // given, axis=-1)
        ready = processor(list(raw), return_tensors="pt", input_data_format="channels_last")
        with torch.inference_mode():
            found = model(pixel_values=ready["pixel_values"].to(device, torch.float32))
        return found.last_hidden_state[:, 0].cpu().numpy()

    return extract


def _pretrained(transformers: Any, name: str) -> tuple[Any, Any]:
    """The model and its image processor."""
    folder = Path(name).expanduser()
    where, local = (str(folder), True) if folder.is_dir() else (name, data.is_offline())
    try:
        model = transformers.AutoModel.from_pretrained(where, local_files_only=local)
        if not hasattr(getattr(model, "embeddings", None), "cls_token"):
            raise InputError(
                f"expected a Vision Transformer with a class token as {name}, found "
                f"{type(model).__name__}; choose a ViT, DeiT, BEiT or DINOv2"
            )
        return model, transformers.AutoImageProcessor.from_pretrained(where, local_files_only=local)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(
            f"expected a model {name} with its image processor, found: {reason}; give --model a "
            "folder saved with save_pretrained, or a name on the hub with a network and no "
            "JAXSCAPE_OFFLINE"
        ) from error


def _check_images(found: Dataset) -> None:
    inputs = found.train_inputs
    shape = inputs.shape
    ends = [(block.min(), block.max()) for block in blocks(inputs)]
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    if inputs.ndim != 4 or shape[-1] not in (1, 3) or low < 0 or high > 1:
        raise InputError(
            f"expected images in {found.name}, [n, height, width, 1 or 3] with pixels from 0 to 1 "
            f"or bytes, found {list(shape)} from {low:g} to {high:g}; choose "
            "another --dataset"
        )


def _arrays(found: Dataset, extract: Extract) -> dict[str, np.ndarray]:
    """What the file holds: features and targets of each split."""
    arrays = {}
    splits = {"": (found.train_inputs, found.train_targets)}
    if found.test_inputs is not None and found.test_targets is not None:
        splits["test_"] = found.test_inputs, found.test_targets
    for split, (images, targets) in splits.items():
        rows = []
        with progress("features", len(images), "images") as advance:
            for first in range(0, len(images), BATCH):
                rows.append(extract(images[first : first + BATCH]))
                advance(len(rows[-1]))
        arrays[f"{split}targets"] = np.asarray(targets)
        arrays[f"{split}inputs"] = np.concatenate(rows)
    return arrays


main = partial(cli.main, "extract_features", ExtractConfig, run)
"""The command; its exit status."""

if __name__ == "__main__":
    cli.leave(main())
