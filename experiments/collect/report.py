"""Where each rule stops collecting, what that saved and what it cost: tables and figures."""

from typing import Any

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.common.run_folder import plain
from experiments.common.tables import Arrays, as_text, between, cell, plus_minus
from jaxscape.lab.style import PREFIX, Keywords, canvas, colour, finish

RULES = {  # what each asks for
    "forecast": "forecast, upper limit below the price",
    "estimate": "forecast, estimate below the price",
    "monitor": "monitor, Δ_k below the tolerance",
    "theorem1": "Nikitin et al., Theorem 1 below it",
    "plateau": "the same, eigenvalues settled too",
    "best": "fewest that keep the price, seen after",
    "all": "all samples",
}

PRICED = ("forecast", "estimate", "best")  # depend on the price
PRICES = (0.01, 0.02, 0.05, 0.1, 0.2)  # at which these are tried besides
SETTLED = 0.1  # relative change since the last look up to which an eigenvalue counts as settled

WORDS = """\
k: samples trained on. Saved: samples never met; a look also meets the arrival that it judges by, a
random stop does not. Paid: test loss above that of all samples, mean ± standard error over the
repeats; !: the price or more. Random: k uniform from the first look to all. As good: random stops
that keep the price and save no less. Misfit: of the curve; well above 1 it is no power law.
K: from where on Δ_k stays below --tolerance. Theorem 1: its value for the last arrival; its rule
stops once that is below --tolerance, with λ_1 settled."""


def summarise(arrays: Arrays, price: float, tolerance: float) -> dict[str, Any]:
    """Where each rule stopped and what it paid, beside stopping at random; what each look said."""
    ks, loss, places = arrays["k"], arrays["test_loss"].mean(0), _places(arrays)
    k = np.arange(places[0]["k"], ks[-1] + 1)
    paid = np.interp(np.log(k), np.log(ks), loss - loss[-1])
    rules = {p: _stops(arrays, places, p, tolerance) for p in sorted({price, *PRICES})}
    for entry in rules[price].values():
        entry["random_as_good"] = float(np.mean((paid < price) & (k <= entry["met"])))
    prices = [
        {"price": p, "random_keeps_price": float(np.mean(paid < p))}
        | {name: entries[name] for name in PRICED}
        for p, entries in rules.items()
    ]
    looks = []
    for row, place in enumerate(places[:-1]):
        low, _, high = arrays["gain"][row]
        names = "gain", "misfit", "exceedance", "theorem1"
        looks.append(place | {name: plain(arrays[name][row]) for name in names} | {
            "held": bool(low <= place["paid"] <= high),
            "monitor_stop": bool(arrays["monitor_stop"][row]),
            "largest_eigenvalue": plain(arrays["eigenvalues"][row, 0]),
        })  # fmt: skip
    return {
        "num_samples": int(ks[-1]), "price": price, "tolerance": tolerance,
        "random": {
            "k": float(k.mean()), "saved": float(np.mean(ks[-1] - k)), "paid": float(paid.mean()),
            "keeps_price": float(np.mean(paid < price)),
        },
        "rules": rules[price], "prices": prices, "looks": looks,
    }  # fmt: skip


def _places(arrays: Arrays) -> list[dict[str, Any]]:
    """Where one can stop, at each look or with all samples, and what that pays in test loss."""
    n, tests = int(arrays["k"][-1]), [name for name in arrays if name.startswith("test_")]
    found: list[dict[str, Any]] = []
    for back, met in enumerate([n, *arrays["look_k"][::-1].tolist()], start=1):
        paid = arrays["test_loss"][:, -back] - arrays["test_loss"][:, -1]
        error = paid.std(ddof=1) / np.sqrt(len(paid)) if len(paid) > 1 else np.nan
        found.append({
            "k": int(arrays["k"][-back]), "met": met, "saved": n - met,
            "paid": float(paid.mean()), "paid_sem": plain(error),
        } | {name: float(arrays[name][:, -back].mean()) for name in tests})  # fmt: skip
    return found[::-1]


def _stops(
    arrays: Arrays, places: list[dict[str, Any]], price: float, tolerance: float
) -> dict[str, dict[str, Any]]:
    """Where each rule stops: at the first look at which it says so.

    That of Nikitin et al. is Theorem 1 below the tolerance, alone and with settled eigenvalues.
    "best" goes by the test split, which no rule may see, so needs no arrival to judge by.
    """
    values, below = arrays["eigenvalues"], arrays["theorem1"] < tolerance
    change = np.abs(np.diff(values, axis=0)) <= SETTLED * np.abs(values[:-1])
    says = {
        "forecast": arrays["gain"][:, 2] < price,
        "estimate": arrays["gain"][:, 1] < price,
        "monitor": arrays["monitor_stop"],
        "theorem1": below,
        "plateau": below & np.append(False, change.all(1)),
        "best": np.array([place["paid"] < price for place in places[:-1]]),
        "all": np.zeros(len(below), bool),
    }
    found = {}
    for name, stop in says.items():
        place = places[int(np.append(stop, True).argmax())]
        found[name] = place | {"stopped": bool(stop.any()), "kept": place["paid"] < price}
    k, n = found["best"]["k"], places[-1]["k"]
    return found | {"best": found["best"] | {"met": k, "saved": n - k}}


