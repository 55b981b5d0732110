"""What the refitted networks said, as entries, tables and sentences."""

import math
from typing import Any

import numpy as np

from experiments import foretell, run_folder
from experiments.summary import as_text
from jaxscape.student import two_sided


def networks(arrays: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """One entry per k: losses in the mean over the repeats, with standard errors."""
    entries = []
    lowest = arrays["test_loss"].min(1)
    final = {
        "train_loss": arrays["train_loss"],
        "full_loss": arrays["full_loss"],
        "test_loss": arrays["test_loss"][:, -1],
        "lowest_test_loss": lowest,
    }
    if "test_accuracy" in arrays:
        final["test_accuracy"] = arrays["test_accuracy"][:, -1]
    for row, k in enumerate(arrays["k"]):
        entry: dict[str, Any] = {"k": int(k)}
        for name, values in final.items():
            column = np.asarray(values[:, row], np.float64)
            entry[name] = run_folder.plain(column.mean())
            if len(column) > 1:
                entry[f"{name}_sem"] = run_folder.plain(column.std(ddof=1) / math.sqrt(len(column)))
        for name in ("overlap_refitted", "overlap_fixed"):
            entry[name] = run_folder.plain(arrays[name][row])
        for name in ("distance", "distance_shape"):
            squares = arrays[name][:, :, row].mean(1)
            entry[f"rms_{name}"] = [run_folder.plain(math.sqrt(x)) for x in squares]
        law = arrays["loss_variance"][:, 1].astype(np.float64)
        entry["rms_law"] = [math.sqrt(x * (1 / k - 1 / arrays["k"][-1])) for x in law]
        entries.append(entry)
    return entries


def text(found: dict[str, Any]) -> str:
    """All that the command prints of its summary."""
    unit, sigmas = found["unit"], found["sigmas"]
    parts = [
        f"means over {found['repeats']} repeats, in {unit}; distance: √E(L_N − L_k)² around w*_N;",
        f"overlap: of the {found['dim']} leading eigenvectors of H_k with those of H_N at w*_N",
        as_text(networks_table(found["networks"], [entry["sigma"] for entry in sigmas])),
        "",
        f"ε: share of the test loss of w*_N, in {unit}; networks: the values of k between which",
        "their excess test loss falls below ε for good; each: in single repeats; K_ε: the law's",
        as_text(sizes_table(sigmas)),
        "",
        *sentences(found),
    ]
    return "\n".join(parts)


def networks_table(entries: list[dict[str, Any]], sigmas: list[float]) -> list[list[str]]:
    """Rows of text, the first one the header: a row per k."""
    rows = [["k", "L_k(w*_k)", "test loss", "lowest", "accuracy"]]
    for sigma in sigmas:
        rows[0] += [f"distance, σ={sigma:g}", "law"]
    rows[0] += ["overlap, at w*_k", "at w*_N"]
    for entry in entries:
        accuracy = entry.get("test_accuracy")
        error = f" ± {entry['test_loss_sem']:.1g}" if "test_loss_sem" in entry else ""
        row = [
            f"{entry['k']:,}",
            f"{entry['train_loss']:.2g}",
            f"{entry['test_loss']:.4f}{error}",
            f"{entry['lowest_test_loss']:.4f}",
            "-" if accuracy is None else f"{accuracy:.2%}",
        ]
        for measured, law in zip(entry["rms_distance"], entry["rms_law"], strict=True):
            row += [f"{measured:.2g}", f"{law:.2g}"]
        rows.append([*row, f"{entry['overlap_refitted']:.2f}", f"{entry['overlap_fixed']:.2f}"])
    return rows


def sizes_table(sigmas: list[dict[str, Any]]) -> list[list[str]]:
    """Rows of text, the first one the header: a row per σ and ε."""
    rows = [["sigma", "share", "ε", "networks", "each", "K_ε", "90 %", "K_ε / k"]]
    for entry in sigmas:
        for size in entry["sizes"]:
            rows.append(
                [
                    f"{entry['sigma']:g}",
                    f"{size['share']:g}",
                    f"{size['epsilon']:.3g}",
                    _span(size["networks"]),
                    " to ".join(f"{k:,}" for k in size["networks_single"]),
                    f"{size['k_epsilon']:,}",
                    " to ".join(f"{k:,}" for k in size["k_epsilon_ci"]),
                    "-" if size["factor"] is None else f"{size['factor']:.2g}",
                ]
            )
    return rows


def _span(bracket: list[int]) -> str:
    low, high = bracket
    return f"{low:,} to {high:,}" if low else f"up to {high:,}"


def sentences(found: dict[str, Any]) -> list[str]:
    """What follows from the numbers."""
    places = [
        _place(entry, when)
        for key, when in (("sigmas", "at the end"), ("sigmas_lowest", "at its lowest"))
        for entry in found[key]
    ]
    return [*places, *_choice(found), _rate(found), *_order(found)]


def _place(entry: dict[str, Any], when: str) -> str:
    start = f"σ = {entry['sigma']:g}, test loss {when}: "
    factors = [size["factor"] for size in entry["sizes"] if size["factor"] is not None]
    if entry["foretells"] is None:
        return start + "no ε lies within the grid of k: cannot tell"
    low, high = min(factors), max(factors)
    miss = f"K_ε is {low:.2g} to {high:.2g} times the k where its excess falls below ε"
    if entry["foretells"]:
        return f"{start}{miss}: it foretells where, within a factor {foretell.FACTOR:g}"
    right = sum(1 / foretell.FACTOR <= x <= foretell.FACTOR for x in factors)
    return (
        f"{start}{miss}: it does NOT foretell where, being right within a factor "
        f"{foretell.FACTOR:g} at {right} of {len(factors)} ε"
    )


def _choice(found: dict[str, Any]) -> list[str]:
    """A warning where only some σ foretell: which ones is known only once networks are refitted."""
    verdicts = {entry["foretells"] for entry in found["sigmas"]}
    if not {True, False} <= verdicts:
        return []
    levels = [entry["loss_variance"][1] for entry in found["sigmas"]]
    span = f"E_q S² goes from {min(levels):.3g} to {max(levels):.3g} {found['unit']}² with σ"
    return [
        f"choice: the answer hangs on σ ({span}), and nothing here tells beforehand which to take"
    ]


def _rate(found: dict[str, Any]) -> str:
    """Whether γ may be 1, by a 95 % interval of Student's t over the repeats."""
    gamma, repeats = found["excess_exponent"], found["repeats"]
    if gamma["value"] is None:
        return "rate: too few k with a clear excess test loss to tell"
    start = f"rate: excess test loss ∝ distance^γ with γ = {gamma['value']:.2f}"
    if gamma["sem"] is None:
        return (
            f"{start} ({gamma['count']} values of k); one repeat has no error: cannot tell whether "
            "it is the 1 that K_ε at every ε needs"
        )
    reach = float(two_sided(0.95, repeats - 1)) * gamma["sem"]
    agree = "may be" if abs(gamma["value"] - 1) <= reach else "is not"
    return (
        f"{start} ± {gamma['sem']:.2f} ({gamma['count']} values of k, {repeats} repeats), which "
        f"{agree} the 1 that K_ε at every ε needs"
    )


def _order(found: dict[str, Any]) -> list[str]:
    pairs = [(entry["sigma"], entry["rank_correlation"]) for entry in found["sigmas"]]
    known = [f"{value:+.2f} at σ = {sigma:g}" for sigma, value in pairs if value is not None]
    if not known:
        return []
    spread = 1 / math.sqrt(found["repeats"] - 1)
    start = "order: at equal k, the rank correlation of distance and test loss over the repeats is"
    chance = f"by chance alone its standard deviation is up to {spread:.2f}"
    return [f"{start} {', '.join(known)}; {chance}"]
