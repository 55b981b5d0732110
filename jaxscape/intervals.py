"""A confidence interval of a mean that a few of its terms may carry."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from jaxscape import student
from jaxscape.types import InputError


class Interval(NamedTuple):
    """An estimate between two limits."""

    low: Any
    value: Any
    high: Any


class Terms(NamedTuple):
    """Independent terms of at least 0 whose mean is wanted, as far as its interval needs them."""

    count: Int[Array, ""]  # type: ignore[assignment]  # a field, not tuple.count
    total: Float[Array, ""]
    squares: Float[Array, ""]
    """The sum of their squares."""

    @property
    def effective(self) -> Float[Array, ""]:
        """(Σz)² / Σz²: as many equal terms would scatter as much (Kish 1965, section 11.7)."""
        return self.total**2 / self.squares

    @property
    def variance(self) -> Float[Array, ""]:
        """The squared relative standard error of the mean."""
        spread = jnp.maximum(1 / self.effective - 1 / self.count, 0)
        return spread * self.count / (self.count - 1)

    def plus(self, term: Float[Array, ""]) -> "Terms":
        """These terms with another one."""
        return Terms(self.count + 1, self.total + term, self.squares + term**2)


def terms_of(values: Float[ArrayLike, "n"]) -> Terms:
    """The given terms."""
    values = jnp.asarray(values)
    return Terms(jnp.asarray(values.size), jnp.sum(values), jnp.sum(values**2))


@partial(jax.jit, static_argnames="level")
def mean_interval(
    samples: Terms, largest: Float[Array, ""], points: Terms | None, *, level: float
) -> Interval:
    """An interval of the mean of a quantity over samples, and over points where they are given.

    Symmetric in the logarithm, mean · exp(±t s): s² adds the squared relative standard errors over
    samples and over points, t is Student's with as many degrees of freedom as terms carry the
    mean, less one (the two combined after Satterthwaite 1946). For the upper limit the samples get
    one more, twice as large as the ``largest``, since what a small pilot misses are the rare large
    ones. The factor was chosen by trial (its coverage is tested). Where samples that carry the mean
    are so rare that the pilot holds none, no interval computed from it can know. From 0 to infinity
    where the terms are all 0, or where one term or one point leaves the spread unknown; NaN where
    a term is.
    """
    known = ~(samples.squares == 0)
    padded = samples.plus(2 * largest)
    low, high = (_error(terms, points, samples, level) for terms in (samples, padded))
    value = samples.total / samples.count
    low = jnp.where(known, value * jnp.exp(-low), 0)
    high = jnp.where(known, padded.total / padded.count * jnp.exp(high), jnp.inf)
    return Interval(low, value, high)


def _error(terms: Terms, points: Terms | None, samples: Terms, level: float) -> Float[Array, ""]:
    """t s, the half-width in the logarithm."""
    errors = [(terms.variance, samples.effective - 1)]
    if points is not None:
        errors.append((points.variance, points.effective - 1))
    square = sum(variance for variance, _ in errors)
    freedom = square**2 / sum(variance**2 / own for variance, own in errors)
    width = student.two_sided(level, freedom) * jnp.sqrt(square)
    return jnp.where(square == 0, 0, jnp.where(jnp.isnan(width), jnp.inf, width))


def check_level(level: float) -> None:
    """Raise an ``InputError`` unless 0 < level < 1."""
    if not 0 < level < 1:
        raise InputError(f"expected a level between 0 and 1, found {level}; change it")
