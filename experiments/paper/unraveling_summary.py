"""What the increments over widths and depths tell, in numbers."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import summary
from experiments.problem import Problem
from experiments.run_folder import plain
from jaxscape.decay import decay_exponent
from jaxscape.lab import first_order

STUCK = 0.95
"""Share of a constant guess's loss above which a network counts as one that failed to train."""
CURVES = ("increment", "smoothed", "published")


def summarise(
    arrays: Mapping[str, np.ndarray], entries: Sequence[Mapping[str, Any]], problem: Problem
) -> dict[str, Any]:
    """``networks``, the entries with what their curves add, and a constant guess's loss."""
    guess, k = constant_guess(problem), arrays["k"]
    late = summary.late(k)
    increments = jnp.asarray(arrays["increment"][..., late].reshape(len(entries), -1))
    exponents = jax.jit(jax.vmap(lambda y: decay_exponent(k[late], y).exponent))(increments)
    networks = []
    for number, entry in enumerate(entries):
        place = divmod(number, len(arrays["width"]))
        curves = {name: arrays[name][place] for name in CURVES if name in arrays}
        spread = {name: float(arrays[name][place]) for name in ("deviation", "loss_variance")}
        told = measures(k, spread["deviation"], curves) | {"exponent": plain(exponents[number])}
        networks.append({**entry, "stuck": guess.beats(entry), **spread, **told})
    from_k = int(k[late][0])
    return {"networks": networks, **guess._asdict(), "late_from": from_k}


class Guess(NamedTuple):
    """Outputs that are the same for every sample, at their best."""

    guess_loss: float
    guess_accuracy: float | None

    def beats(self, entry: Mapping[str, Any]) -> bool:
        """Whether a network does no better, by its loss or by its accuracy."""
        if self.guess_accuracy is not None and entry["train_accuracy"] <= self.guess_accuracy:
            return True
        return bool(entry["train_loss"] > STUCK * self.guess_loss)


def constant_guess(problem: Problem) -> Guess:
    """The least mean loss, and the share of the commonest class."""
    targets = np.asarray(problem.samples["targets"])
    if problem.dataset.num_classes:
        shares = np.unique(targets, return_counts=True)[1] / len(targets)
        return Guess(float(-(shares * np.log(shares)).sum()), float(np.max(shares)))
    spread = targets.reshape(len(targets), -1).var(0, dtype=np.float64)
    return Guess(float(0.5 * spread.sum()), None)


def measures(
    k: np.ndarray, deviation: float, curves: Mapping[str, np.ndarray]
) -> dict[str, float | None]:
    """Of one network: the level of (k+1) |δ_k| over late k, its law, averages at its start.

    A ratio to the law is None where the law is 0.
    """
    late = summary.late(k)
    law = first_order.law(deviation, len(k) + 1, k)
    level = float(((k + 1.0) * curves["increment"])[late].mean())
    start = int(np.argmax(late))
    ratio = lambda value, of: plain(value / of) if of > 0 else None  # noqa: E731
    averages = {name: curves[name][start] for name in CURVES[1:] if name in curves}
    return {"level": level, "level_over_law": ratio(level, law[0] * 2)} | {
        f"{name}_over_law": ratio(value, law[start]) for name, value in averages.items()
    }


def seen(found: Mapping[str, Any]) -> str:
    """What is seen, in one paragraph."""
    networks = found["networks"]
    alive = [entry for entry in networks if entry["level_over_law"] is not None]
    widths, depths = (sorted({entry[name] for entry in networks}) for name in ("width", "depth"))
    what = (
        f"{len(networks)} fully connected networks without biases, {_list(widths)} units in "
        f"{_list(depths)} layers; mean over {found['orders']} orders of {found['num_samples']:,} "
        "samples."
    )
    text = [what]
    if alive:
        text += _of_curves(alive, found)
    text.append(_of_training(networks, found["guess_loss"]))
    return " ".join(text)


def _of_curves(alive: list[dict[str, Any]], found: Mapping[str, Any]) -> list[str]:
    unit, first = found["unit"], found["late_from"]
    low, high = (choose(alive, key=lambda entry: entry["level"]) for choose in (min, max))
    fitted = [entry["exponent"] for entry in alive if entry["exponent"] is not None]
    text = []
    if fitted:
        text.append(f"From k = {first} on, |δ_k| falls as k^−α with α {_span(fitted, '.3f')}.")
    text.append(
        "Its mean times k+1 is "
        f"{_span([entry['level_over_law'] for entry in alive], '.3f')} times the order law "
        "M n/(n−1), which needs no orders: what differs between networks is the level, from "
        f"{low['level']:.3g} {unit} ({_name(low)}, training loss {low['train_loss']:.3g}) to "
        f"{high['level']:.3g} ({_name(high)}, training loss {high['train_loss']:.3g})."
    )
    smoothed = _span([entry["smoothed_over_law"] for entry in alive], ".2f")
    average = f"the exponential average (β = {found['beta']:g}) is {smoothed} times the law"
    if "published_over_law" in alive[0]:
        published = _span([entry["published_over_law"] for entry in alive], ".1f")
        average += f"; as published, seeded by its first value, {published} times"
    return [*text, f"At k = {first} {average}."]


def _of_training(networks: list[dict[str, Any]], guess: float) -> str:
    text = ""
    if networks[0]["train_accuracy"] is not None:
        low, high = (
            choose(networks, key=lambda entry: entry["train_accuracy"]) for choose in (min, max)
        )
        text = (
            f"Training accuracy goes from {low['train_accuracy']:.1%} ({_name(low)}) to "
            f"{high['train_accuracy']:.1%} ({_name(high)}). "
        )
    stuck = [_name(entry) for entry in networks if entry["stuck"]]
    flat = [_name(entry) for entry in networks if entry["level_over_law"] is None]
    if stuck:
        text += (
            f"{len(stuck)} failed to train: their accuracy is no better than that of a constant "
            f"guess, or their loss above {STUCK:.0%} of its {guess:.3g}: {'; '.join(stuck)}."
        )
    else:
        text += f"All do better than a constant guess, whose loss is {guess:.3g}."
    if flat:
        text += f" All losses are equal, and |δ_k| is 0, in {'; '.join(flat)}."
    return text


def _name(entry: Mapping[str, Any]) -> str:
    return f"{entry['depth']} layers of {entry['width']}"


def _list(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


def _span(values: Sequence[float], style: str) -> str:
    low, high = f"{min(values):{style}}", f"{max(values):{style}}"
    return low if low == high else f"{low} to {high}"
