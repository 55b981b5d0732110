"""The sweep and the eigenpairs as a good PyTorch user would write them, to compare with.

Of the multilayer perceptron alone. Losses come from ``torch.func`` over batches of points and
chunks of samples in memory, curves from cumulative sums in float64, eigenpairs from ARPACK on
Hessian products. Parameters are one vector, of each layer bias and kernel, as JAX flattens them.
"""

from typing import Any

import jax
import numpy as np
import torch
from jax.typing import ArrayLike
from jaxtyping import Float
from scipy.sparse import linalg
from torch.func import grad, jvp, vmap
from torch.nn import functional

from jaxscape import Subspace
from jaxscape.types import Batch, Params

CHUNK, POINTS = 1000, 8  # samples and points at a time


def flat(params: Params, *first: int) -> torch.Tensor:
    """The parameters as a vector, or several of them behind a first axis."""
    leaves = [np.asarray(leaf).reshape(*first, -1) for leaf in jax.tree.leaves(params)]
    return torch.tensor(np.concatenate(leaves, -1))


class Rival:
    """The same network, samples, directions and points as PyTorch tensors."""

    def __init__(self, params: Params, data: Batch) -> None:
        inputs, targets = np.array(data["inputs"]), np.array(data["targets"])
        self.num, self.params = len(inputs), flat(params)
        self.shapes = [np.shape(leaf) for leaf in jax.tree.leaves(params)]
        chunks = [torch.tensor(inputs).flatten(1), torch.tensor(targets, dtype=torch.long)]
        self.chunks = list(zip(*(whole.split(CHUNK) for whole in chunks), strict=True))

    def losses(self, params: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Per-sample losses."""
        parts = params.split([int(np.prod(shape)) for shape in self.shapes])
        parts = [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]
        *hidden, (bias, kernel) = zip(parts[::2], parts[1::2], strict=True)
        for own, weights in hidden:
            x = torch.relu(functional.linear(x, weights.T, own))
        outputs = functional.linear(x, kernel.T, bias)
        return functional.cross_entropy(outputs, y, reduction="none")

    def delta(self, space: Subspace, coordinates: Float[ArrayLike, "m d"]) -> np.ndarray:
        """Δ_k of every k."""
        along, basis = vmap(self.losses, in_dims=(0, None, None)), flat(space.basis, space.dim)
        rows = []
        with torch.inference_mode():
            for theta in torch.tensor(np.array(coordinates)).split(POINTS):
                points = self.params + theta @ basis
                rows.append(torch.cat([along(points, x, y) for x, y in self.chunks], 1))
            losses = torch.cat(rows)
            k = torch.arange(1, self.num, dtype=torch.float64)
            means = losses.double().cumsum(1)[:, :-1] / k
            return (((losses[:, 1:] - means) / (k + 1)) ** 2).mean(0).numpy()

    def eigenpairs(self, num: int, residual: float) -> np.ndarray:
        """The ``num`` largest eigenvalues to a relative residual."""

        def multiply(vector: np.ndarray) -> np.ndarray:
            tangent, total = torch.tensor(vector.astype(np.float32).ravel()), torch.zeros(size)
            for x, y in self.chunks:
                slope = grad(lambda w, x=x, y=y: self.losses(w, x, y).sum())
                total += jvp(slope, (self.params,), (tangent,))[1]
            return total.numpy() / self.num

        size = len(self.params)
        operator: Any = linalg.LinearOperator((size, size), matvec=multiply, dtype=np.float32)
        start = np.random.default_rng(0).normal(size=size).astype(np.float32)
        return linalg.eigsh(operator, num, which="LA", tol=residual, v0=start)[0][::-1]
