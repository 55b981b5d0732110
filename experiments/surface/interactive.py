"""A loss surface that a browser turns about (Plotly)."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxscape.types import InputError


def check_available() -> None:
    """Raise an ``InputError`` where Plotly is not installed."""
    if importlib.util.find_spec("plotly") is None:
        raise InputError(
            "expected the package plotly for an interactive surface, found none; "
            "pip install plotly (in a checkout: pip install -e '.[interactive]')"
        )


def write(
    path: Path,
    steps: Float[np.ndarray, "a"],
    sheets: Mapping[str, Float[np.ndarray, "a a"]],
    *,
    title: str,
    quantity: str,
) -> None:
    """One self-contained HTML file with a button for each named sheet z[i, j] at (θ_1, θ_2).

    Heights are decimal logarithms; what lies at 0 or below is left out.

    Raises:
        InputError: Plotly is not installed.
    """
    check_available()
    import plotly.graph_objects as go

    surfaces = [
        go.Surface(
            **_surface(steps, sheet),
            name=name,
            visible=index == 0,
            colorbar={"title": f"log₁₀ {quantity}"},
        )
        for index, (name, sheet) in enumerate(sheets.items())
    ]
    buttons = [
        {"label": name, "method": "update", "args": [{"visible": list(row)}]}
        for name, row in zip(sheets, np.eye(len(sheets), dtype=bool).tolist(), strict=True)
    ]
    figure = go.Figure(surfaces)
    figure.update_layout(
        title=title,
        scene={"xaxis_title": "θ₁", "yaxis_title": "θ₂", "zaxis_title": f"log₁₀ {quantity}"},
        updatemenus=[{"type": "buttons", "direction": "right", "y": 1.05, "buttons": buttons}],
    )
    figure.write_html(path, include_plotlyjs=True)


def _surface(steps: Float[np.ndarray, "a"], sheet: Float[np.ndarray, "a a"]) -> dict[str, Any]:
    """What Plotly calls a surface; its heights have θ_2 first."""
    return {
        "x": steps,
        "y": steps,
        "z": np.log10(np.where(sheet > 0, sheet, np.nan)).T,
        "colorscale": "Viridis",
        "hovertemplate": "θ₁ %{x:.3g}<br>θ₂ %{y:.3g}<br>log₁₀ %{z:.4g}<extra></extra>",
    }
