"""|L_{k+1} − L_k| over widths and depths, of Kiselev and Grabovoy (2024)."""

import time
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from experiments import say
from experiments.paper import bench as benches
from experiments.paper import unraveling_networks, unraveling_summary
from experiments.paper.bench import Bench
from experiments.record import Record, marks
from jaxscape.lab import first_order, plot_unraveling, smoothing
from jaxscape.prefix_spectra import geometric

DRAWN = 400
"""Values of k, equally spaced in their logarithm, at which curves are drawn."""


def find(bench: Bench) -> Record:
    """|L_{k+1} − L_k| at w* over widths and depths, networks without biases, mean over orders."""
    config, problem = bench.config, bench.problem
    networks = unraveling_networks.trained(bench)
    arrays = {"depth": np.asarray(config.depths), "width": np.asarray(config.widths)}
    arrays |= _curves(bench, networks.losses)
    found = unraveling_summary.summarise(arrays, networks.entries, problem) | {
        "orders": config.orders,
        "num_samples": networks.losses.shape[-1],
        "beta": smoothing.BETA,
        "unit": benches.unit(problem),
    }
    figures = _figures(arrays, found, marks(problem) | {"unit": found["unit"]})
    return Record(arrays, found | {"seen": unraveling_summary.seen(found)}, figures)


def _curves(bench: Bench, losses: Float[np.ndarray, "d w n"]) -> dict[str, np.ndarray]:
    """Everything that hangs on k, and what the order laws need."""
    started = time.monotonic()
    depths, widths, n = losses.shape
    flat = losses.reshape(-1, n)
    orders = first_order.over_orders(bench.problem.keys["order"], flat, bench.config.orders)
    found: dict[str, Any] = {
        "increment": orders.mean,
        "increment_square": orders.square,
        "smoothed": smoothing.exponential(orders.mean),
        "deviation": first_order.deviation(flat),
        "loss_variance": flat.var(-1, ddof=1, dtype=np.float64),
    }
    if bench.config.as_published:
        found["published"] = smoothing.exponential(orders.mean, as_published=True)
    found = {name: np.asarray(x).reshape(depths, widths, *x.shape[1:]) for name, x in found.items()}
    say.stage("orders", f"{bench.config.orders} of {n:,} samples", time.monotonic() - started)
    return {"k": np.arange(1, n)} | found


def _figures(
    arrays: dict[str, np.ndarray], found: dict[str, Any], marks: dict[str, Any]
) -> dict[str, Figure]:
    depths, widths = arrays["depth"].tolist(), arrays["width"].tolist()
    at = geometric(1, len(arrays["k"]), DRAWN)
    law = first_order.law(arrays["deviation"][..., None], found["num_samples"], at)
    over = f"mean of {found['orders']} orders"
    averages = {
        "smoothed": ("increments", f"{over}, exponential average along $k$"),
        "published": ("increments-as-published", f"{over}, averaged along $k$ as published"),
    }
    figures = {
        name: plot_unraveling.increments(
            at, arrays[which][..., at - 1], law, depths, widths, average=average, **marks
        )
        for which, (name, average) in averages.items()
        if which in arrays
    }
    level, train_loss = (
        np.reshape([entry[name] for entry in found["networks"]], (len(depths), len(widths)))
        for name in ("level", "train_loss")
    )
    figures["levels"] = plot_unraveling.levels(
        widths, depths, arrays["deviation"], level, train_loss, **marks
    )
    return figures