def text(found: dict[str, Any]) -> str:
    """All that the command prints of its summary."""
    looks, unit, n = found["looks"], found["unit"], f"{found['num_samples']:,}"
    stop, price = found["rules"]["forecast"], f"the price of {found['price']:g}"
    verdict = f"not stopped by k = {n}: no upper limit is below {price} {unit}"
    if stop["stopped"]:
        low, value, high = next(entry["gain"] for entry in looks if entry["k"] == stop["k"])
        verdict = (
            f"stopped at k = {stop['k']:,}, {stop['met']:,} met: all {n} are forecast to gain "
            f"{value:.3g} {unit} ({low:.3g} to {high:.3g}, 90 %),\nbelow {price}; they really gain "
            f"{plus_minus(stop['paid'], stop['paid_sem'])}"
        )
    held = sum(entry["held"] for entry in looks)
    verdict += f"\nthe forecast's 90 % interval held at {held} of {len(looks)} looks"
    rules, prices, table = (as_text(rows(found)) for rows in (_rules, _prices, _table))
    return "\n\n".join([verdict, rules, WORDS, prices, table])


def _rules(found: dict[str, Any]) -> list[list[str]]:
    """A row per rule, then the mean of stopping at random."""
    rows = [["rule", "k", "saved", "test loss", "accuracy", "paid", "price kept", "random as good"]]
    for name, entry in found["rules"].items():
        kept = entry["kept"]
        paid = plus_minus(entry["paid"], entry["paid_sem"]) if entry["stopped"] else "never stops"
        rows.append([
            RULES[name], f"{entry['k']:,}", f"{entry['saved']:,}", f"{entry['test_loss']:.4g}",
            cell(entry.get("test_accuracy"), ".2%"), paid,
            "yes" if kept else "no", f"{entry['random_as_good']:.0%}" if kept else "-",
        ])  # fmt: skip
    mean, loss = found["random"], found["rules"]["all"]["test_loss"] + found["random"]["paid"]
    rows.append([
        "random, mean", f"{mean['k']:,.0f}", f"{mean['saved']:,.0f}", f"{loss:.4g}", "-",
        f"{mean['paid']:.3g}", f"{mean['keeps_price']:.0%}", "-",
    ])  # fmt: skip
    return rows


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
        rows.append([
            f"{entry['k']:,}", f"{value}, {low} to {high}", f"{entry['paid']:.3g}",
            cell(entry["misfit"], ".2g"),
            between(entry["exceedance"][::2]), "stop" if entry["monitor_stop"] else "go on",
            f"{entry['largest_eigenvalue']:.3g}", f"{entry['theorem1']:.2g}",
        ])  # fmt: skip
    return rows


def forecast(arrays: Arrays, found: dict[str, Any]) -> Figure:
    """Left the curve at the stop (the last look, without one), its losses, and the truth after it.

    Right what all samples would still gain, as forecast at each look, and what they gained.
    """
    stop, unit = found["rules"]["forecast"], found["unit"]
    looks, gained = ([entry[name] for entry in found["looks"]] for name in ("k", "paid"))
    row = looks.index(stop["k"]) if stop["stopped"] else len(looks) - 1
    where = f"{'stopped' if stop['stopped'] else 'last look'} at {looks[row]:,}"
    panels = f"loss ({unit}): {where}", f"what all samples still gain ({unit})"
    title = "Stopping by the learning curve"
    figure, (left, right) = canvas(title, PREFIX, "", panels, share_y=False)
    own: Keywords = {"color": colour(0), "ms": 5}
    seen = own | {"color": colour(1), "mfc": "none", "label": "test split, seen afterwards"}
    low, middle, high = arrays["forecast"][row]
    left.fill_between(arrays["forecast_k"], low, high, color=colour(0), alpha=0.25, lw=0)
    left.plot(arrays["forecast_k"], middle, label="fitted curve, as of the stop", **own)
    losses = arrays["validated"][row].mean(0)
    left.plot(arrays["k"], losses, "o", label="losses on the next arrival", **own)
    left.plot(arrays["k"], arrays["test_loss"].mean(0), "s", **seen)
    low, middle, high = arrays["gain"].T
    right.vlines(looks, low, high, color=colour(0), alpha=0.4, lw=4)
    right.plot(looks, middle, "_", label="forecast at each look", **own | {"ms": 11, "mew": 2})
    right.plot(looks, gained, "s", **seen)
    right.axhline(found["price"], color="0.4", lw=1.3, ls="--", label=f"price {found['price']:g}")
    if stop["stopped"]:
        _mark(left, stop["k"])
        _mark(right, stop["k"])
    finish(figure, "band and bars: 90 % interval")
    left.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 3, 4, 6)))  # at least three
    left.yaxis.set_major_formatter("{x:g}")
    return figure


def monitor(arrays: Arrays, tolerance: float) -> Figure:
    """K that each look predicted, with its interval, against the samples met.

    ``arrays`` holds ``look_k`` [C] and, per look its low, value and high, ``law`` and
    ``exceedance`` [C, 3], infinite where beyond all numbers; ``stopped_k`` where it stopped.
    """
    title = "What the monitor predicted around the network of the time"
    figure, (axes,) = canvas(title, "samples met", "$K$ (samples)")
    names = {"exceedance": "$K$ by Definition 4, over orders", "law": "$K$ of the order law"}
    met = arrays["look_k"]
    for row, (name, label) in enumerate(names.items()):
        low, middle, high = np.where(np.isfinite(arrays[name]), arrays[name], np.nan).T
        axes.fill_between(met, low, high, color=colour(row), alpha=0.25, lw=0)
        axes.plot(met, middle, marker="os"[row], ms=5, color=colour(row), label=label)
    axes.plot(met, met, color="0.4", lw=1.3, label="samples met: above both bands, enough")
    if "stopped_k" in arrays:
        _mark(axes, arrays["stopped_k"][0])
    return finish(figure, f"band: 90 % interval; tolerance of $\\Delta_k$: {tolerance:g}")


def _mark(axes: Axes, k: int) -> None:
    axes.axvline(k, color="black", lw=1.3, ls=":", label=f"stopped at {k:,}")
