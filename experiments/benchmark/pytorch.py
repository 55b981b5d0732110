"""The sweep and the eigenpairs as a good PyTorch user would write them, to compare with.

Of the multilayer perceptron alone. Losses come from ``torch.func`` over batches of points and
chunks of samples held in memory, curves from cumulative sums in float64, eigenpairs from SciPy's
ARPACK on Hessian products forward over reverse.
"""

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from jax.typing import ArrayLike
from jaxtyping import Float
from scipy.sparse import linalg
from torch.func import functional_call, grad, jvp, vmap

from jaxscape import Subspace
from jaxscape.types import Batch, Params

CHUNK = 1000
"""Samples at a time."""
POINTS = 8
"""Points at a time."""


class Rival:
    """The same network, samples, directions and points as PyTorch tensors."""

    def __init__(self, params: Params, data: Batch) -> None:
        layers = [params[name] for name in sorted(params)]
        inputs = np.asarray(data["inputs"])
        self.inputs = torch.tensor(inputs.reshape(len(inputs), -1))
        self.targets = torch.tensor(np.asarray(data["targets"]), dtype=torch.long)
        linear = [torch.nn.Linear(*np.shape(layer["kernel"])) for layer in layers]
        between = itertools.chain.from_iterable((one, torch.nn.ReLU()) for one in linear)
        self.network = torch.nn.Sequential(*list(between)[:-1])
        self.params = self.named(params)

    def named(self, params: Params) -> dict[str, torch.Tensor]:
        """Flax's parameters, or a stack of them, by PyTorch's names."""
        found = {}
        for index, name in enumerate(sorted(params)):
            kernel = np.array(params[name]["kernel"]).swapaxes(-1, -2)
            found[f"{2 * index}.weight"] = torch.tensor(np.ascontiguousarray(kernel))
            found[f"{2 * index}.bias"] = torch.tensor(np.array(params[name]["bias"]))
        return found

    def losses(
        self, params: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor
    ) -> torch.Tensor:
        """Per-sample losses."""
        outputs = functional_call(self.network, params, (x,))
        return torch.nn.functional.cross_entropy(outputs, y, reduction="none")

    def chunks(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The samples in order."""
        return zip(self.inputs.split(CHUNK), self.targets.split(CHUNK), strict=True)

    def delta(self, space: Subspace, coordinates: Float[ArrayLike, "m d"]) -> np.ndarray:
        """Δ_k of every k."""
        basis = self.named(space.basis)
        along = vmap(self.losses, in_dims=(0, None, None))
        rows = []
        with torch.inference_mode():
            for theta in torch.tensor(np.asarray(coordinates)).split(POINTS):
                points = {
                    name: self.params[name] + torch.tensordot(theta, basis[name], 1)
                    for name in basis
                }
                rows.append(torch.cat([along(points, x, y) for x, y in self.chunks()], 1))
            losses = torch.cat(rows)
            n = losses.shape[1]
            k = torch.arange(1, n, dtype=torch.float64)
            means = losses.double().cumsum(1)[:, :-1] / k
            return (((losses[:, 1:] - means) / (k + 1)) ** 2).mean(0).numpy()

    def eigenpairs(self, num: int, residual: float) -> tuple[np.ndarray, int]:
        """The ``num`` largest eigenvalues to a relative residual, and the products it took."""
        names = list(self.params)
        sizes = [self.params[name].numel() for name in names]
        products = 0

        def total(params: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor):
            return self.losses(params, x, y).sum()

        def multiply(vector: np.ndarray) -> np.ndarray:
            nonlocal products
            products += 1
            parts = torch.tensor(vector.astype(np.float32).ravel()).split(sizes)
            tangent = {
                name: part.view_as(self.params[name])
                for name, part in zip(names, parts, strict=True)
            }
            whole = torch.zeros(sum(sizes))
            for x, y in self.chunks():
                slope = lambda w: grad(total)(w, x, y)  # noqa: B023, E731
                _, product = jvp(slope, (self.params,), (tangent,))
                whole += torch.cat([product[name].reshape(-1) for name in names])
            return whole.numpy() / len(self.inputs)

        shape = (sum(sizes), sum(sizes))
        operator = linalg.LinearOperator(shape, matvec=multiply, dtype=np.float32)
        start = np.random.default_rng(0).normal(size=shape[0]).astype(np.float32)
        values = linalg.eigsh(operator, num, which="LA", tol=residual, v0=start)[0]
        return values[::-1], products
