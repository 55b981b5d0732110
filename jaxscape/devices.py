"""Many devices: meshes, where arrays live on them, and what devices exchange in a sweep."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int

from jaxscape.arguments import explained
from jaxscape.batching import Chunks, length_of
from jaxscape.prefix import Steps
from jaxscape.reductions import Reduction, State
from jaxscape.trees import automatic, is_traced
from jaxscape.types import Batch, InputError


@explained
def mesh(*, points: int = 1, samples: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of ``points`` × ``samples`` devices, by default the first that JAX sees.

    A sweep spreads its points over one axis, which costs one exchange of curves, and the samples
    of each chunk over the other, which costs one of prefix totals for each block of points. In a
    Hessian product all devices share the samples. With several hosts (``jax.distributed``) every
    process makes the same calls.

    >>> dict(mesh(points=1, samples=1).shape)
    {'points': 1, 'samples': 1}

    Raises:
        InputError: an axis below 1, or fewer devices than asked for.
    """
    found = jax.devices() if devices is None else devices
    if points < 1 or samples < 1 or points * samples > len(found):
        raise InputError(
            f"expected points and samples of at least 1 and a product of at most {len(found)}, "
            f"the devices that JAX sees, found {points} and {samples}; lower them"
        )
    used, types = list(found)[: points * samples], (jax.sharding.AxisType.Auto,) * 2
    return jax.make_mesh((points, samples), ("points", "samples"), axis_types=types, devices=used)


def sizes(mesh: Mesh | None) -> tuple[int, int]:
    """The number of devices over points and over samples; one where there is no mesh."""
    if mesh is None:
        return 1, 1
    if not {"points", "samples"} <= set(mesh.axis_names):
        found = f"found {mesh.axis_names}; make it with devices.mesh"
        raise InputError(f"expected a mesh with the axes points and samples, {found}")
    return mesh.shape["points"], mesh.shape["samples"]


def place(tree: Any, mesh: Mesh, *axes: str) -> Any:
    """The arrays on the mesh, their first axis split over ``axes``, or whole on every device."""
    sharding = NamedSharding(mesh, PartitionSpec(axes) if axes else PartitionSpec())

    def leaf(x: Any) -> Any:
        if isinstance(x, jax.core.Tracer):  # a compiled program says itself where it goes
            return x
        if sharding.is_fully_addressable or not getattr(x, "is_fully_addressable", True):
            return jax.device_put(x, sharding)
        x = x if isinstance(x, jax.Array) else np.asarray(x)  # the same in each process
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(leaf, tree)


def local(tree: Any) -> Any:
    """Arrays whole on every device of a mesh, as those of this process's first; not traced ones."""
    return tree if is_traced(tree) else jax.tree.map(lambda x: x.addressable_data(0), tree)


def sharding_of(leaf: Any) -> NamedSharding | None:
    """How an array lies, where that is in parts on several devices and not under a trace."""
    own = None if is_traced(leaf) else getattr(leaf, "sharding", None)
    if not isinstance(own, NamedSharding) or own.is_fully_replicated:
        return None
    if AxisType.Explicit in (own := automatic(own)).mesh.axis_types:
        said = "expected arrays on a mesh of automatic axes in jax.set_mesh, found explicit ones"
        raise InputError(f"{said}; wrap the call in jax.sharding.auto_axes, or leave set_mesh")
    return own


def beside(found: Array, given: Any) -> Array:
    """What was found on automatic axes, where an array given on explicit ones lies."""
    own = None if is_traced((found, given)) else getattr(given, "sharding", None)
    return found if own is None or automatic(own) is own else jax.device_put(found, own)


def share(data: Batch, mesh: Mesh) -> Batch:
    """The samples on the mesh in order, the last repeated until every device has as many."""
    n = length_of(data)
    if n % mesh.size:
        index = np.minimum(np.arange(math.ceil(n / mesh.size) * mesh.size), n - 1)
        data = jax.tree.map(lambda leaf: leaf[index], data)
    return place(data, mesh, *mesh.axis_names)


def deal(data: Batch, samples: Chunks, mesh: Mesh) -> Batch:
    """The data on the mesh: along the samples axis each device holds its own chunks, end to end."""
    if sizes(mesh)[1] == 1:
        return place(data, mesh)
    mine = samples.starts[_turns(samples, mesh), None] + np.arange(samples.size)
    return place(jax.tree.map(lambda leaf: leaf[mine.ravel()], data), mesh, "samples")


def _turns(samples: Chunks, mesh: Mesh) -> Int[np.ndarray, "c"]:
    """The chunks of one device after another: dealt in turn, they are neighbours at any time."""
    return np.arange(samples.num).reshape(-1, sizes(mesh)[1]).T.ravel()


def over(walk: Callable, samples: Chunks, mesh: Mesh, *held: Any) -> tuple[Any, Any]:
    """``walk(loss, probe, data, carry, chunks, blocks)`` by all devices; the results are whole."""
    along, turns = sizes(mesh)[1], _turns(samples, mesh)
    each, of_points, of_samples = PartitionSpec(), PartitionSpec("points"), PartitionSpec("samples")
    inputs = each, each, of_samples, of_points, of_samples, of_points
    specs: dict[str, Any] = {"in_specs": inputs, "out_specs": (of_points, of_samples)}
    # Unchecked: a loss may hold a loop, whose carry would have to be marked as varying.
    spread = jax.shard_map(walk, mesh=mesh, **specs, check_vma=False)
    *first, (starts, fresh), blocks = held
    if along > 1:  # in what ``deal`` gave each
        starts = np.tile(np.arange(samples.num // along, dtype=np.int32) * samples.size, along)
    found = spread(*first, (starts, fresh[turns]), blocks)
    carry, rows = jax.lax.with_sharding_constraint(found, NamedSharding(mesh, each))
    return carry, jax.tree.map(lambda leaf: leaf[np.argsort(turns)], rows)


def update(
    reduction: Reduction, mesh: Mesh | None, state: State, steps: Steps, index: Array, weight: Array
) -> State:
    """The reduction's update by one device; states by point include all devices' samples."""
    by_point, by_sample = reduction.update(state, steps, index, weight)
    if mesh is None:
        return by_point, by_sample
    if sizes(mesh)[1] > 1 and jax.tree.leaves(by_point):
        # Chunks lie side by side on the devices: a point's state needs the samples of all.
        gather = functools.partial(jax.lax.all_gather, axis_name="samples", tiled=True)
        whole = jax.tree.map(lambda x: gather(x, axis=x.ndim - 1), steps)
        unused = reduction.init(len(index), len(whole.k))[1]
        by_point, _ = reduction.update((state[0], unused), whole, index, weight)
    some = weight.any()  # a device may have no point that another has not met
    return by_point, jax.tree.map(lambda a, b: jnp.where(some, a, b), by_sample, state[1])


def merge(reduction: Reduction, rows: Any, mesh: Mesh | None) -> Any:
    """What was kept of each chunk's samples, at the points of all devices."""
    if sizes(mesh)[0] == 1 or not jax.tree.leaves(rows):
        return rows
    if (join := reduction.merge) is None:
        said = "expected a reduction with merge where devices share the points, found none"
        raise InputError(f"{said}; give Reduction one, or make the mesh of samples alone")

    def chunk(by_sample: Any) -> Any:
        parts = jax.lax.all_gather(by_sample, "points")
        first, rest = jax.tree.map(lambda x: x[0], parts), jax.tree.map(lambda x: x[1:], parts)
        return jax.lax.scan(lambda whole, part: (join(whole, part), None), first, rest)[0]

    return jax.lax.map(chunk, rows)
