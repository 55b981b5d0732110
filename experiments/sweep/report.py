"""The report of a sweep: tables, figures with captions, report.html."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

import jaxscape as js
from experiments.common import run_folder, tables
from experiments.sweep.measure import RISE
from jaxscape.lab import plot
from jaxscape.loss_variance import TREND, TRUSTED

MARK = "* within the last 5 % of the samples: too few follow to tell whether it lasts"
"""Below a table of K."""

CAPTIONS = {
    "delta": "Δ_k against k. Each value depends on the one sample k+1: dots are the extremes of "
    "narrow bins, the line the mean over bins of equal width in log k, the band its error.",
    "delta_k2": "Δ_k·k²; dashed the order law, its mean over all orders of these samples. That of "
    "one order may lie far below it until the few samples arrive that dominate the variance.",
    "centered": "Δ_k beside its centered part, which leaves out shifts of the whole surface.",
    "sizes": "K against tolerance: markers one past the last exceedance in this order "
    "(Definition 4), lines the order law, which is the mean over orders and so comes earlier.",
    "law": "Monte-Carlo beside the quadratic law, in full and as published (Figure 9 of Nikitin et "
    "al. 2025). Where the full law lies on the curve, the loss is quadratic at the points.",
    "law_parts": "Shares of the law's parts: offset a², gradient σ²‖b‖², curvature, mixed σ² a tr "
    "A (which may be negative). They explain Δ_k only where the law holds.",
    "eigenvalues": "The largest eigenvalues of the Hessian over all samples; bars are residuals.",
}

WORDS = """\
w*: the parameters trained on all samples, the same for every k. L_k: the mean loss of the first k
samples. Points: random steps from w* of standard deviation σ along each direction. Δ_k: the mean
over them of (L_{k+1} − L_k)². Δ_k and tolerances are squares: 1e-06 is a step of 0.001.

