"""What a result depends on besides the code: settings, data, versions, devices."""

import platform
from importlib import metadata
from typing import Any

import jax

from jaxscape.lab.dataset import Dataset

PACKAGES = ("jaxscape-loss", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def facts(dataset: Dataset, settings: dict[str, Any]) -> dict[str, Any]:
    """The content of ``config.json``."""
    return {
        "settings": settings,
        "dataset": {
            "name": dataset.name,
            "source": dataset.source,
            "note": dataset.note,
            "sha256": dataset.sha256,
        },
        "versions": {"python": platform.python_version()} | {p: _version(p) for p in PACKAGES},
        "devices": [f"{device.platform}: {device.device_kind}" for device in jax.devices()],
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
