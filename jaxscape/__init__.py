"""When does more training data stop reshaping a network's loss landscape?

Per-sample losses ℓ_i(w), their prefix means L_k(w) = (1/k) Σ_{i≤k} ℓ_i(w), and
Δ_k = E_w[(L_{k+1}(w) − L_k(w))²] for every k, in pure JAX functions.
"""

from jaxscape import bounds, evidence, losses, reductions, sharding
from jaxscape.curvature import ggn_vp, hvp
from jaxscape.exceedance import exceedance_size
from jaxscape.gauss_newton import gauss_newton_norms
from jaxscape.lanczos import top_eigenpairs
from jaxscape.landscape import delta, evaluate, per_sample_losses, surface
from jaxscape.orders import distance_law, order_law
from jaxscape.partition import combine, partition
from jaxscape.prefix_spectra import eigenvalue_delta, prefix_spectra, ritz_values
from jaxscape.probes import gaussian, grid, isotropic, line, points, single
from jaxscape.quadratic import project, quadratic_delta
from jaxscape.random_orders import random_orders
from jaxscape.reductions import Reduction
from jaxscape.sample_size import distance_size, increment_size, sufficient_size
from jaxscape.sobol import sobol
from jaxscape.spectrum import spectral_density, trace
from jaxscape.stopping import monitor
from jaxscape.subspace import Subspace, hessian_subspace, random_subspace
from jaxscape.trajectory import trajectory_subspace
from jaxscape.types import InputError

__all__ = [
    "InputError",
    "Reduction",
    "Subspace",
    "bounds",
    "combine",
    "delta",
    "distance_law",
    "distance_size",
    "eigenvalue_delta",
    "evaluate",
    "evidence",
    "exceedance_size",
    "gauss_newton_norms",
    "gaussian",
    "ggn_vp",
    "grid",
    "hessian_subspace",
    "hvp",
    "increment_size",
    "isotropic",
    "line",
    "losses",
    "monitor",
    "order_law",
    "partition",
    "per_sample_losses",
    "points",
    "prefix_spectra",
    "project",
    "quadratic_delta",
    "random_orders",
    "random_subspace",
    "reductions",
    "ritz_values",
    "sharding",
    "single",
    "sobol",
    "spectral_density",
    "sufficient_size",
    "surface",
    "top_eigenpairs",
    "trace",
    "trajectory_subspace",
]
