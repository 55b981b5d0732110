"""Where each rule stops collecting, what that saved and what it cost: tables and figures."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from experiments.common.run_folder import plain
from experiments.common.tables import as_text, between, plus_minus
from jaxscape.lab.style import PREFIX, canvas, colour, legend

Arrays = Mapping[str, np.ndarray]

RULES = {
    "forecast": "forecast, upper limit below the price",
    "estimate": "forecast, estimate below the price",
    "monitor": "monitor, Δ_k below the tolerance",
    "theorem1": "Nikitin et al., Theorem 1 below it",
    "plateau": "the same, eigenvalues settled too",
    "best": "fewest that keep the price, seen after",
    "all": "all samples",
}
"""What each rule asks for."""

PRICED = ("forecast", "estimate", "best")
"""Those that depend on the price."""

WORDS = """\
k: samples trained on. Saved: samples never met; a look also meets the arrival that it judges by, a
random stop does not. Paid: test loss above that of all samples, mean ± standard error over the
repeats; !: the price or more. Random: k uniform from the first look to all. As good: random stops
that keep the price and save no less. Misfit: of the curve; well above 1 it is no power law.
Theorem 1: of the last arrival, to be below the tolerance of Δ_k, with λ_1 settled."""
"""What the columns of the rules mean."""

PRICES = (0.01, 0.02, 0.05, 0.1, 0.2)
"""At which the rules of the forecast are tried besides."""

SETTLED = 0.1
"""Relative change since the last look up to which an eigenvalue counts as settled."""


def summarise(arrays: Arrays, price: float, tolerance: float) -> dict[str, Any]:
    """Where each rule stopped and what it paid, beside stopping at random; what each look said."""
    ks = arrays["k"]
    k = np.arange(_looks(arrays)[0], ks[-1] + 1)
    paid = np.interp(np.log(k), np.log(ks), arrays["test_loss"].mean(0) - _all(arrays).mean())
    looks = [_look(arrays, row) for row in range(len(arrays["look_k"]))]
    found: dict[str, Any] = {
        "num_samples": int(ks[-1]), "price": price, "tolerance": tolerance,
        "random": {
            "k": float(k.mean()), "saved": float(np.mean(ks[-1] - k)), "paid": float(paid.mean()),
            "keeps_price": float(np.mean(paid < price)),
        },
        "rules": {}, "prices": [], "looks": looks,
    }  # fmt: skip
    for name, entry in _stops(arrays, price, tolerance).items():
        good = (paid < price) & (k <= entry["met"])
        found["rules"][name] = entry | {"random_as_good": float(np.mean(good))}
    for other in sorted({price, *PRICES}):
        entries = _stops(arrays, other, tolerance)
        kept = {"random_keeps_price": float(np.mean(paid < other))}
        found["prices"].append({"price": other} | kept | {name: entries[name] for name in PRICED})
    return found


def rules(arrays: Arrays, price: float, tolerance: float) -> dict[str, Bool[np.ndarray, "J"]]:
    """Whether each rule says stop at each look; "best" by the test split, which none may see.

    That of Nikitin et al. is Theorem 1 below the tolerance, alone and with settled eigenvalues.
    """
    values, below = arrays["eigenvalues"], arrays["theorem1"] < tolerance
    change = np.abs(np.diff(values, axis=0)) <= SETTLED * np.abs(values[:-1])
    return {
        "forecast": arrays["gain"][:, 2] < price,
        "estimate": arrays["gain"][:, 1] < price,
        "monitor": arrays["monitor_stop"],
        "theorem1": below,
        "plateau": below & np.append(False, change.all(1)),
        "best": _paid(arrays).mean(0) < price,
        "all": np.zeros(len(below), bool),
    }


def _looks(arrays: Arrays) -> np.ndarray:
    """The samples trained on at each look."""
    return arrays["k"][-1 - len(arrays["look_k"]) : -1]


def _all(arrays: Arrays) -> Float[np.ndarray, "R 1"]:
    return arrays["test_loss"][:, -1:]


def _paid(arrays: Arrays) -> Float[np.ndarray, "R J"]:
    """The test loss of the networks of each look above that of all samples."""
    return arrays["test_loss"][:, -1 - len(arrays["look_k"]) : -1] - _all(arrays)


def _stops(arrays: Arrays, price: float, tolerance: float) -> dict[str, dict[str, Any]]:
    """Where each rule stops."""
    return {
        name: _stop(arrays, int(np.argmax(row)) if row.any() else None, price, name != "best")
        for name, row in rules(arrays, price, tolerance).items()
    }


def _stop(arrays: Arrays, row: int | None, price: float, met: bool) -> dict[str, Any]:
    """A rule that stopped at look ``row``, or never; it has ``met`` the arrival to judge by."""
    n, every = int(arrays["k"][-1]), np.append(_paid(arrays), 0 * _all(arrays), 1)
    at = len(arrays["look_k"]) if row is None else row
    k = int(np.append(_looks(arrays), n)[at])
    number = k if row is None or not met else int(arrays["look_k"][row])
    paid, repeats = every[:, at], len(every)
    entry = {
        "stopped": row is not None, "k": k, "met": number, "saved": n - number,
        "paid": float(paid.mean()), "kept": bool(paid.mean() < price),
        "paid_sem": plain(paid.std(ddof=1) / np.sqrt(repeats)) if repeats > 1 else None,
    }  # fmt: skip
    for name in ("test_loss", "test_accuracy"):
        if name in arrays:
            entry[name] = float(arrays[name][:, list(arrays["k"]).index(k)].mean())
    return entry


def _look(arrays: Arrays, row: int) -> dict[str, Any]:
    paid = _paid(arrays).mean(0)[row]
    names = "gain", "misfit", "loss_variance", "effective", "law", "exceedance", "theorem1"
    low, _, high = arrays["gain"][row]
    return {
        "k": int(_looks(arrays)[row]), "met": int(arrays["look_k"][row]), "gained": float(paid),
        "held": bool(low <= paid <= high), "monitor_stop": bool(arrays["monitor_stop"][row]),
        "largest_eigenvalue": plain(arrays["eigenvalues"][row, 0]),
        **{name: plain(arrays[name][row]) for name in names},
    }  # fmt: skip


def text(found: dict[str, Any]) -> str:
    """All that the command prints of its summary."""
    looks, unit = found["looks"], found["unit"]
    stop, k = found["rules"]["forecast"], f"k = {found['num_samples']:,}"
    verdict = f"not stopped by {k}: no upper limit is below the price of {found['price']:g} {unit}"
    if stop["stopped"]:
        (gain,) = (entry["gain"] for entry in looks if entry["k"] == stop["k"])
        low, value, high = gain
        verdict = (
            f"stopped at k = {stop['k']:,}, {stop['met']:,} met: all {found['num_samples']:,} are "
            f"forecast to gain {value:.3g} {unit} ({low:.3g} to {high:.3g}, 90 %),\n"
            f"below the price of {found['price']:g}; they really gain {_cost(stop)}"
        )
    held = sum(entry["held"] for entry in looks)
    verdict += f"\nthe forecast's 90 % interval held at {held} of {len(looks)} looks"
    asked = f"K: from where on Δ_k stays below {found['tolerance']:g} (--tolerance)"
    tables = (as_text(part(found)) for part in (_prices, _table))
    parts = verdict, as_text(_rules(found)), WORDS, *tables, asked
    return "\n\n".join(parts)


def _cost(entry: dict[str, Any]) -> str:
    """The test loss that a stop paid."""
    mean, error = entry["paid"], entry["paid_sem"]
    return f"{mean:.3g}" if error is None else plus_minus(mean, error)


def _rules(found: dict[str, Any]) -> list[list[str]]:
    """A row per rule, then the mean of stopping at random."""
    rows = [["rule", "k", "saved", "test loss", "accuracy", "paid", "price kept", "random as good"]]
    mean, n = found["random"], found["num_samples"]
    for name, entry in found["rules"].items():
        right, kept = entry.get("test_accuracy"), entry["kept"]
        rows.append([
            RULES[name], f"{entry['k']:,}", f"{entry['saved']:,}", f"{entry['test_loss']:.4g}",
            "-" if right is None else f"{right:.2%}",
            _cost(entry) if entry["stopped"] else "never stops", "yes" if kept else "no",
            f"{entry['random_as_good']:.0%}" if kept else "-",
        ])  # fmt: skip
    loss = found["rules"]["all"]["test_loss"] + mean["paid"]
    row = ["random, mean", f"{mean['k']:,.0f}", f"{n - mean['k']:,.0f}", f"{loss:.4g}", "-"]
    return [*rows, [*row, f"{mean['paid']:.3g}", f"{mean['keeps_price']:.0%}", "-"]]


def _prices(found: dict[str, Any]) -> list[list[str]]:
    """A row per price: where the rules that depend on it stop, and what they pay."""
    rows = [["price", "upper limit: k", "paid", "estimate: k", "paid", "fewest: k", "paid"]]
    rows[0] += ["random keeps it"]
    for entry in found["prices"]:
        rows.append([f"{entry['price']:g}"])
        for stop in (entry[name] for name in PRICED):
            rows[-1] += [f"{stop['k']:,}", f"{stop['paid']:.3g}" + "!" * (not stop["kept"])]
        rows[-1].append(f"{entry['random_keeps_price']:.0%}")
    return rows


def _table(found: dict[str, Any]) -> list[list[str]]:
    """A row per look."""
    rows = [["k", "all gain, 90 %", "really", "misfit", "K, any order, 90 %", "the monitor"]]
    rows[0] += ["λ_1", "Theorem 1"]
    for entry in found["looks"]:
        low, value, high = (f"{x:.3g}" for x in entry["gain"])
        misfit = "-" if entry["misfit"] is None else f"{entry['misfit']:.2g}"
        rows.append([
            f"{entry['k']:,}", f"{value}, {low} to {high}", f"{entry['gained']:.3g}", misfit,
            between(entry["exceedance"][::2]), "stop" if entry["monitor_stop"] else "go on",
            f"{entry['largest_eigenvalue']:.3g}", f"{entry['theorem1']:.2g}",
        ])  # fmt: skip
    return rows


def forecast(arrays: Arrays, found: dict[str, Any]) -> Figure:
    """Left the curve at the stop (the last look, without one), its losses, and the truth after it.

    Right what all samples would still gain, as forecast at each look, and what they gained.
    """
    stop, looks, unit = found["rules"]["forecast"], _looks(arrays), found["unit"]
    row = list(looks).index(stop["k"]) if stop["stopped"] else len(looks) - 1
    where = f"{'stopped' if stop['stopped'] else 'last look'} at {looks[row]:,}"
    panels = f"loss ({unit}): {where}", f"what all samples still gain ({unit})"
    figure, (left, right) = canvas("Stopping by the learning curve", PREFIX, "", panels,
                                   share_y=False)  # fmt: skip
    low, middle, high = arrays["forecast"][row]
    left.fill_between(arrays["forecast_k"], low, high, color=colour(0), alpha=0.25, lw=0)
    left.plot(arrays["forecast_k"], middle, color=colour(0), label="fitted curve, as of the stop")
    losses = arrays["validated"][row].mean(0)
    left.plot(arrays["k"], losses, "o", ms=5, color=colour(0),
              label="losses on the next arrival")  # fmt: skip
    left.plot(arrays["k"], arrays["test_loss"].mean(0), "s", ms=5, mfc="none", color=colour(1),
              label="test split, seen afterwards")  # fmt: skip
    gain, middle = arrays["gain"][:, [0, 2]], arrays["gain"][:, 1]
    right.vlines(looks, *gain.T, color=colour(0), alpha=0.4, lw=4)
    right.plot(looks, middle, "_", ms=11, mew=2, color=colour(0), label="forecast at each look")
    right.plot(looks, _paid(arrays).mean(0), "s", ms=5, mfc="none", color=colour(1))
    right.axhline(found["price"], color="0.4", lw=1.3, ls="--", label=f"price {found['price']:g}")
    for axes in (left, right):
        axes.set(xscale="log", yscale="log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        if stop["stopped"]:
            _mark(axes, stop["k"])
    legend(figure, "band and bars: 90 % interval")
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
    legend(figure, f"band: 90 % interval; tolerance of $\\Delta_k$: {tolerance:g}")
    return figure


def _mark(axes: Axes, k: int) -> None:
    """Where collecting stopped."""
    axes.axvline(k, color="black", lw=1.3, ls=":", label=f"stopped at {k:,}")
