"""What a result depends on besides the code: settings, data, versions, devices."""

import platform
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from jaxscape.lab.data import Dataset

PACKAGES = (
    "jaxscape-loss",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
    "matplotlib",
    "pillow",
)


def facts(dataset: Dataset, config: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """The content of ``config.json``; ``settings`` are those that the result depends on."""
    given = {name: value for name, value in asdict(config).items() if name not in settings}
    return {
        "settings": settings,
        "other_settings": {n: str(v) if isinstance(v, Path) else v for n, v in given.items()},
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
