"""Where arrays live when there are many devices."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxscape.chunks import length_of
from jaxscape.types import Batch, InputError


def mesh(*, points: int = 1, samples: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of ``points`` × ``samples`` devices, by default the first that JAX sees.

    A sweep spreads its points over the one axis, which costs a single exchange of curves, and the
    samples of each chunk over the other, which costs an exchange of prefix totals for each block of
    points. Where samples alone are summed over, as in a Hessian product, all devices share them.
    With several hosts (``jax.distributed``) every process makes the same calls.

    Raises:
        InputError: an axis below 1, or fewer devices than asked for.
    """
    found = jax.devices() if devices is None else devices
    if points < 1 or samples < 1 or points * samples > len(found):
        raise InputError(
            f"expected points and samples of at least 1 and a product of at most {len(found)}, "
            f"the devices that JAX sees, found {points} and {samples}; lower them"
        )
    return jax.make_mesh(
        (points, samples),
        ("points", "samples"),
        axis_types=(jax.sharding.AxisType.Auto,) * 2,
        devices=list(found)[: points * samples],
    )


def sizes(mesh: Mesh | None) -> tuple[int, int]:
    """The number of devices over points and over samples; one where there is no mesh."""
    if mesh is None:
        return 1, 1
    if not {"points", "samples"} <= set(mesh.axis_names):
        raise InputError(
            f"expected a mesh with the axes points and samples, found {mesh.axis_names}; "
            "make it with sharding.mesh"
        )
    return mesh.shape["points"], mesh.shape["samples"]


def place(tree: Any, mesh: Mesh, *axes: str) -> Any:
    """The arrays on the mesh, their first axis split over ``axes``, or whole on every device.

    With several hosts each process holds the same arrays, and puts what its devices need on them.
    What is traced is left as it is: within a compiled program, the program says where it goes.
    """
    sharding = NamedSharding(mesh, PartitionSpec(axes) if axes else PartitionSpec())

    def leaf(x: Any) -> Any:
        if isinstance(x, jax.core.Tracer):
            return x
        if sharding.is_fully_addressable or not getattr(x, "is_fully_addressable", True):
            return jax.device_put(x, sharding)
        x = x if isinstance(x, jax.Array) else np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(leaf, tree)


def share(data: Batch, mesh: Mesh) -> Batch:
    """The samples on the mesh, as many on each device, in order.

    The last sample is repeated until every device has as many; the copies must not be counted.
    """
    n = length_of(data)
    padded = math.ceil(n / mesh.size) * mesh.size
    if padded > n:
        index = np.minimum(np.arange(padded), n - 1)
        data = jax.tree.map(lambda leaf: leaf[index], data)
    return place(data, mesh, *mesh.axis_names)


def local(tree: Any) -> Any:
    """Arrays that are whole on every device of a mesh, as those of this process's first device.

    Left as they are where one of them is traced.
    """
    if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(tree)):
        return tree
    return jax.tree.map(lambda x: x.addressable_data(0), tree)
