"""What every order of the samples gives on average."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int


def order_law(
    loss_variance: Float[ArrayLike, "*m"], k: Int[ArrayLike, "*k"]
) -> Float[Array, "..."]:
    """S²(w) / (k (k+1)): the mean of δ_k(w)² over all orders of the n samples, exactly.

    ``loss_variance`` is S²(w), the variance of ℓ_i(w) over the n samples with n − 1 below, or its
    mean over points; the result broadcasts it against ``k``. Drawing k+1 of n samples without
    replacement, ℓ_{k+1} − L_k has mean 0 and variance S² (k+1)/k (Cochran 1977, Sampling
    Techniques, section 2.5).
    """
    k = jnp.asarray(k).astype(jnp.result_type(float))
    return jnp.asarray(loss_variance) / k / (k + 1)


def distance_law(
    loss_variance: Float[ArrayLike, "*m"],
    k: Int[ArrayLike, "*k"],
    to: Int[ArrayLike, "*k"] | float = jnp.inf,
) -> Float[Array, "..."]:
    """S²(w) |1/k − 1/to|: the mean of (L_to(w) − L_k(w))² over all orders, exactly.

    ``to`` = k + b: b further samples (``order_law`` where b = 1); ``to`` = n: the full data;
    infinite, the default: the population from which the samples are drawn, S²(w)/k. S² is that of
    ``order_law``; the three arguments broadcast (Cochran 1977, section 2.5).
    """
    k, to = (jnp.asarray(size).astype(jnp.result_type(float)) for size in (k, to))
    share = jnp.where(jnp.isinf(to), 1, jnp.abs(to - k) / jnp.where(jnp.isinf(to), 1, to))
    return jnp.asarray(loss_variance) * share / k
