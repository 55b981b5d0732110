"""Which points of parameter space to evaluate: Gaussian, Sobol', isotropic, grid, line, given.

A probe makes one point at a time: a million points of a large network never exist together.
"""

import math
from dataclasses import dataclass, field, replace
from typing import no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key, UInt32

from jaxscape.arguments import explained
from jaxscape.subspace import Subspace, gaussian_like
from jaxscape.trees import automatic, check_floating, owned, short, working
from jaxscape.types import InputError, Params, Scalar

BITS = 23  # binary digits of a Sobol' coordinate: with half a step added, float32 holds them
RANDOMISATIONS = 8


@jax.tree_util.register_dataclass
@no_type_check  # JAX rebuilds pytrees with anything in place of their arrays
@dataclass(frozen=True)
class SubspaceProbe:
    """Points w(θ) of a subspace."""

    space: Subspace
    coordinates: Float[Array, "m d"]
    groups: int | None = field(default=None, metadata={"static": True})
    """Independent groups of equal size, in a row; None where each point is independent."""

    @property
    def num_points(self) -> int:
        """The number m of points."""
        return self.coordinates.shape[0]

    def at(self, index: Int[ArrayLike, ""]) -> Params:
        """w(θ_index)."""
        return self.space.at(self.coordinates[index])


@jax.tree_util.register_dataclass
@no_type_check
@dataclass(frozen=True)
class IsotropicProbe:
    """Points w* + σ z, z standard normal over all P parameters, drawn anew from the index."""

    origin: Params
    key: Key[Array, ""]
    sigma: Float[Array, ""]
    num_points: int = field(metadata={"static": True})

    def at(self, index: Int[ArrayLike, ""]) -> Params:
        """w* + σ z_index, in float32 where w* is held in half precision."""
        origin = working(self.origin)
        step = gaussian_like(jax.random.fold_in(self.key, index), origin)
        return jax.tree.map(lambda w, z: (w + self.sigma * z).astype(w.dtype), origin, step)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SingleProbe:
    """The one point w*."""

    params: Params
    num_points: int = field(default=1, metadata={"static": True})

    def at(self, index: Int[ArrayLike, ""]) -> Params:
        """w*, in float32 where it is held in half precision."""
        return working(self.params)


@explained
def gaussian(key: Key[Array, ""], space: Subspace, num_points: int, sigma: Scalar) -> SubspaceProbe:
    """θ ~ N(0, σ² I_d) along all d directions; a key draws the same normals at every sigma.

    Raises an ``InputError`` for num_points < 1, or a sigma that is negative or not finite.

    >>> import jax, jax.numpy as jnp, jaxscape as js
    >>> space = js.Subspace(jnp.zeros(3), jnp.eye(3))
    >>> probe = js.gaussian(jax.random.key(0), space, num_points=10_000, sigma=0.1)
    >>> [f"{x:.2f}" for x in probe.coordinates.std(0)]
    ['0.10', '0.10', '0.10']

    Args:
        key, space, num_points: Draws the points; where they lie; their number m.
        sigma: The standard deviation σ of the step along each direction.
    """
    check(num_points, sigma)
    return points(space, sigma * jax.random.normal(key, (num_points, space.dim)))


