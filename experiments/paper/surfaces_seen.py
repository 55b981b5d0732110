"""What two surfaces show, in words."""

import numpy as np


def seen(arrays: dict[str, np.ndarray], quantity: str, words: str) -> str:
    """The span of the loss, or its mean squared step, and how rough published sheets are."""
    small, large = (int(k) for k in arrays["k"])
    if quantity == "loss":
        ends = [f"{sheet.min():.3g} to {sheet.max():.3g}" for sheet in arrays["loss"]]
        places = [_lowest(arrays["steps"], sheet) for sheet in arrays["loss"]]
        text = (
            f"Along the {words}, L_k spans {ends[0]} at k = {small}, lowest at {places[0]}, and "
            f"{ends[1]} at k = {large:,}, lowest at {places[1]}; w* is (0, 0)."
        )
    else:
        means = [
            float(np.mean(np.square(sheet, dtype=np.float64))) for sheet in arrays["increment"]
        ]
        text = (
            f"Along the {words}, the mean of (L_{{k+1}} − L_k)² over the grid is {means[0]:.3g} at "
            f"k = {small} and {means[1]:.3g} at k = {large:,}."
        )
    if "published_loss" in arrays:
        rough = [_roughness(arrays[name][0]) for name in (quantity, f"published_{quantity}")]
        text += (
            " As published, each grid point draws its own random batches: from point to point the "
            f"small-k surface has a roughness of {rough[1]:.2g}, with the same samples at every "
            f"point {rough[0]:.2g} (independent noise has 1, a smooth surface 0)."
        )
    return text


def _lowest(steps: np.ndarray, sheet: np.ndarray) -> str:
    i, j = np.unravel_index(int(np.argmin(sheet)), sheet.shape)
    return f"({steps[i]:.2g}, {steps[j]:.2g})"


def _roughness(sheet: np.ndarray) -> float:
    """Root mean square second difference over that of white noise of the same variance."""
    bends = np.diff(sheet, 2, axis=0), np.diff(sheet, 2, axis=1)
    spread = max(sheet.std(), np.finfo(np.float32).tiny)
    return float(np.sqrt(np.mean([np.mean(bend**2) for bend in bends]) / 6) / spread)
