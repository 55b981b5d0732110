"""When does more training data stop reshaping a network's loss landscape?

Per-sample losses ℓ_i(w), their prefix means L_k(w) = (1/k) Σ_{i≤k} ℓ_i(w), and
Δ_k = E_w[(L_{k+1}(w) − L_k(w))²] for every k, in pure JAX functions.
"""

from jaxscape import losses
from jaxscape.curvature import ggn_vp, hvp
from jaxscape.lanczos import top_eigenpairs
from jaxscape.landscape import delta, evaluate, per_sample_losses, surface
from jaxscape.orders import order_law
from jaxscape.probes import gaussian, grid, isotropic, line, points, single
from jaxscape.quadratic import project, quadratic_delta
from jaxscape.reductions import Reduction
from jaxscape.sample_size import sufficient_size
from jaxscape.spectrum import spectral_density, trace
from jaxscape.subspace import Subspace, hessian_subspace, random_subspace
from jaxscape.types import InputError

__all__ = [
    "InputError",
    "Reduction",
    "Subspace",
    "delta",
    "evaluate",
    "gaussian",
    "ggn_vp",
    "grid",
    "hessian_subspace",
    "hvp",
    "isotropic",
    "line",
    "losses",
    "order_law",
    "per_sample_losses",
    "points",
    "project",
    "quadratic_delta",
    "random_subspace",
    "single",
    "spectral_density",
    "sufficient_size",
    "surface",
    "top_eigenpairs",
    "trace",
]
