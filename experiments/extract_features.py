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
from jaxscape import InputError
from jaxscape.lab import data
from jaxscape.lab.data import Dataset
from jaxscape.lab.stream import blocks

Extract = Callable[[Float[np.ndarray, "n h w c"]], Float[np.ndarray, "n p"]]

BATCH = 64  # images per pass


@dataclass(frozen=True)
class ExtractConfig:
    """Features of a data set's images by a Vision Transformer, as an npz: data set.

    Prepares the images as the model's own image processor says (size, mean, standard deviation),
    runs the model without gradients, and keeps of each image the class token's output after the
    last layer. The file serves the other commands as --dataset npz:FILE. Needs PyTorch and
    transformers: pip install -e '.[features]'. On a CPU 60,000 images take a base ViT hours.

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


def run(config: ExtractConfig) -> None:
    """Write the file, and say what it holds."""
    if config.out.suffix != ".npz":
        raise InputError(f"expected --out to end in .npz, found {config.out}; change it")
    if config.out.exists():
        raise InputError(f"expected no file at {config.out}, found one; choose another --out")
    found = data.load(config.dataset, data_dir=config.data_dir)
    extract, channels = vision_transformer(config.model)
    shape = found.train_inputs.shape
    low, high = np.array([(x.min(), x.max()) for x in blocks(found.train_inputs)]).T
    if len(shape) != 4 or shape[-1] not in (1, channels) or low.min() < 0 or high.max() > 1:
        raise InputError(
            f"expected images in {found.name}, [n, height, width, 1 or {channels}] with pixels "
            f"from 0 to 1 or bytes, found {list(shape)} from {low.min():g} to {high.max():g}; "
            "choose another --dataset"
        )
    if found.note:
        print(f"note: {found.note}")
    print(f"data: {found.name} ({found.source})", flush=True)
    with (
        console.timed("features", "of each image"),
        data.replacing(config.out) as file,  # opened first: an unwritable place is told now
    ):
        np.savez(file, **_arrays(found, extract))
    print(f"use it: --dataset npz:{config.out}")


def vision_transformer(name: str) -> tuple[Extract, int]:
    """``extract(images)``: the class token's output after the last layer; the model's channels.

    Images in [0, 1] are rounded to bytes, grey ones repeated for each of the model's channels, and
    prepared by the model's image processor. Runs on a GPU where PyTorch has one.

    Raises:
        InputError: no PyTorch or transformers, no such model, or one without a class token.
    """
    torch, model, processor = _pretrained(name)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = model.to(device, torch.float32).eval()
    channels = model.config.num_channels

    def extract(images: Float[np.ndarray, "n h w c"]) -> Float[np.ndarray, "n p"]:
        raw = np.rint(255 * images).astype(np.uint8)
        raw = np.repeat(raw, channels // images.shape[-1], axis=-1)
        ready = processor(list(raw), return_tensors="pt", input_data_format="channels_last")
        with torch.inference_mode():
            found = model(pixel_values=ready["pixel_values"].to(device, torch.float32))
        return found.last_hidden_state[:, 0].cpu().numpy()

    return extract, channels


def _pretrained(name: str) -> tuple[Any, Any, Any]:
    """PyTorch, the model and its image processor."""
    try:
        import torch
        import transformers
    except ImportError as error:
        raise InputError(
            f"expected PyTorch and transformers, found no {error.name}; "
            "pip install -e '.[features]'"
        ) from error
    folder = Path(name).expanduser()
    where, local = (str(folder), True) if folder.is_dir() else (name, data.is_offline())
    try:
        model = transformers.AutoModel.from_pretrained(where, local_files_only=local)
        if not hasattr(getattr(model, "embeddings", None), "cls_token"):
            raise ValueError(f"{type(model).__name__}, unlike a ViT, DeiT, BEiT or DINOv2")
        processor = transformers.AutoImageProcessor.from_pretrained(where, local_files_only=local)
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(
            f"expected a model {name} with a class token and its image processor, found: {reason}; "
            "give --model a folder saved with save_pretrained, or a name on the hub with a network "
            "and no JAXSCAPE_OFFLINE"
        ) from error
    return torch, model, processor


def _arrays(found: Dataset, extract: Extract) -> dict[str, Any]:
    """What the file holds: features and targets of each split."""
    arrays, splits = {}, {"": (found.train_inputs, found.train_targets)}
    if found.test_inputs is not None and found.test_targets is not None:
        splits["test_"] = found.test_inputs, found.test_targets
    for name, (split, targets) in splits.items():
        arrays[f"{name}targets"], rows = np.asarray(targets), []
        with console.progress("features", len(split), "images") as advance:
            for first in range(0, len(split), BATCH):
                rows.append(extract(split[first : first + BATCH]))
                advance(len(rows[-1]))
        arrays[f"{name}inputs"] = np.concatenate(rows)
    return arrays


main = partial(cli.main, "extract_features", ExtractConfig, run)
"""The command; its exit status."""

if __name__ == "__main__":
    cli.leave(main())
