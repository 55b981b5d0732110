"""When does more training data stop reshaping a network's loss landscape?

Per-sample losses ℓ_i(w), their prefix means L_k(w) = (1/k) Σ_{i≤k} ℓ_i(w), and
Δ_k = E_w[(L_{k+1}(w) − L_k(w))²] for every k, in pure JAX functions. All that a project supplies is
``loss(params, batch) -> [n]``, one value per sample:

>>> import jax, jax.numpy as jnp, jaxscape as js
>>> key, for_data = jax.random.split(jax.random.key(0))
>>> data = {"x": jax.random.normal(for_data, (1000, 20))}
>>> data["y"] = jnp.sign(data["x"] @ jnp.ones(20))
>>> params = {"w": jnp.zeros(20), "b": jnp.zeros(())}
>>> def loss(params, batch):    # logistic regression
...     return jnp.logaddexp(0, -batch["y"] * (batch["x"] @ params["w"] + params["b"]))

Then every question is a line: curves of Δ_k, surfaces of L_k, sample sizes that suffice.

>>> space = js.hessian_subspace(key, loss, params, data, dim=3)    # or random_subspace
>>> curve = js.delta(loss, js.gaussian(key, space, num_points=64, sigma=0.1), data)    # every k
>>> curve.mean.shape, curve.sem.shape, curve.centered.shape
((999,), (999,), (999,))
>>> size = js.sufficient_size(curve.mean, 1e-6)    # K, and whether it is reached
>>> sheet = js.surface(loss, js.grid(space, radius=1.0, num=5), data, ks=(1, 100, 1000))
>>> sheet.loss.shape
(3, 25)
"""

from jaxscape import devices, losses, reductions
from jaxscape.curvature import ggn_operator, hessian_operator
from jaxscape.lanczos import top_eigenpairs
from jaxscape.loss_variance import estimate_loss_variance, evidence_of, loss_variance
from jaxscape.minimum import (
    excess_law,
    excess_law_holds,
    excess_size,
    influence_subspace,
    takeuchi_trace,
    takeuchi_trace_in,
)
from jaxscape.prefix_spectra import prefix_spectra, ritz_values
from jaxscape.probes import gaussian, grid, isotropic, line, points, single, sobol
from jaxscape.quadratic import project, quadratic_delta
from jaxscape.quadrature import spectral_density, trace
from jaxscape.reductions import Reduction
from jaxscape.sample_size import (
    distance_law,
    distance_size,
    exceedance_size,
    increment_size,
    monitor,
    order_law,
    sufficient_size,
)
from jaxscape.subspace import Subspace, hessian_subspace, random_subspace, trajectory_subspace
from jaxscape.sweep import delta, evaluate, per_sample_losses, surface
from jaxscape.trees import combine, partition
from jaxscape.types import InputError

__all__ = [
    "InputError", "Reduction", "Subspace", "combine", "delta", "devices", "distance_law",
    "distance_size", "estimate_loss_variance", "evaluate", "evidence_of", "exceedance_size",
    "excess_law", "excess_law_holds", "excess_size", "gaussian", "ggn_operator", "grid",
    "hessian_operator", "hessian_subspace", "increment_size", "influence_subspace", "isotropic",
    "line", "loss_variance", "losses", "monitor", "order_law", "partition", "per_sample_losses",
    "points", "prefix_spectra", "project", "quadratic_delta", "random_subspace",
    "reductions", "ritz_values", "single", "sobol", "spectral_density",
    "sufficient_size", "surface", "takeuchi_trace", "takeuchi_trace_in", "top_eigenpairs",
    "trace", "trajectory_subspace",
]  # fmt: skip
