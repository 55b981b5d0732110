"""A Vision Transformer of transformers as a function from images to features."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxscape import InputError

Extract = Callable[[Float[np.ndarray, "n h w c"]], Float[np.ndarray, "n p"]]


def load(name: str) -> Extract:
    """``extract(images)``: the class token's output after the last layer, ``p`` numbers per image.

    ``name`` is that of a model on the Hugging Face hub, or a folder. Images are in [0, 1]; they are
    resized to the model's size (bilinear, antialiased), grey ones repeated for each of its
    channels, and normalised by the mean and standard deviation of its preprocessor_config.json,
    0.5 where it has none. No gradient is taken. Runs on a GPU where PyTorch has one.

    Raises:
        InputError: no PyTorch or transformers, no such model, or one without a class token.
    """
    torch, transformers = _libraries()
    model, normalisation = _pretrained(transformers, name)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = model.to(device, torch.float32).eval()
    mean, std = (
        torch.tensor(values, dtype=torch.float32, device=device).reshape(-1, 1, 1)
        for values in normalisation
    )

    def extract(images: Float[np.ndarray, "n h w c"]) -> Float[np.ndarray, "n p"]:
        with torch.inference_mode():
            pixels = torch.tensor(images, device=device).permute(0, 3, 1, 2)
            pixels = torch.nn.functional.interpolate(
                pixels, _size(model), mode="bilinear", antialias=True
            )
            pixels = pixels.expand(-1, _channels(model, images.shape[-1], name), -1, -1)
            found = model(pixel_values=(pixels - mean) / std)
            return found.last_hidden_state[:, 0].cpu().numpy()

    return extract


def _pretrained(transformers: Any, name: str) -> tuple[Any, tuple[list[float], list[float]]]:
    """The model, and the mean and standard deviation of its pixels."""
    folder, offline = Path(name).expanduser(), os.environ.get("JAXSCAPE_OFFLINE", "0")
    local = folder.is_dir() or offline not in ("", "0")
    where = str(folder) if folder.is_dir() else name
    try:
        model = transformers.AutoModel.from_pretrained(where, local_files_only=local)
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(
            f"expected a model {name}, found: {reason}; give --model a folder saved with "
            "save_pretrained, or a name on the hub with a network and no JAXSCAPE_OFFLINE"
        ) from error
    if not hasattr(getattr(model, "embeddings", None), "cls_token"):
        raise InputError(
            f"expected a Vision Transformer with a class token as {name}, found "
            f"{type(model).__name__}; choose a ViT, DeiT, BEiT or DINOv2"
        )
    return model, _normalisation(transformers, where, local)


def _libraries() -> tuple[Any, Any]:
    try:
        import torch
        import transformers
    except ImportError as error:
        raise InputError(
            f"expected PyTorch and transformers, found no {error.name}; "
            "pip install -e '.[features]'"
        ) from error
    return torch, transformers


def _normalisation(transformers: Any, where: str, local: bool) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of the pixels, per channel or of all."""
    read = transformers.ImageProcessingMixin.get_image_processor_dict
    try:
        stored = read(where, local_files_only=local)[0]
    except OSError:
        stored = {}
    mean, std = (stored.get(key) or [0.5] for key in ("image_mean", "image_std"))
    return mean, std


def _size(model: Any) -> tuple[int, int]:
    size = model.config.image_size
    return (size, size) if isinstance(size, int) else tuple(size)


def _channels(model: Any, given: int, name: str) -> int:
    """The model's channels; an ``InputError`` where the images have others and are not grey."""
    wanted = model.config.num_channels
    if given not in (1, wanted):
        raise InputError(
            f"expected images of {wanted} channels for {name}, found {given}; choose another model"
        )
    return wanted
