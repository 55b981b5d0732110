"""Whether the chosen figures can be made of these networks and data."""

from collections.abc import Sequence
from dataclasses import replace

import jax

from experiments import problem as problems
from experiments.paper.bench import TOP
from experiments.paper.config import PaperConfig
from experiments.problem import Problem
from jaxscape import InputError
from jaxscape.subspace import num_parameters

DIRECTIONS = {"fig2": 2, "fig3": 2, "fig4": 10, "fig5": 256, "trajectory": 2, "unraveling": 0}
"""Of the figures that take other than the top eigenvectors."""


def check(config: PaperConfig, problem: Problem, figures: Sequence[str]) -> None:
    """Raise an ``InputError`` for the first figure of more directions than there are parameters.

    Also for unraveling of sequences: its networks are fully connected, whatever the model.
    """
    if problem.dataset.has_tokens and "unraveling" in figures:
        raise InputError(
            "expected images or vectors for unraveling, found sequences of tokens in "
            f"{problem.dataset.name}; name the other figures one by one, or another --dataset"
        )
    for figure in figures:
        if figure == "fig1":
            model, _ = problems.network(narrow(config), problem.dataset)
            inputs = problem.samples["inputs"][:1]
            shape = jax.eval_shape(lambda: model.init(problem.keys["init"], inputs))  # noqa: B023
            size, least = num_parameters(shape), config.network_dim
            flags = "lower --network-dim, or raise --network-hidden"
        else:
            size, least = num_parameters(problem.initial), DIRECTIONS.get(figure, TOP)
            flags = "raise --hidden"
        if size < least:
            raise InputError(
                f"expected at least {least} parameters, one per direction of {figure}, found "
                f"{size}; {flags}"
            )


def narrow(config: PaperConfig) -> PaperConfig:
    """The settings of the networks of fig1."""
    return replace(config, hidden=config.network_hidden)
