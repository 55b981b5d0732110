"""The words that all modules share: parameters, batches, losses, operators, and the one error."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Array, Float, Real

Params: TypeAlias = Any
"""Any pytree of floating-point arrays: the parameters w, or a direction shaped like them."""

Batch: TypeAlias = Any
"""Any pytree of arrays with a common leading sample axis."""

PerSampleLoss: TypeAlias = Callable[[Params, Batch], Float[Array, "n"]]
"""``loss(params, batch) -> [n]``: one value ℓ_i(w) per sample, never averaged."""

Matvec: TypeAlias = Callable[[Params], Params]
"""A symmetric linear operator on pytrees shaped like the parameters."""

Scalar: TypeAlias = int | float | np.number | Real[Array, ""]
"""A number, which may be traced."""


class InputError(ValueError):
    """Input that cannot be used: one line with what was expected, what was found, what to do."""