K: the k from which on Δ_k stays below the tolerance, in the order of this run; 1: never above it.
Any order: where K lies in 90 % of the orders of these samples. Not by n: Δ_k of the last of all n
samples is not below it yet."""
"""What the answers and the printed table of K speak of."""
LEVELS = """\
E S²: variance of the loss from sample to sample, mean over the points; 90 %: of the run's samples
for other points, of new ones for other samples too; effective: how many samples it comes from, for
these samples and for new ones; new / own: E S² of new ones over that of these. That Δ_k·k² is near
E S², and the exponent near 2, is algebra (the order law: mean over all orders)."""


def tell(record: run_folder.Record) -> None:
    """Print the answer of every sigma, then K, then what they rest on."""
    found = record.summary
    levels, sizes, laws = tables_of(found)
    print("\n" + ", ".join(f"{name} {value}" for name, value in network(found)))
    for text in ("\n".join(verdicts(found)), WORDS):
        print(f"\n{text}")
    texts = {MARK: [row[:4] for row in sizes], LEVELS: levels, tables.LAW_WORDS: laws}
    for words, table in texts.items():
        print(f"\n{tables.as_text(table)}\n{words}")
    where = "report" if record.figures else "finished before, left as it is"
    print(f"\n{where}: {record.folder / 'report.html'}")


def verdicts(found: dict[str, Any]) -> list[str]:
    """The answer to the question of the title at every sigma, and what to know of it, in words."""
    said = [_verdict(entry, found) for entry in found["sigmas"]]
    if abs(found["trend"]) > TREND:
        said.append(
            "The order of these samples is not random: their loss at w* has a trend of "
            f"{found['trend']:+.1f} standard errors (random orders: ±{TREND}). K is of this "
            "order; what is said of any order, or of the mean over orders, is of the same samples "
            "shuffled."
        )
    if found["near_sigma"] is not None:
        said.append(
            f"Which σ: by the quadratic model the mean loss at the points is {100 * RISE:.0f} % "
            f"above that at w* at σ = {found['near_sigma']:.2g}; larger ones look farther."
        )
    return said


def _verdict(entry: dict[str, Any], found: dict[str, Any]) -> str:
    n, unit = found["num_samples"], found["unit"].removesuffix("²")
    near, own = entry["mean_loss"], found["train_loss"]
    look = "close" if near <= 1.5 * own else "middling" if near < 10 * own else "wide"
    step = np.sqrt(entry["order_law_k2"]) / n
    sizes = sorted(entry["sufficient_size"], key=lambda size: size["tolerance"])
    reached = [size for size in sizes if size["reached"] and size["k"] <= plot.LATE * n]
    size = reached[0] if reached else sizes[-1]
    below = f"below {np.sqrt(size['tolerance']):.3g} {unit} (tolerance {size['tolerance']:g})"
    if reached:
        answer = f"That stays {below} from K = {size['k']:,} on."
    elif size["reached"]:
        answer = f"It is {below} from {size['k']:,} on: too few follow to tell."
    else:
        half = 4 * entry["order_law_k2"] / n**2
        answer = f"It is not {below} for good within the run; by the order law Δ_k is below "
        answer += f"{half:.1g} {unit}² from half of these samples on."
    return (
        f"σ = {entry['sigma']:g}, a {look} look (mean loss at the points {near:.3g} {unit}, "
        f"{own:.3g} at w*): near k = {n:,} one more such sample moves L_k by {step:.2g} {unit} "
        f"(root mean square). {answer} {_of_new(entry, size, found)} {_trust(entry)}"
    )


def _of_new(entry: dict[str, Any], size: dict[str, Any], found: dict[str, Any]) -> str:
    """What is said of new samples, at the tolerance of ``size``."""
    if "fresh_order_law_k2" not in entry:
        return "Of new samples it says nothing: there are none (a test split, --holdout)."
    n = found["num_samples"]
    low, high = (n if k is None else k for k in size["fresh_ci"])
    where = ", beyond this run" if low >= n else ", partly beyond this run" if high >= n else ""
    times = "some" if entry["order_law_k2"] == 0 else f"{entry['fresh_over_own']:.3g} times the"
    return (
        f"New samples ({found['fresh']}) have {times} variance E S²: of a stream of "
        f"them K at that tolerance is {tables.between(size['fresh_ci'])} (90 %{where})."
    )


def _trust(entry: dict[str, Any]) -> str:
    """From how many samples E S² comes, and so how far the numbers can be trusted."""
    names = {"effective_samples": "these", "fresh_effective_samples": "new ones"}
    counts = {words: entry[name] or 0 for name, words in names.items() if name in entry}
    said = ", ".join(f"{int(count):,} of {words}" for words, count in counts.items())
    good = "good" if min(counts.values()) >= TRUSTED else "little"
    return f"Trust in E S²: {good} (effective sample size {said}; {TRUSTED} or more is good)."


def network(found: dict[str, Any]) -> list[tuple[str, str]]:
    """The trained network: how large it is, how well it does."""
    rows = {"parameters": ("num_parameters", ","), "training loss": ("train_loss", ".4g"),
            "test loss": ("test_loss", ".4g"), "test accuracy": ("test_accuracy", ".2%"),
            "unit of Δ_k and tolerances": ("unit", "")}  # fmt: skip
    known = {label: (found[name], style) for label, (name, style) in rows.items()}
    return [(label, f"{x:{style}}") for label, (x, style) in known.items() if x is not None]


def tables_of(found: dict[str, Any]) -> list[list[list[str]]]:
    """The level of Δ_k·k² at each sigma, K, and the law beside Monte-Carlo."""
    entries, n = found["sigmas"], found["num_samples"]
    return [levels_table(entries), sizes_table(entries, n), tables.law_table(entries)]


def levels_table(entries: list[dict[str, Any]]) -> list[list[str]]:
    """E S² of the run's samples and of new ones at each sigma; the decay of Δ_k."""
    rows = [["sigma", "mean loss", "mean Δ_k·k²", "E S², 90 %", "effective"]]
    rows[0] += ["E S², new samples, 90 %", "effective", "new / own", "decay exponent"]
    for entry in entries:
        exponent, sem = entry["decay_exponent"]["value"], entry["decay_exponent"]["sem"]
        rows.append([
            f"{entry['sigma']:g}", f"{entry['mean_loss']:.3g}", f"{entry['mean_delta_k2']:.4g}",
            *_level_cells(entry, ""), *_level_cells(entry, "fresh_"),
            tables.cell(entry.get("fresh_over_own"), ".3g"),
            "-" if None in (exponent, sem) else tables.plus_minus(exponent, sem),
        ])  # fmt: skip
    return rows


def _level_cells(entry: dict[str, Any], whose: str) -> list[str]:
    if f"{whose}order_law_k2" not in entry:
        return ["-", "-"]
    limits = ["any" if x is None else f"{x:.3g}" for x in entry[f"{whose}order_law_k2_ci"]]
    effective = entry[f"{whose}effective_samples"]
    level = f"{entry[f'{whose}order_law_k2']:.4g}, {' to '.join(limits)}"
    return [level, "-" if effective is None else f"{int(effective):,}"]


def sizes_table(entries: list[dict[str, Any]], n: int) -> list[list[str]]:
    """K per sigma and tolerance within the run, and of new samples; a star near the last k."""
    rows = [["sigma", "tolerance", "K", "any order, 90 %", "mean of orders, 90 %"]]
    rows[0] += ["K of Theorem 1", "K, new samples, any order, 90 %", "mean of orders, 90 %"]
    rows[0].append("K_ε, new samples, 90 %")
    never = f"not by {n:,}"

    def starred(k: int | None) -> str:
        return tables.count(k, never) + "*" * (k is not None and k > plot.LATE * n)

    def with_limits(size: dict[str, Any], name: str, *never: str) -> str:
        words = tables.count(size[f"{name}_k"], *never), tables.between(size[f"{name}_ci"], *never)
        return ", ".join(dict.fromkeys(words))

    for entry in entries:
        for size in entry["sufficient_size"]:
            cells = [starred(size["k"]), tables.between(size["ci"], never)]
            cells.append(with_limits(size, "law", never))
            curved = "theorem1_curvature_k"
            cells.append(starred(size[curved]) if curved in size else "-")
            if "fresh_ci" in size:
                cells.append(tables.between(size["fresh_ci"]))
                cells += [with_limits(size, name) for name in ("fresh_law", "distance")]
            cells += ["-"] * (7 - len(cells))
            rows.append([f"{entry['sigma']:g}", f"{size['tolerance']:g}", *cells])
    return rows


