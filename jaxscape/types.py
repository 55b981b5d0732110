"""The words the whole package shares."""

from collections.abc import Callable
from typing import Any, TypeAlias

from jaxtyping import Array, Float

#: Any pytree of floating-point arrays: the parameters w, or a direction shaped like them.
Params: TypeAlias = Any

#: Any pytree of arrays with a common leading sample axis.
Batch: TypeAlias = Any

#: ``loss(params, batch) -> [n]``: one value ℓ_i(w) per sample, never averaged.
PerSampleLoss: TypeAlias = Callable[[Params, Batch], Float[Array, "n"]]

#: A symmetric linear operator on pytrees shaped like the parameters.
Matvec: TypeAlias = Callable[[Params], Params]


class InputError(ValueError):
    """Input that cannot be used: one line with what was expected, what was found, what to do."""
