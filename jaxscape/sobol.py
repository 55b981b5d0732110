"""Scrambled Sobol' points, a Gaussian probe whose means need fewer of them."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri
from jaxtyping import Array, Float, Int, Key

from jaxscape.probes import SubspaceProbe, check
from jaxscape.subspace import Subspace
from jaxscape.types import InputError

BITS = 23
"""Binary digits of a coordinate: with half a step added, float32 holds them exactly."""
RANDOMISATIONS = 8


def sobol(
    key: Key[Array, ""],
    space: Subspace,
    num_points: int,
    sigma: float,
    *,
    randomisations: int = RANDOMISATIONS,
) -> SubspaceProbe:
    """θ ~ N(0, σ² I_d), each point by itself, from nets that fill the space evenly.

    In place of ``gaussian``: the mean over a Sobol' net of a function that varies slowly has an
    error far below m^(−1/2). The points are ``randomisations`` nets of equal size, one after the
    other, each scrambled on its own (Matoušek 1998, random linear scrambling with a digital
    shift), so that every point is Gaussian and the means over nets are independent. From these
    ``delta`` forms its standard error, with randomisations − 1 degrees of freedom. Whatever else
    takes the points as independent, such as ``evidence.loss_variance``, is too cautious.

    Raises:
        InputError: nets that are not of 1, 2, 4, 8, ... points; fewer than two; more directions
            than SciPy has direction numbers for; a sigma that is negative or not finite.
    """
    check(num_points, sigma)
    if not fits(num_points, randomisations):
        raise InputError(
            f"expected at least 2 randomisations of 1, 2, 4, 8, ... points each, found "
            f"{num_points} points in {randomisations}; change one of the two"
        )
    net = _net(num_points // randomisations, space.dim)
    normals = jax.vmap(lambda key: _scrambled(key, net))(jax.random.split(key, randomisations))
    return SubspaceProbe(space, sigma * normals.reshape(num_points, space.dim), randomisations)


def fits(num_points: int, randomisations: int = RANDOMISATIONS) -> bool:
    """Whether so many points are nets of 1, 2, 4, 8, ... points each."""
    if num_points < 1 or randomisations < 2 or num_points % randomisations:
        return False
    return (num_points // randomisations).bit_count() == 1


def _net(size: int, dim: int) -> Int[np.ndarray, "size d"]:
    """The first points of the Sobol' sequence, as integers of ``BITS`` digits."""
    from scipy.stats import qmc  # a second to import, and only needed here

    if dim > qmc.Sobol.MAXDIM:
        raise InputError(
            f"expected at most {qmc.Sobol.MAXDIM} directions for Sobol' points, found {dim}; "
            "use gaussian(...)"
        )
    return np.asarray(qmc.Sobol(dim, scramble=False, bits=BITS).random(size) * 2**BITS, np.uint32)


def _scrambled(key: Key[Array, ""], net: Int[np.ndarray, "size d"]) -> Float[Array, "size d"]:
    """Standard normals: each digit of a net carries random lower ones along, all are shifted."""
    for_digits, for_shift = jax.random.split(key)
    d = net.shape[1]
    digit = jnp.asarray(1 << np.arange(BITS), jnp.uint32)
    carried = digit | (jax.random.bits(for_digits, (d, BITS), jnp.uint32) & (digit - 1))
    found = jnp.where(net[:, :, None] & digit, carried, 0)
    shift = jax.random.bits(for_shift, (d,), jnp.uint32) >> (32 - BITS)
    u = (jnp.bitwise_xor.reduce(found, axis=-1) ^ shift).astype(jnp.float32)
    return ndtri((u + 0.5) / 2**BITS)
