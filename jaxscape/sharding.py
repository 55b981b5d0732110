"""Where arrays live when there are many devices."""

from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from jaxscape.types import InputError


def points_mesh(num_devices: int) -> Mesh:
    """A mesh of the first ``num_devices`` devices over which the points of a probe are spread.

    Raises:
        InputError: fewer devices than asked for.
    """
    found = jax.device_count()
    if not 1 <= num_devices <= found:
        raise InputError(
            f"expected from 1 to {found} devices, as many as JAX sees here "
            f"({jax.default_backend()}), found {num_devices}; change --devices"
        )
    return jax.make_mesh(
        (num_devices,),
        ("points",),
        axis_types=(jax.sharding.AxisType.Auto,),
        devices=jax.devices()[:num_devices],
    )


def replicate(tree: Any, mesh: Mesh) -> Any:
    """A copy of every array of ``tree`` on each device of the mesh."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def spread(index: Array, mesh: Mesh | None) -> Array:
    """Within a compiled program: split ``index``, and what is computed from it, over the points."""
    if mesh is None:
        return index
    return jax.lax.with_sharding_constraint(index, NamedSharding(mesh, PartitionSpec("points")))