def figures_of(arrays: dict[str, np.ndarray], found: dict[str, Any]) -> dict[str, Figure]:
    """From the arrays of results.npz and the summary; without those that would be empty."""
    labels = [f"σ = {sigma:g}" for sigma in arrays["sigma"]]
    common = {"labels": labels, "unit": found["unit"]}
    k, delta, sem = arrays["k"], arrays["delta"], arrays["delta_sem"]
    figures = {
        "delta": plot.delta(k, delta, sem, **common),
        "delta_k2": plot.delta_k2(k, delta, sem, loss_variance=arrays["loss_variance"], **common),
        "centered": plot.centered(k, delta, arrays["delta_centered"], **common),
        "sizes": _sizes(arrays["delta"], found, common),
    }
    if "law_total" in arrays:
        theory = {
            "full law": arrays["law_total"],
            "Theorem 1: curvature part": arrays["law_curvature"],
            "Theorem 1 as its code has it: diagonal": arrays["law_diagonal"],
        }
        parts = {p: arrays[f"law_{p}"] for p in ("offset", "gradient", "curvature", "mixed")}
        figures["law"] = plot.law(k, delta, theory, **common)
        words = [tables.VERDICTS[entry.get("law_holds", "")] for entry in found["sigmas"]]
        titles = [f"{label} (law: {word})" for label, word in zip(labels, words, strict=True)]
        figures["law_parts"] = plot.law_parts(k, parts, titles)
    if len(arrays["eigenvalues"]):
        pairs = arrays["eigenvalues"], arrays["eigenvalue_residuals"]
        figures["eigenvalues"] = plot.eigenvalues(*pairs, unit=found["unit"].removesuffix("²"))
    return figures


def _sizes(delta: np.ndarray, found: dict[str, Any], common: dict[str, Any]) -> Figure:
    """K against tolerance, over all tolerances that the measured curves meet."""
    positive, n = delta[delta > 0], found["num_samples"]
    low, high = (positive.min(), positive.max()) if positive.size else (0.1, 1.0)
    tolerances = np.geomspace(low, high, 80).astype(np.float32)
    measured = np.asarray(js.sufficient_size(delta[:, None], tolerances).k)
    limits = [np.insert(e["order_law_k2_ci"], 1, e["order_law_k2"]) for e in found["sigmas"]]
    law = js.increment_size(np.array(limits, np.float32)[..., None], tolerances)
    predicted = np.where(law.reached & (law.k < n), law.k, np.nan)
    return plot.sufficient_sizes(tolerances, measured, predicted, n, **common)


def write(folder: Path, record: run_folder.Record, facts: dict[str, Any]) -> None:
    """``report.html``, from the figures in ``folder`` and the content of config.json."""
    found, arrays = record.summary, record.arrays
    levels, sizes, laws = tables_of(found)
    values, residuals = arrays["eigenvalues"], arrays["eigenvalue_residuals"]
    rest = facts | {"seconds": found["seconds"]}
    leaves = jax.tree_util.tree_leaves_with_path(rest, is_leaf=lambda x: not isinstance(x, dict))
    leaves = [(path, x) for path, x in leaves if x != ""]
    label = partial(jax.tree_util.keystr, simple=True, separator=", ")
    run_folder.render(
        folder, "report.html.j2",
        pictures=[run_folder.image(folder / "figures", x, CAPTIONS[x]) for x in record.figures],
        title=found["dataset_title"], notes=notes(found), verdicts=verdicts(found),
        unit=found["unit"], from_k=min(tables.FROM, found["num_samples"] // 2),
        fresh=found["fresh"], sizes=sizes, levels=levels, laws=laws, mark=MARK,
        eigenvalues=list(zip(values, residuals, found["eigenvalues_converged"], strict=True)),
        facts=[*network(found), *((label(path).replace("_", " "), x) for path, x in leaves)],
    )  # fmt: skip


def notes(found: dict[str, Any]) -> list[str]:
    """What the reader must know before the numbers."""
    lost, num = found["eigenvalues_converged"].count(False), len(found["eigenvalues"])
    inexact = f"{lost} of {num} eigenpairs did not converge: the directions are approximate."
    return [line for line in (found["dataset_note"], inexact if lost else "") if line]
