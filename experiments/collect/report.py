"""Tables and figures of a network trained while its samples arrive, from arrays."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from experiments.common.run_folder import plain
from experiments.common.tables import TREND_WORDS, as_text, between, trend
from jaxscape.lab.style import PREFIX, canvas, colour, legend

METRICS = ("test_accuracy", "test_loss")

WORDS = """\
E S² and K are of the samples that have just arrived, before the network trains on them; "seen" is
E S² of those that it has been trained on. Theorem 1, of one arrival, is the rule of Nikitin et al.:
stop once it is below the tolerance; λ_1 is to have settled too."""
"""What the columns mean."""

SETTLED = 0.1
"""Relative change since the last look up to which an eigenvalue counts as settled."""


def summarise(arrays: dict[str, np.ndarray], tolerance: float) -> dict[str, Any]:
    """Where it stopped, and the tests there, after the remaining steps, with all data."""
    return {
        "num_samples": len(arrays["order"]),
        "tolerance": tolerance,
        "stopped": "stopped_k" in arrays,
        "stopped_k": int(arrays["stopped_k"][0]) if "stopped_k" in arrays else None,
        "looks": [_look(arrays, row) for row in range(len(arrays["look_k"]))],
        "paper_stop": paper_stop(arrays, tolerance),
        **{name: _scores(arrays, name) for name in METRICS if name in arrays},
    }


def paper_stop(arrays: dict[str, np.ndarray], tolerance: float) -> dict[str, Any] | None:
    """Where the rule of Nikitin et al. stops, by Theorem 1 and with settled eigenvalues too.

    None along other directions than eigenvectors; a k that is None is never.
    """
    if "theorem1" not in arrays:
        return None
    below = arrays["theorem1"] < tolerance
    values = arrays["eigenvalues"]
    change = np.abs(np.diff(values, axis=0)) <= SETTLED * np.abs(values[:-1])
    settled = np.append(False, change.all(1))
    found: dict[str, Any] = {}
    for name, rule in (("theorem1", below), ("plateau", below & settled)):
        found[name] = int(arrays["look_k"][np.argmax(rule)]) if rule.any() else None
    return found


def _look(arrays: dict[str, np.ndarray], row: int) -> dict[str, Any]:
    k = int(arrays["look_k"][row])
    entry = {"k": k, "effective_samples": plain(arrays["effective"][row])}
    entry["trend"] = plain(arrays["trend"][row])
    for name in ("loss_variance", "law", "exceedance", "loss_variance_seen", "theorem1"):
        if name in arrays:
            entry[name] = plain(arrays[name][row])
    if "eigenvalues" in arrays:
        entry["largest_eigenvalue"] = plain(arrays["eigenvalues"][row, 0])
    at = int(np.searchsorted(arrays["k"], k))
    entry |= {name: float(arrays[name][at]) for name in METRICS if name in arrays}
    return entry | {"stop": bool(arrays["stop"][row])}


def _scores(arrays: dict[str, np.ndarray], name: str) -> dict[str, Any]:
    """With all data; at the stop, after equal steps, and the difference of the two networks.

    Both have the same test samples, so the standard error is that of the mean difference. "recent"
    are means over the last tenth of the arrivals, which depend less on the last step.
    """
    every = arrays[name]
    if f"stopped_{name}" not in arrays:
        return {"all": float(every[-1])}
    stopped = arrays[f"stopped_{name}"]
    ends = (arrays[f"{where}final_{name}"].astype(np.float64) for where in ("stopped_", ""))
    gaps = np.subtract(*ends)
    error = gaps.std(ddof=1) / math.sqrt(len(gaps)) if len(gaps) > 1 else math.nan
    last = min(max(1, len(every) // 10), len(stopped))
    return {
        "all": float(every[-1]),
        "at_stop": float(stopped[0]),
        "stopped": float(stopped[-1]),
        "difference": float(gaps.mean()),
        "difference_sem": plain(error),
        "recent_stopped": float(stopped[-last:].mean()),
        "recent_all": float(every[-last:].mean()),
    }


def text(found: dict[str, Any]) -> str:
    """All that the command prints of its summary."""
    words = f"{WORDS}\n{TREND_WORDS}"
    asked = f"K: from where on Δ_k stays below {found['tolerance']:g} (--tolerance)"
    parts = asked, _verdict(found), _table(found["looks"]), words, _comparison(found)
    return "\n\n".join(part if isinstance(part, str) else as_text(part) for part in parts)


def _table(looks: list[dict[str, Any]]) -> list[list[str]]:
    """A row per look."""
    score = next(name for name in METRICS if name in looks[0])
    rows = [["samples", score.replace("_", " "), "E S², 90 %", "effective", "trend"]]
    rows[0] += ["seen", "K, any order, 90 %", "the monitor"]
    eigen = "theorem1" in looks[0]
    rows[0] += ["λ_1", "Theorem 1"] if eigen else []
    for entry in looks:
        low, level, high = ("any" if x is None else f"{x:.3g}" for x in entry["loss_variance"])
        effective, seen = entry["effective_samples"], entry["loss_variance_seen"]
        rows.append([
            f"{entry['k']:,}", _value(score, entry[score]), f"{level}, {low} to {high}",
            "-" if effective is None else f"{effective:,.0f}",
            trend(entry["trend"]), "-" if seen is None else f"{seen:.3g}",
            between(entry["exceedance"][::2]), "stop" if entry["stop"] else "go on",
        ])  # fmt: skip
        if eigen:
            theorem = "-" if entry["theorem1"] is None else f"{entry['theorem1']:.2g}"
            rows[-1] += [f"{entry['largest_eigenvalue']:.3g}", theorem]
    return rows


def _verdict(found: dict[str, Any]) -> str:
    n, k, last = found["num_samples"], found["stopped_k"], found["looks"][-1]
    limit, effective = between([last["exceedance"][2]]), last["effective_samples"] or 0
    own = f"the upper limit of K is {limit}, the effective sample size {effective:,.0f}"
    own = f"not stopped by k = {n:,}: {own}"
    if found["stopped"]:
        own = f"stopped at k = {k:,} of {n:,} ({k / n:.1%})"
    if found["paper_stop"] is None:
        return own
    ks = {name: _at(k, found["looks"]) for name, k in found["paper_stop"].items()}
    rule = f"the rule of Nikitin et al., Theorem 1 below the tolerance: {ks['theorem1']}"
    return f"{own}\n{rule}; with eigenvalues settled within {SETTLED:.0%} too: {ks['plateau']}"


def _at(k: int | None, looks: list[dict[str, Any]]) -> str:
    """Where a rule stops, and the test there."""
    if k is None:
        return "never"
    (entry,) = (look for look in looks if look["k"] == k)
    score = next(name for name in METRICS if name in entry)
    return f"k = {k:,} ({score.replace('_', ' ')} {_value(score, entry[score])})"


def _comparison(found: dict[str, Any]) -> list[list[str]]:
    """Rows of text: the tests of the network that stopped beside that of all data.

    ± is the standard error over the test samples alone. The seed moves both networks more.
    """
    header = ["on the test split", "all data"]
    if found["stopped"]:
        header += ["at the stop", "stopped, equal steps"]
        header += ["difference ± of the test samples", "verdict"]
        header += ["last tenth: all data", "stopped"]
    rows = [header]
    for name in (name for name in METRICS if name in found):
        entry, value = found[name], partial(_value, name)
        row = [name.removeprefix("test_"), value(entry["all"])]
        if found["stopped"]:
            gap, error = entry["difference"], entry["difference_sem"]
            error = math.inf if error is None else error
            scale, unit = (100, "points") if name == "test_accuracy" else (1, found["unit"])
            gains = (gap > 0) == (name == "test_accuracy")
            verdict = "a gain" if gains else "a cost"
            row += [
                value(entry["at_stop"]), value(entry["stopped"]),
                f"{gap * scale:+.2g} ± {error * scale:.2g} {unit}",
                verdict if abs(gap) > 2 * error else "no clear difference",
                value(entry["recent_all"]), value(entry["recent_stopped"]),
            ]  # fmt: skip
        rows.append(row)
    return rows


def _value(name: str, value: float) -> str:
    return f"{value:.2%}" if name == "test_accuracy" else f"{value:.4g}"


Arrays = Mapping[str, np.ndarray]


def network(arrays: Arrays, metric: str, unit: str) -> Figure:
    """The test loss, or the share of test samples predicted wrongly, against the samples arrived.

    ``arrays`` holds ``k`` and ``metric``, "test_loss" or "test_accuracy", [A], after every arrival.
    Where collecting stopped also ``stopped_k`` and that metric [A'], of the network that trained on
    without new samples while these k arrived.
    """
    curves = [arrays[name] for name in (metric, f"stopped_{metric}") if name in arrays]
    ylabel = f"test loss ({unit})"
    if metric == "test_accuracy":
        curves, ylabel = [100 * (1 - curve) for curve in curves], "test error (%)"
    title = "Network trained while its samples arrive"
    figure, (axes,) = canvas(title, "samples arrived", ylabel)
    axes.plot(arrays["k"], curves[0], color=colour(0), label="with all that arrive")
    if "stopped_k" in arrays:
        label = "with none after the stop, equal steps"
        axes.plot(arrays["stopped_k"], curves[1], "--", color=colour(1), label=label)
        _mark(axes, arrays["stopped_k"][0])
    axes.set_yscale("log")
    _numbers(axes.yaxis, "{x:g}")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    legend(figure, "each point: the network at that time, on the test split")
    return figure


def monitor(arrays: Arrays, tolerance: float) -> Figure:
    """K that each look predicted, with its interval, against the samples met.

    ``arrays`` holds ``look_k`` [C] and, per look its low, value and high, ``law`` and
    ``exceedance`` [C, 3], infinite where beyond all numbers; ``stopped_k`` where it stopped.
    """
    title = "What the monitor predicted around the network of the time"
    figure, (axes,) = canvas(title, PREFIX, "$K$ (samples)")
    names = {"exceedance": "$K$ by Definition 4, over orders", "law": "$K$ of the order law"}
    for row, (name, label) in enumerate(names.items()):
        low, middle, high = np.where(np.isfinite(arrays[name]), arrays[name], np.nan).T
        axes.fill_between(arrays["look_k"], low, high, color=colour(row), alpha=0.25, lw=0)
        axes.plot(arrays["look_k"], middle, marker="os"[row], ms=5, color=colour(row), label=label)
    met = arrays["look_k"]
    axes.plot(met, met, color="0.4", lw=1.3, label="samples met: above both bands, enough")
    if "stopped_k" in arrays:
        _mark(axes, arrays["stopped_k"][0])
    axes.set(xscale="log", yscale="log")
    _numbers(axes.xaxis, "{x:,.0f}")
    _numbers(axes.yaxis, "{x:,.0f}")
    legend(figure, f"band: 90 % interval; tolerance of $\\Delta_k$: {tolerance:g}")
    return figure


def _numbers(axis: Axis, form: str) -> None:
    """Plain numbers at 1, 2 and 5 of a logarithmic axis that may span less than a decade."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(StrMethodFormatter(form))
    axis.set_minor_formatter(NullFormatter())


def _mark(axes: Axes, k: int) -> None:
    """Where collecting stopped."""
    axes.axvline(k, color="black", lw=1.3, ls=":", label=f"stopped at {k:,}")
