"""How fast a noisy positive curve falls with k."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Decay(NamedTuple):
    """α of E y_k = C k^−α, with its standard error."""

    exponent: Float[Array, ""]
    sem: Float[Array, ""]


@partial(jax.jit, static_argnames="steps")
def decay_exponent(k: Int[Array, "K"], y: Float[Array, "K"], *, steps: int = 100) -> Decay:
    """Fit E y_k = C k^−α to y ≥ 0, every k weighing the same.

    Quasi-likelihood with a log link and a standard deviation in proportion to the mean
    (McCullagh and Nelder 1989, chapter 8), so that the many small and few huge values of a
    heavy-tailed y, whose logarithms would mislead a straight line, enter as they are. The error
    is the sandwich estimate for independent y_k: consistent as values grow in number where their
    variance is finite, too small where a few values carry most of the sum. NaN where fewer than
    three values, or none above 0, are given, or the fit does not settle.
    """
    x = jnp.log(k.astype(jnp.float32))
    x = jnp.stack([jnp.ones_like(x), x - x.mean()], -1)
    flat = y * jnp.asarray(k, jnp.float32) ** 2  # near-constant at α = 2, where the fit starts
    flat = flat / jnp.where(flat.mean() > 0, flat.mean(), 1)
    information = jnp.linalg.inv(jnp.matmul(x.T, x, precision="highest"))

    def residual(beta: Float[Array, "2"]) -> Float[Array, "K"]:
        return flat * jnp.exp(-jnp.matmul(x, beta, precision="highest")) - 1

    def step(_: int, beta: Float[Array, "2"]) -> Float[Array, "2"]:
        score = jnp.matmul(x.T, residual(beta), precision="highest")
        return beta + jnp.clip(jnp.matmul(information, score, precision="highest"), -1, 1)

    beta = jax.lax.fori_loop(0, steps, step, jnp.zeros(2, jnp.float32))
    settled = jnp.abs(step(0, beta) - beta).max() < 1e-4
    scores = x * residual(beta)[:, None]
    middle = jnp.matmul(scores.T, scores, precision="highest")
    covariance = information @ middle @ information
    known = (k.shape[0] >= 3) & (flat > 0).any() & settled
    return Decay(*jnp.where(known, jnp.stack([2 - beta[1], jnp.sqrt(covariance[1, 1])]), jnp.nan))
