"""The learning curve E(k) = c + a·k^(−b): fitted to networks refitted on few samples, and forecast.

Hestness et al. 2017 (arXiv:1712.00409); Rosenfeld et al. 2020 (arXiv:1909.12673). The intervals are
of the mean over orders, and hold where the curve is such a power law also beyond the pilots.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Key, Real

from jaxscape.arguments import explained
from jaxscape.loss_variance import Interval, check_level
from jaxscape.types import InputError, Scalar

EXPONENTS = 0.02, 4.0  # the least and the largest b that is looked for


class Size(NamedTuple):
    """The number of samples that a learning curve asks for, infinite where none suffices."""

    interval: Interval
    answer: Literal["reached", "not by", "cannot tell"]
    """Whether both limits are at most ``by``, or both beyond. It cannot tell where they are not,
    where the losses may not fall, or where the floor is not known to within ε."""


@dataclass(frozen=True)
class LearningCurve:
    """E(k) = c + a·k^(−b), first the estimate, with c ≥ 0 and a ≥ 0, then draws around it.

    A draw's c may be below 0: without these, the limits would cover too rarely where c is 0.
    """

    floor: Float[np.ndarray, "draws"]
    """c; ``at(np.inf)`` is its estimate between its limits."""
    scale: Float[np.ndarray, "draws"]
    """a; 0 where the losses do not fall."""
    exponent: Float[np.ndarray, "draws"]
    """b, from 0.02 to 4."""
    misfit: float
    """Root mean square of the residuals over that of the scatter over orders; NaN of a single
    order. Well above 1, the curve is no power law."""
    level: float
    """Of the intervals, between quantiles of the draws."""

    def at(self, k: Real[np.ndarray, "*k"] | Scalar) -> Interval:
        """E(k) between its limits, which are at least 0."""
        k = np.asarray(k, np.float64)
        parts = self.floor, self.scale, self.exponent
        floor, scale, exponent = (part.reshape(-1, *(1,) * k.ndim) for part in parts)
        return self._interval(np.maximum(floor + scale * k**-exponent, 0))

    def gain(self, k: Scalar, to: Scalar) -> Interval:
        """E(k) − E(to), what further samples gain, between its limits."""
        return self._interval(self.scale * (k**-self.exponent - to**-self.exponent))

    def within(self, epsilon: Scalar, *, of: Scalar = np.inf, by: Scalar = np.inf) -> Size:
        """The smallest k with E(k) − E(of) < ε; of the floor c, for an infinite ``of``."""
        if not (0 < epsilon < np.inf and of > 0):
            raise InputError(f"expected ε and of above 0, found {epsilon} and {of}; change them")
        low, _, high = self.at(np.inf)
        unknown = bool(np.isinf(of) and high - low > epsilon)
        return self._size(np.asarray(epsilon + self.scale * of**-self.exponent), by, unknown)

    def below(self, target: Scalar, *, by: Scalar = np.inf) -> Size:
        """The smallest k with E(k) < target."""
        if not np.isfinite(target):
            raise InputError(f"expected a target that is a number, found {target}; change it")
        return self._size(np.asarray(target - self.floor), by)

    def _size(self, allowed: Float[np.ndarray, "draws"], by: Scalar, unknown: bool = False) -> Size:
        """Where a·k^(−b) falls below what is allowed."""
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            ratio = np.where(allowed > 0, self.scale / allowed, np.inf)
            found = self._interval(np.maximum(np.floor(ratio ** (1 / self.exponent)) + 1, 1))
        flat = self._interval(self.exponent).low <= EXPONENTS[0]  # b = 0 in all but name
        if not (unknown or flat or self._interval(self.scale).low == 0):
            if found.low > by or np.isinf(found.low):
                return Size(found, "not by")
            if found.high <= by and np.isfinite(found.high):
                return Size(found, "reached")
        return Size(found, "cannot tell")

    def _interval(self, draws: Float[np.ndarray, "draws *k"]) -> Interval:
        ends = (1 - self.level) / 2, (1 + self.level) / 2
        low, high = np.quantile(draws[1:], ends, axis=0, method="nearest")  # some may be infinite
        return Interval(np.minimum(low, draws[0]), draws[0], np.maximum(high, draws[0]))


@explained
def fit(
    key: Key[Array, ""],
    k: Real[np.ndarray, "g"],
    losses: Real[np.ndarray, "orders K"],
    *,
    floor: float | None = None,
    level: float = 0.9,
    num_draws: int = 1000,
) -> LearningCurve:
    """The curve through the mean losses over orders, by weighted least squares, with its draws.

    Weights come from the scatter over orders, smoothed by a power law in k. Each draw fits the
    means again with errors added: the orders' deviations from their mean times normal numbers (a
    bootstrap that keeps one order's losses together) over a χ variable, which gives few orders
    Student's t; and independent errors, by which the residuals exceed the scatter. Of a single
    order there are only residuals, and its intervals are too narrow: neighbouring k err together.

    Args:
        k: At least 4 different numbers of samples, else an ``InputError``.
        losses: Test losses, or errors, of a network refitted on the first k samples of each order;
            finite and not negative, else an ``InputError``.
        floor: c, where it is known: 0 of the generalisation gap, test less training losses.
        num_draws: Draws around the estimate, at least 100.

    Example:
        >>> import jax, numpy as np
        >>> from jaxscape.lab import learning_curve
        >>> k = np.array([250, 500, 1000, 2000])
        >>> noise = 1 + 0.01 * np.random.default_rng(0).normal(size=(5, 4))
        >>> curve = learning_curve.fit(jax.random.key(0), k, (0.1 + 3 / k**0.5) * noise)
        >>> low, loss, high = curve.at(16_000)
        >>> bool(low < 0.1237 < high), curve.below(0.05).answer    # truly 0.1237
        (True, 'not by')
    """
    k, losses = np.asarray(k, np.float64), np.asarray(losses, np.float64)
    _check(k, losses, floor, level, num_draws)
    orders, mean = len(losses), losses.mean(0)
    sem = _scatter(k, losses) / np.sqrt(orders)
    unit = np.exp(np.log(k).mean())  # so that k / unit is near 1
    bounds = (0.0, np.inf) if floor is None else (floor, floor)
    fitted = _solve(k / unit, mean[None], sem, bounds)
    left = (mean - fitted[0] - fitted[1] * (k / unit) ** -fitted[2]) / sem
    free = len(k) - 2 - (floor is None)
    misfit = np.sum(left**2) / free
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    extra, freedom = (max(misfit - 1, 0), orders - 1) if orders > 1 else (misfit, free)
    errors = rng.normal(size=(num_draws, orders)) @ (losses - mean)
    errors /= np.sqrt(max(orders * (orders - 1), 1))
    errors += np.sqrt(extra) * sem * rng.normal(size=(num_draws, len(k)))
    errors /= np.sqrt(rng.chisquare(freedom, (num_draws, 1)) / freedom)
    bounds = (-np.inf, np.inf) if floor is None else bounds
    drawn = _solve(k / unit, mean + errors, sem, bounds)
    floors, scale, power = (np.concatenate(both) for both in zip(fitted, drawn, strict=True))
    seen = np.sqrt(misfit) if orders > 1 else np.nan
    return LearningCurve(floors, scale * unit**power, power, float(seen), level)


def _check(k, losses, floor: float | None, level: float, num_draws: int) -> None:
    if not len(losses) or losses.shape[1] != len(k):
        found = f"{losses.shape} of k {k.shape}; give a row per order"
        raise InputError(f"expected losses [orders, g] of k [g], found {found}")
    if len(np.unique(k)) < 4 or not (np.isfinite(k) & (k > 0)).all():
        raise InputError(f"expected at least 4 different k above 0, found {k}; refit at more k")
    bad = ~np.isfinite(losses) | (losses < 0)
    if bad.any():
        found = f"{losses[bad][0]} at k = {k[bad.any(0)][0]:g}; leave that k out"
        raise InputError(f"expected finite losses of at least 0, found {found}")
    least = losses.mean(0).min()
    if floor is not None and not 0 <= floor <= least:
        raise InputError(f"expected a floor from 0 to {least:g}, found {floor}; change it")
    check_level(level)
    if num_draws < 100:
        raise InputError(f"expected at least 100 draws, found {num_draws}; raise num_draws")


def _scatter(k: Float[np.ndarray, "g"], losses: Float[np.ndarray, "orders g"]) -> np.ndarray:
    """The standard deviation over orders at each k, smooth in k; of one order, in proportion."""
    alone = len(losses) == 1
    values = losses[0] if alone else losses.var(0, ddof=1)
    # At least a twentieth of their median: no k may take all weight by chance.
    values = np.maximum(values, max(np.median(values) / 20, values.max() / 1000, 1e-24))
    line = np.exp(np.polyval(np.polyfit(np.log(k), np.log(values), 1), np.log(k)))
    return line if alone else np.sqrt(line * np.mean(values / line))


def _solve(
    k: Float[np.ndarray, "g"], losses: Float[np.ndarray, "draws g"], sem: Float[np.ndarray, "g"],
    bounds: tuple[float, float],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """c, a, b of every draw: c within its bounds and a in closed form for b of ever finer grids."""
    low, high = (np.full(len(losses), np.log(end)) for end in EXPONENTS)
    steps, weight = np.linspace(0, 1, 25), sem**-2.0 / np.sum(sem**-2.0)
    for _ in range(7):  # to a twelfth each time
        powers = np.exp(low[:, None] + (high - low)[:, None] * steps)
        x, y = k ** -powers[..., None], losses[:, None]
        mean_x, mean_y = x @ weight, y @ weight
        slope = ((x - mean_x[..., None]) * (y - mean_y[..., None])) @ weight
        slope = slope / np.maximum(((x - mean_x[..., None]) ** 2) @ weight, 1e-300)
        slope = np.maximum(slope, 0)
        floor = np.clip(mean_y - slope * mean_x, *bounds)
        bound = (x * (y - floor[..., None])) @ weight / (x**2 @ weight)  # where c is at a bound
        free = (bounds[0] < floor) & (floor < bounds[1])
        slope = np.where(free, slope, np.maximum(bound, 0))
        left = (y - floor[..., None] - slope[..., None] * x) ** 2 @ weight
        best = left.argmin(1)
        rows = np.arange(len(losses))
        found = floor[rows, best], slope[rows, best], powers[rows, best]
        near = [np.clip(best + side, 0, len(steps) - 1) for side in (-1, 1)]
        low, high = (np.log(powers[rows, at]) for at in near)
    return found
