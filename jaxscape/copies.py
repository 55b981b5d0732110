"""How long to look for copies of an eigenvalue that a Krylov space has missed."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

STIRRED = 4
"""How far above its limit a residual may rise in the course of a check, before it starts anew.

To stop a check for a pair that its vectors have stirred a little would throw away its Krylov space,
sometimes just before that shows a copy.
"""


def is_checked(streak: Int[Array, ""], matvecs: Int[Array, ""], p: int) -> Bool[Array, ""]:
    """Whether ``streak`` of ``matvecs`` products are enough of a check in ``p`` dimensions.

    A third of the products before it are, as a fixed number misses copies where convergence is
    slow; but at least as many as find, with probability 0.99, an eigenvalue far above the rest.
    k Lanczos steps from a random vector come within a fraction ε of the spectrum's width of its
    end, but for a probability of 1.648·√P·exp(−√ε·(2k − 1)) (Kuczynski & Wozniakowski 1992,
    "Estimating the largest eigenvalue by the power and Lanczos algorithms with a random start");
    solved for k at ε = 1/2.
    """
    fewest = math.ceil((1 + math.log(1.648 * math.sqrt(p) / 0.01) / math.sqrt(0.5)) / 2)
    return streak > jnp.maximum(fewest, (matvecs - streak) // 3)
