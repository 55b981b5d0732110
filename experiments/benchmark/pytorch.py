"""The sweep and the eigenpairs as a good PyTorch user would write them, to compare with.

Of the multilayer perceptron alone. Losses come from ``torch.func`` over batches of points and
chunks of samples in memory, curves from cumulative sums in float64, eigenpairs from ARPACK or a
package. Parameters are one vector, of each layer bias and kernel, as JAX flattens them.
"""

from typing import Any

import jax
import numpy as np
import torch
from jax.typing import ArrayLike
from jaxtyping import Float
from scipy.sparse import linalg
from torch.func import functional_call, grad, jvp, vmap
from torch.nn import functional

from jaxscape import Subspace
from jaxscape.types import Batch, Params

CHUNK, POINTS, PACKED = 1000, 8, 3000  # samples and points at a time; samples of packages


def flat(params: Params, *first: int) -> torch.Tensor:
    """The parameters as a vector, or several of them behind a first axis."""
    leaves = [np.asarray(leaf).reshape(*first, -1) for leaf in jax.tree.leaves(params)]
    return torch.tensor(np.concatenate(leaves, -1))


class Rival(torch.nn.Module):
    """The same network, samples, directions and points in PyTorch."""

    def __init__(self, params: Params, data: Batch, chunk: int = CHUNK) -> None:
        super().__init__()
        inputs, targets = np.array(data["inputs"]), np.array(data["targets"])
        self.num, self.params = len(inputs), torch.nn.Parameter(flat(params))
        self.shapes = [np.shape(leaf) for leaf in jax.tree.leaves(params)]
        chunks = [torch.tensor(inputs).flatten(1), torch.tensor(targets, dtype=torch.long)]
        self.chunks = list(zip(*(whole.split(chunk) for whole in chunks), strict=True))
        self.more = 0  # steps of Lanczos, beyond twice the number of pairs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The outputs before any softmax."""
        parts = self.params.split([int(np.prod(shape)) for shape in self.shapes])
        parts = [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]
        *hidden, (bias, kernel) = zip(parts[::2], parts[1::2], strict=True)
        for own, weights in hidden:
            x = torch.relu(functional.linear(x, weights.T, own))
        return functional.linear(x, kernel.T, bias)

    def losses(self, params: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Per-sample losses."""
        outputs = functional_call(self, {"params": params}, x)
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

    def eigenpairs(self, num: int, tol: float, operator: Any = None) -> tuple:
        """The ``num`` largest to relative residuals ``tol`` by ARPACK: values, vectors as rows."""

        def multiply(vector: np.ndarray) -> np.ndarray:
            tangent, total = torch.tensor(vector.astype(np.float32).ravel()), torch.zeros(size)
            for x, y in self.chunks:
                slope = grad(lambda w, x=x, y=y: self.losses(w, x, y).sum())
                total += jvp(slope, (self.params.detach(),), (tangent,))[1]
            return total.numpy() / self.num

        size = len(self.params)
        kept = min(size, max(3 * num, 20))  # vectors of its basis
        own: Any = linalg.LinearOperator((size, size), matvec=multiply, dtype=np.float32)
        start = np.random.default_rng(0).normal(size=size).astype(np.float32)
        found = linalg.eigsh(operator or own, num, which="LA", tol=tol, ncv=kept, v0=start)
        return found[0][::-1], found[1].T[::-1]

    def curvlinops(self, num: int, tol: float) -> tuple:
        """The same on curvlinops' products, without its check that they are deterministic."""
        from curvlinops import HessianLinearOperator

        given = self, torch.nn.CrossEntropyLoss(), [self.params], self.chunks
        hessian = HessianLinearOperator(*given, check_deterministic=False)
        return self.eigenpairs(num, tol, hessian.to_scipy(np.float32))

    def hessian_eigenthings(self, num: int, tol: float) -> tuple:
        """The same by Lanczos of hessian-eigenthings; the first call finds how many steps."""
        from hessian_eigenthings import HessianOperator, lanczos

        share = len(self.chunks) / self.num  # it averages batches, whatever they hold
        loss = lambda model, batch: model.losses(model.params, *batch).sum() * share  # noqa: E731
        own, how = HessianOperator(self, self.chunks, loss), {"k": num, "tol": tol, "which": "LA"}
        while not (found := lanczos(own, max_iter=2 * num + self.more, **how)).converged.all():
            if self.more > 20 * num:
                break  # the row shows the residual
            self.more += 2
        return found.eigenvalues.numpy(), found.eigenvectors.numpy()
