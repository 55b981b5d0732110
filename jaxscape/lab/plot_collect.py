"""Figures of a network trained while its samples arrive, from arrays."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from jaxscape.lab.curves import PREFIX
from jaxscape.lab.style import canvas, colour, legend

Arrays = Mapping[str, np.ndarray]


def loss(arrays: Arrays, *, dataset: str, fallback: bool = False, unit: str = "nats") -> Figure:
    """The test loss against the samples that have arrived.

    ``arrays`` holds ``k`` and ``test_loss`` [A], after every arrival; where collecting stopped
    also ``stopped_k`` and ``stopped_test_loss`` [A'], of the network that trained on without new
    samples while these k arrived.
    """
    curves = [arrays[name] for name in ("test_loss", "stopped_test_loss") if name in arrays]
    return _network(arrays, curves, f"test loss ({unit})", dataset, fallback)


def error(arrays: Arrays, *, dataset: str, fallback: bool = False) -> Figure:
    """The share of test samples told wrong, as ``loss``, from ``test_accuracy``."""
    names = ("test_accuracy", "stopped_test_accuracy")
    curves = [100 * (1 - arrays[name]) for name in names if name in arrays]
    return _network(arrays, curves, "test error (%)", dataset, fallback)


def _network(
    arrays: Arrays, curves: Sequence[np.ndarray], ylabel: str, dataset: str, fallback: bool
) -> Figure:
    title = f"Network trained while its samples arrive: {dataset}"
    figure, (axes,) = canvas(title, "samples arrived", ylabel, fallback=fallback)
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


def monitor(arrays: Arrays, tolerance: float, *, dataset: str, fallback: bool = False) -> Figure:
    """K that each look foretold, with its interval, against the samples met.

    ``arrays`` holds ``look_k`` [C] and, per look its low, value and high, ``law`` and
    ``exceedance`` [C, 3], infinite where beyond all numbers; ``stopped_k`` where it stopped.
    """
    title = f"What the monitor foretold around the network of the time: {dataset}"
    figure, (axes,) = canvas(title, PREFIX, "$K$ (samples)", fallback=fallback)
    names = {
        "exceedance": "$K$ by Definition 4, over orders",
        "law": "$K$ of the order law",
    }
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
