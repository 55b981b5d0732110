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
from experiments.common.tables import as_text, between
from jaxscape.lab.style import PREFIX, canvas, colour, legend

METRICS = ("test_accuracy", "test_loss")

SEEN = (
    "E S² and K are of samples that the network was trained on. Of new samples E S² may be far\n"
    "larger, most so at small σ: sweep tells by how much."
)


def summarise(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Where it stopped, and the tests there, after the remaining steps, with all data."""
    return {
        "num_samples": len(arrays["order"]),
        "stopped": "stopped_k" in arrays,
        "stopped_k": int(arrays["stopped_k"][0]) if "stopped_k" in arrays else None,
        "looks": [_look(arrays, row) for row in range(len(arrays["look_k"]))],
        **{name: _scores(arrays, name) for name in METRICS if name in arrays},
    }


def _look(arrays: dict[str, np.ndarray], row: int) -> dict[str, Any]:
    k = int(arrays["look_k"][row])
    entry = {"k": k, "effective_samples": plain(arrays["effective"][row])}
    entry |= {name: plain(arrays[name][row]) for name in ("loss_variance", "law", "exceedance")}
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
    parts = _table(found["looks"]), SEEN, _verdict(found), _comparison(found)
    return "\n\n".join(part if isinstance(part, str) else as_text(part) for part in parts)


def _table(looks: list[dict[str, Any]]) -> list[list[str]]:
    """A row per look."""
    score = next(name for name in METRICS if name in looks[0])
    names = ["samples", score.replace("_", " "), "E S²", "90 %", "effective"]
    rows = [[*names, "K, order law, 90 %", "K, any order, 90 %", "the monitor"]]
    for entry in looks:
        low, level, high = ("any" if x is None else f"{x:.3g}" for x in entry["loss_variance"])
        effective = entry["effective_samples"]
        rows.append([
            f"{entry['k']:,}", _value(score, entry[score]), level, f"{low} to {high}",
            "-" if effective is None else f"{effective:,.0f}",
            between(entry["law"][::2]), between(entry["exceedance"][::2]),
            "stop" if entry["stop"] else "go on",
        ])  # fmt: skip
    return rows


def _verdict(found: dict[str, Any]) -> str:
    n, k, last = found["num_samples"], found["stopped_k"], found["looks"][-1]
    if found["stopped"]:
        return f"stopped at k = {k:,} of {n:,} ({k / n:.1%})"
    return (
        f"not stopped by k = {n:,}: the upper limit of K is {between([last['exceedance'][2]])}, "
        f"the effective sample size {last['effective_samples'] or 0:,.0f}"
    )


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
