"""Networks refitted on the first k samples of some orders, and their mean losses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from experiments.common.console import progress, timed
from experiments.common.problem import Problem
from jaxscape.lab import checkpoint, train
from jaxscape.types import Batch, Params, PerSampleLoss

BATCH = 1000  # samples per chunk of a mean loss


def orders(problem: Problem, repeats: int, first: int) -> Int[np.ndarray, "R n"]:
    """Positions of the samples: in their own order, then with the first ones shuffled each time."""
    rows = np.tile(np.arange(len(problem.order), dtype=np.int32), (repeats, 1))
    for repeat in range(1, repeats):
        key = jax.random.fold_in(problem.keys["order"], repeat)
        rows[repeat, :first] = jax.random.permutation(key, first)
    return rows


def fit(
    problem: Problem, config: Any, ks: np.ndarray, shuffles: np.ndarray, store: Path,
    visit: Callable[[list[Params]], Any] = lambda networks: None, *, together: int | None = None,
) -> tuple[list[list[Params]], Float[np.ndarray, "R K"]]:  # fmt: skip
    """Of each order a network on its first k samples for each k; the norms of their gradients.

    All start from the same parameters, those of one order with the same key, and take the same
    number of steps. ``visit`` gets those of one order after each epoch. ``store`` keeps those of
    the first order; ``together`` is that of ``train.fit``.
    """
    alike = lambda tree: jax.tree.map(lambda x: jnp.stack([x] * len(ks)), tree)  # noqa: E731
    split = lambda tree: [jax.tree.map(lambda x, i=i: x[i], tree) for i in range(len(ks))]  # noqa: E731
    total, what = len(shuffles) * config.visits, f"{len(ks)} networks, {len(shuffles)} times"
    networks: list[list[Params]] = []
    norms = []
    with timed("refitted", what), progress("refitting", total, "epochs of all networks") as advance:

        def on_epoch(_: int, params: Params) -> None:
            visit(split(params))
            advance(1)

        for repeat, order in enumerate(shuffles):
            fitted = train.fit(
                alike(jax.random.fold_in(problem.keys["train"], repeat)), problem.loss,
                alike(problem.initial), jax.tree.map(lambda x, at=order: x[at], problem.samples),
                ks=ks, together=together, on_epoch=on_epoch,
                **config.training() | {"finish": config.finish},
            )  # fmt: skip
            if not networks:
                checkpoint.save(store, "refitted", {"params": fitted.params})
            networks.append(split(fitted.params))
            norms.append(np.asarray(fitted.gradient_norm))
    return networks, np.stack(norms)


def means(metric: PerSampleLoss, networks: list[Params], samples: Batch) -> list[float]:
    """The mean of ``metric`` over the samples, of each network."""
    return [float(train.mean_loss(metric, w, samples, batch_size=BATCH)) for w in networks]