@explained
def sobol(
    key: Key[Array, ""],
    space: Subspace,
    num_points: int,
    sigma: Scalar,
    *,
    randomisations: int = RANDOMISATIONS,
) -> SubspaceProbe:
    """θ ~ N(0, σ² I_d), each point by itself, from Sobol' nets that fill the space evenly.

    The mean over a net of a slowly varying function has an error far below m^(−1/2). The points are
    ``randomisations`` nets of equal size, one after the other, each scrambled on its own (Matoušek
    1998, random linear scrambling with a digital shift), so that every point is Gaussian and the
    means over nets are independent. From these ``delta`` forms its standard error, with
    randomisations − 1 degrees of freedom. Whatever else takes the points as independent, such as
    ``loss_variance``, gives intervals that are too wide. Raises as ``gaussian`` does, and for fewer
    than two nets or more directions than SciPy's 21201.

    >>> import jax, jax.numpy as jnp, jaxscape as js
    >>> space = js.Subspace(jnp.zeros(1), jnp.eye(1))
    >>> probe = js.sobol(jax.random.key(0), space, num_points=16, sigma=1.0)
    >>> (probe.coordinates > 0).reshape(8, 2).sum(1).tolist()  # one of two in each half
    [1, 1, 1, 1, 1, 1, 1, 1]

    Args:
        key, space, sigma: As for ``gaussian``.
        num_points, randomisations: The number m of points, in nets of 1, 2, 4, 8, ... points each.
    """
    from scipy.stats import qmc  # a second to import, and only needed here

    check(num_points, sigma)
    if not fits(num_points, randomisations):
        said = "expected at least 2 randomisations of 1, 2, 4, 8, ... points each"
        raise InputError(f"{said}, found {num_points} points in {randomisations}; change either")
    if space.dim > (most := qmc.Sobol.MAXDIM):
        said = f"expected at most {most} directions for Sobol' points, found {space.dim}"
        raise InputError(f"{said}; use gaussian(...)")
    net = qmc.Sobol(space.dim, scramble=False, bits=BITS).random(num_points // randomisations)
    keys = jax.random.split(key, randomisations)
    normals = _normals(keys, jnp.asarray(net * 2**BITS, jnp.uint32))
    return replace(points(space, sigma * normals), groups=randomisations)


def fits(num_points: int, randomisations: int = RANDOMISATIONS) -> bool:
    """Whether so many points are nets of 1, 2, 4, 8, ... points each."""
    whole = num_points >= 1 and randomisations >= 2 and num_points % randomisations == 0
    return whole and (num_points // randomisations).bit_count() == 1


@jax.jit
def _normals(keys: Key[Array, "nets"], net: UInt32[Array, "size d"]) -> Float[Array, "m d"]:
    """Standard normals from the net, scrambled with each key: a digit flips random lower ones."""
    d = net.shape[1]
    digit = jnp.asarray(1 << np.arange(BITS), jnp.uint32)

    def scrambled(key: Key[Array, ""]) -> Float[Array, "size d"]:
        for_digits, for_shift = jax.random.split(key)
        carried = digit | (jax.random.bits(for_digits, (d, BITS), jnp.uint32) & (digit - 1))
        found = jnp.where(net[:, :, None] & digit, carried, 0)
        shift = jax.random.bits(for_shift, (d,), jnp.uint32) >> (32 - BITS)
        u = (jnp.bitwise_xor.reduce(found, axis=-1) ^ shift).astype(jnp.float32)
        return ndtri((u + 0.5) / 2**BITS)

    return jax.vmap(scrambled)(keys).reshape(-1, d)


@explained
def isotropic(
    key: Key[Array, ""], params: Params, num_points: int, sigma: Scalar
) -> IsotropicProbe:
    """w ~ N(w*, σ² I_P) over all parameters; raises as ``gaussian`` does."""
    check_floating(params)
    check(num_points, sigma)
    params = jax.tree.map(jnp.asarray, owned(params))
    jax.eval_shape(jax.random.fold_in, key, 0)  # a wrong key is told of here, not at a point
    own_key, scale = automatic((key, jnp.asarray(sigma)))
    return IsotropicProbe(params, own_key, scale, num_points)


@explained
def grid(space: Subspace, radius: Scalar, num: int) -> SubspaceProbe:
    """``num`` × ``num`` points over [−radius, radius]² along the first two directions.

    Point ``i * num + j`` lies at θ_1 = steps[i], θ_2 = steps[j]. Raises as ``gaussian`` does.

    >>> import jax.numpy as jnp, jaxscape as js
    >>> js.grid(js.Subspace(jnp.zeros(2), jnp.eye(2)), radius=1.0, num=2).coordinates.tolist()
    [[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]]

    Args:
        space: A subspace of at least two directions; further ones stay at 0.
        radius, num: How far the points go along each of the two, and how many they are.
    """
    check(num, radius)
    if space.dim < 2:
        raise InputError(f"expected at least 2 directions for a grid, found {space.dim}; use line")
    steps = jnp.linspace(-radius, radius, num)
    plane = jnp.stack(jnp.meshgrid(steps, steps, indexing="ij"), -1).reshape(num * num, 2)
    return points(space, jnp.zeros((num * num, space.dim)).at[:, :2].set(plane))


@explained
def line(space: Subspace, radius: Scalar, num: int) -> SubspaceProbe:
    """``num`` equidistant points from −radius to radius along the first direction.

    The line from one network to another:

    >>> import jax, jax.numpy as jnp, jaxscape as js
    >>> a, b = jnp.zeros(3), jnp.array([1.0, 2.0, 0.0])
    >>> way = js.Subspace(a, jax.tree.map(lambda x, y: (y - x)[None], a, b))
    >>> probe = js.points(way, jnp.linspace(0, 1, 3)[:, None])
    >>> [probe.at(i).tolist() for i in range(3)]
    [[0.0, 0.0, 0.0], [0.5, 1.0, 0.0], [1.0, 2.0, 0.0]]
    """
    check(num, radius)
    steps = jnp.linspace(-radius, radius, num)
    return points(space, jnp.zeros((num, space.dim)).at[:, 0].set(steps))


@explained
def points(space: Subspace, coordinates: Float[ArrayLike, "m d"]) -> SubspaceProbe:
    """The points w(θ) for the rows θ; an ``InputError`` unless they are [m ≥ 1, d]."""
    space.check()
    shape = jnp.shape(coordinates)
    if len(shape) != 2 or shape[0] < 1 or shape[1] != space.dim:
        wanted = f"coordinates of shape (points, {space.dim}) in this subspace"
        raise InputError(f"expected {wanted}, found {shape}; give one row per point")
    return SubspaceProbe(space, jnp.array(automatic(coordinates)))


@explained
def single(params: Params) -> SingleProbe:
    """The parameters themselves, one point."""
    check_floating(params)
    return SingleProbe(owned(params))


def check(num_points: int, scale: Scalar) -> None:
    """Raise an ``InputError`` for no points, or a sigma or radius that cannot be used."""
    if not isinstance(num_points, int | np.integer) or num_points < 1:
        raise InputError(f"expected at least 1 point, found {short(num_points)}; raise the number")
    if not isinstance(scale, jax.core.Tracer) and not 0 <= scale < math.inf:
        raise InputError(f"expected a finite sigma or radius, 0 or more, found {scale}; change it")
