"""The words that all modules share: parameters, batches, losses, probes, operators, the error."""

from collections.abc import Callable
from typing import Annotated, Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Real

Params: TypeAlias = Annotated[Any, "a pytree of floating-point arrays"]
"""The parameters w, or a direction shaped like them."""

Batch: TypeAlias = Annotated[Any, "a pytree of arrays with a common first axis"]

PerSampleLoss: TypeAlias = Callable[[Params, Batch], Float[Array, "n"]]
"""``loss(params, batch) -> [n]``: one value ℓ_i(w) per sample, never averaged."""

Matvec: TypeAlias = Callable[[Params], Params]
"""A symmetric linear operator on pytrees shaped like the parameters."""

Scalar: TypeAlias = int | float | np.number | Real[Array, ""]
"""A number, which may be traced."""


@runtime_checkable
class Probe(Protocol):
    """Points of parameter space, as a pytree; ``probes`` makes them.

    Where only groups of points are independent, ``groups`` is their number (``SubspaceProbe``).
    """

    @property
    def num_points(self) -> int:
        """The number m of points."""

    def at(self, index: Int[ArrayLike, ""]) -> Params:
        """The parameters of point ``index``."""


class InputError(ValueError):
    """Input that cannot be used: one line with what was expected, what was found, what to do."""
