"""Tables and figures of networks refitted on the first k samples, from arrays."""

import math
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.common.tables import Arrays, as_text, cell
from experiments.refit import prediction
from jaxscape.lab.style import PREFIX, canvas, colour, curve, finish

WORDS = """\
Means over the repeats. ‖∇‖: of L_k + (λ/2)‖w‖² at w*_k. ε: a share of the loss, or error, of w*_N.
Networks: the k between which their excess falls below ε for good. Forecasts of that k: under the
data set by which factor they miss, on average over ε and orders; k / truth: their ratio to it."""


def networks(arrays: Arrays) -> list[dict[str, Any]]:
    """One entry per k: means over the repeats, and the standard error of the test loss."""
    loss = arrays["test_loss"]
    each = {"test_loss": loss[:, -1], "lowest_test_loss": loss.min(1)}
    each |= {name: arrays[name] for name in ("train_loss", "full_loss", "gradient_norm")}
    if "test_accuracy" in arrays:
        each["test_accuracy"] = arrays["test_accuracy"][:, -1]
    columns = {"k": arrays["k"]} | {name: x.mean(0, np.float64) for name, x in each.items()}
    if len(loss) > 1:
        columns["test_loss_sem"] = loss[:, -1].std(0, np.float64, ddof=1) / math.sqrt(len(loss))
    rows = zip(*(values.tolist() for values in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def text(found: dict[str, Any]) -> str:
    """All that the command prints of its summary."""
    tables = _networks_table(found["networks"]), _truth_table(found["truth"])
    parts = [*map(as_text, (*tables, forecast_table(pooled([found])))), WORDS]
    if not any("curve" in forecast["name"] for forecast in found["forecasts"]):
        parts.append("no learning curve: fewer than four k up to N/4; raise --num-ks or --k-max")
    return "\n\n".join(parts)


def _networks_table(entries: list[dict[str, Any]]) -> list[list[str]]:
    """A row per k."""
    rows = [["k", "L_k(w*_k)", "test loss", "lowest", "accuracy", "‖∇‖"]]
    for entry in entries:
        error = f" ± {entry['test_loss_sem']:.1g}" if "test_loss_sem" in entry else ""
        rows.append([
            f"{entry['k']:,}", f"{entry['train_loss']:.2g}", f"{entry['test_loss']:.4f}{error}",
            f"{entry['lowest_test_loss']:.4f}",
            cell(entry.get("test_accuracy"), ".2%"), f"{entry['gradient_norm']:.1g}",
        ])  # fmt: skip
    return rows


def _truth_table(truth: dict[str, list[dict[str, Any]]]) -> list[list[str]]:
    """A row per ε."""
    rows = [["of", "share", "ε", "networks"]]
    for of, entries in truth.items():
        for entry in entries:
            low, high = entry["networks"]
            between = f"{low:,} to {high:,}" if low else f"up to {high:,}"
            rows.append([of, f"{entry['share']:g}", f"{entry['epsilon']:.3g}", between])
    return rows


def pooled(summaries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry per forecast over all runs, and its misses in each group of them."""
    groups = sorted({(run["dataset"], run["weight_decay"]) for run in summaries})
    found: dict[tuple, dict[tuple, list]] = {}
    for run in summaries:
        for entry in run["forecasts"]:
            kind = entry["name"], entry["of"], entry["samples"]
            own = found.setdefault(kind, {group: [] for group in groups})
            own[run["dataset"], run["weight_decay"]].append(entry)
    return [
        {"name": name, "of": of, "samples": samples}
        | {"misses": {group: prediction.pooled(some)["miss"] for group, some in own.items()}}
        | prediction.pooled([entry for some in own.values() for entry in some])
        for (name, of, samples), own in found.items()
    ]


def forecast_table(entries: list[dict[str, Any]]) -> list[list[str]]:
    """A row per forecast: by which factors it misses in each group of runs; per pilot."""
    rows = [["forecast", "of", "samples"]]
    rows[0] += [f"{data}, λ = {decay:g}" for data, decay in entries[0]["misses"]]
    rows[0] += ["k / truth", f"within a factor {prediction.FACTOR:g}", "90 % held", "its law"]
    for kind in dict.fromkeys((entry["name"], entry["of"]) for entry in entries):
        pilots = []
        for entry in (entry for entry in entries if (entry["name"], entry["of"]) == kind):
            numbers = [cell(x, ".2g") for x in (*entry["misses"].values(), entry["ratio"])]
            shares = [cell(entry[share], ".0%") for share in ("within", "share_held")]
            pilots.append([f"{entry['samples']:,}", *numbers, *shares, entry["regime"] or "-"])
        rows.append([*kind, *map(" / ".join, zip(*pilots, strict=True))])
    return rows


def networks_figure(entries: list[dict[str, Any]], unit: str) -> Figure:
    """Losses of w*_k against k: on the test split at the end and at its lowest, L_N and L_k."""
    title = "Networks refitted on the first k samples"
    figure, (axes,) = canvas(title, PREFIX, f"mean loss of $w^*_k$ ({unit})")
    losses = {
        "test_loss": "test split, at the end", "lowest_test_loss": "its lowest",
        "full_loss": "all samples, $L_N$", "train_loss": "its own, $L_k$",
    }  # fmt: skip
    for row, (name, label) in enumerate(losses.items()):
        k, values = ([entry[key] for entry in entries] for key in ("k", name))
        axes.plot(k, values, label=label, **curve(row))
    return finish(figure, "means over the repeats")


def forecasts(entries: list[dict[str, Any]]) -> Figure:
    """What each forecast is over the truth, in the geometric mean over ε and orders, against its
    samples, with a bar from the least to the largest. K of new samples is left to the table.
    """
    title, xlabel = "Forecasts of where more data stops paying", "samples of the forecast"
    known = [e for e in entries if e["factors"] and "new samples" not in e["name"]]
    names, kinds = (list(dict.fromkeys(e[x] for e in known)) for x in ("name", "of"))
    figure, panels = canvas(title, xlabel, "forecast of k / truth", kinds or [""])
    for axes, of in zip(panels, kinds or [""], strict=True):
        for row, name in enumerate(names):
            own = [e for e in known if (e["name"], e["of"]) == (name, of)]
            if own:
                x = np.array([e["samples"] for e in own]) * 1.04 ** (row - len(names) / 2)
                y = [e["ratio"] for e in own]
                ends = np.array([(min(e["factors"]), max(e["factors"])) for e in own]).T
                axes.vlines(x, *ends, color=colour(row), lw=1, alpha=0.6)
                axes.plot(x, y, label=name, **curve(row) | {"marker": "o", "ms": 4})
        axes.axhspan(1 / prediction.FACTOR, prediction.FACTOR, color="0.9", zorder=0)
    note = f"bars: from the least to the largest; grey: a factor {prediction.FACTOR:g}"
    return finish(figure, note)
