"""The command ``spectra``: the leading eigenpairs of H_k along k, and Theorem 1 from them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jax
import matplotlib
import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure

import jaxscape as js
from experiments.common import cli, console, prepare, segments, tables
from experiments.common.config import RunConfig, above, at_least, between
from experiments.common.problem import Problem
from experiments.common.run_folder import Record
from jaxscape.lab.style import PREFIX, canvas, finish
from jaxscape.prefix_spectra import PrefixSpectra, geometric

WORDS = """\
Overlap: mean squared cosine between the leading subspaces of H_k and H_N. Theorem 1: from
eigenvalues of H_k and H_{k+1}, by index, ± rounding; beside it parts of the quadratic law."""


@dataclass(frozen=True)
class SpectraConfig(RunConfig):
    """Spectra of H_k, the Hessian of the first k samples' mean loss, along k at one w*.

    Trains a network and solves for the top eigenpairs of H_k on a geometric grid of k; sets beside
    them the Ritz values in the top eigenvectors of H_N at every k, the overlap of the subspaces,
    and Theorem 1 of Nikitin et al. 2025 beside the quadratic law of Δ_k.

    Examples:
        python -m experiments.spectra --dataset mnist
        python -m experiments.spectra --dataset glyphs --k-max 3000 --num-ks 6  # a first look
    """

    dim: Annotated[int, between(1, segments.MAX_LAW_DIM)] = 10
    """Number of eigenpairs, at most 32."""
    num_ks: Annotated[int, at_least(2)] = 24
    """Number of values of k, at four of which k + 1 is solved for too, as Theorem 1 needs."""
    sigma: Annotated[float, above(0)] = 0.01
    """Standard deviation σ along each direction, in units of the parameters."""


def _find(problem: Problem, config: SpectraConfig, work: Path) -> Record:
    store = work / "checkpoint"
    params = prepare.trained(problem, config, store)
    space, _ = prepare.eigenspace(problem, params, config.dim, store)
    ks = grid(config.k_max, config.num_ks)
    with console.timed("spectra", f"eigenpairs of H_k at {len(ks)} values of k"):
        spectra = js.prefix_spectra(
            problem.keys["subspace"], problem.loss, params, problem.samples, config.dim,
            ks=ks, reference=space.basis,
        )  # fmt: skip
        jax.block_until_ready(spectra)
    with console.timed("theory", "Ritz values and the law of every k"):
        model = js.project(problem.loss, space, problem.samples)
        law = js.quadratic_delta(model, config.sigma)
        arrays = {name: x for name, x in spectra._asdict().items() if x is not None}
        arrays |= {"order": problem.order, "ritz_values": js.ritz_values(model.hessian)}
        arrays |= theorem(spectra, config.sigma)
        arrays |= {f"law_{part}": getattr(law, part) for part in ("curvature", "diagonal", "total")}
        arrays = jax.tree.map(np.asarray, arrays)
    summary = {name: arrays[name].tolist() for name in ("k", "values", "overlap")}
    text = "\n\n".join([*map(tables.as_text, (table(arrays), theorem_table(arrays))), WORDS])
    return Record(arrays, summary, {"eigenvalues": _eigenvalues(arrays, problem.unit)}, text)


def grid(k_max: int, num_ks: int) -> Int[np.ndarray, "K"]:
    """The increasing values of k to solve for: a geometric grid, and four successors."""
    ks = geometric(max(1, min(10, k_max // 2)), k_max, num_ks)
    chosen = np.rint(np.linspace(0, len(ks) - 2, 4)).astype(int)
    return np.union1d(ks, ks[chosen] + 1)


def theorem(spectra: PrefixSpectra, sigma: float) -> dict[str, np.ndarray]:
    """``theorem1``, that form of Δ_k, at each k whose successor was solved for too, ``pair_k`` [c].

    Nikitin et al. 2025, with the σ⁴ that its code leaves out. Δλ_j pairs eigenvalues of H_{k+1} and
    H_k by index, as if they shared eigenvectors; where these are those of H_N, it is the diagonal
    form of ``quadratic_delta``. Δλ_j is of size λ_j/k, so few digits are left where k is large.

    ``theorem1_error``: √Δ is a norm of the steps Δλ, so steps that are off by h move Δ by at most
    2√(Δ·f) + f, with f that of h: here the sum of ``eigenvalue_errors`` at k and k + 1.
    """
    ks, errors = np.asarray(spectra.k), eigenvalue_errors(spectra)
    at = np.flatnonzero(np.diff(ks) == 1)
    found = tables.theorem1(spectra.values[at + 1] - spectra.values[at], sigma)
    own = tables.theorem1(errors[at] + errors[at + 1], sigma)
    bound = 2 * np.sqrt(np.asarray(found, np.float64) * own) + own
    return {"pair_k": ks[at], "theorem1": np.asarray(found), "theorem1_error": bound}


def eigenvalue_errors(spectra: PrefixSpectra) -> Float[np.ndarray, "K d"]:
    """The 10 ε λ_1 that Lanczos takes for rounding, and min(r, r²/gap) of the residual r.

    The gap is that to the nearest other eigenvalue that was solved for.
    """
    values, residuals = (np.asarray(x, np.float64) for x in (spectra.values, spectra.residuals))
    apart = np.abs(values[:, :, None] - values[:, None, :])
    apart[:, np.eye(values.shape[1], dtype=bool)] = np.inf
    gap = apart.min(2) if values.shape[1] > 1 else np.zeros_like(values)
    least = np.finfo(np.float64).tiny  # 0/0 of a double eigenvalue solved for exactly
    rounding = 10 * np.finfo(np.float32).eps * np.abs(values).max(1, keepdims=True)
    return rounding + residuals**2 / np.maximum(np.maximum(gap, residuals), least)


def table(arrays: dict[str, np.ndarray]) -> list[list[str]]:
    """Rows of text, the first one the header: the eigenpairs of each H_k."""
    d = arrays["values"].shape[1]
    rows = [["k", "products", "λ_1", f"λ_{d}", "residual / λ_1", "converged", "overlap"]]
    names = ("k", "matvecs", "values", "residuals", "converged", "overlap")
    for k, products, values, residuals, converged, overlap in zip(
        *(arrays[name] for name in names), strict=True
    ):
        rows.append([
            f"{k:,}", f"{products}", f"{values[0]:.4g}", f"{values[-1]:.4g}",
            f"{residuals.max() / values[0]:.1e}", f"{converged.sum()} of {d}", f"{overlap:.3f}",
        ])  # fmt: skip
    return rows


def theorem_table(arrays: dict[str, np.ndarray]) -> list[list[str]]:
    """Rows of text, the first one the header: Theorem 1 and the quadratic law where both are."""
    rows = [["k", "Theorem 1", "diagonal form", "curvature part", "full law"]]
    names = "pair_k", "theorem1", "theorem1_error"
    for k, value, error in zip(*(arrays[name] for name in names), strict=True):
        law = (arrays[f"law_{part}"][k - 1] for part in ("diagonal", "curvature", "total"))
        rows.append([f"{k:,}", f"{value:.3g} ± {error:.1g}", *(f"{x:.3g}" for x in law)])
    return rows


def _eigenvalues(arrays: dict[str, np.ndarray], unit: str) -> Figure:
    """Eigenvalues of H_k as markers with residuals as bars, Ritz values of every k as lines."""
    title = "Leading eigenvalues of $H_k$ along $k$"
    figure, (axes,) = canvas(title, PREFIX, rf"eigenvalue ({unit} / $\|w\|^2$)")
    k, values, residuals = (arrays[name] for name in ("k", "values", "residuals"))
    d = values.shape[1]
    shades = matplotlib.colormaps["viridis"](np.linspace(0, 0.85, d))
    at = geometric(int(k[0]), len(arrays["ritz_values"]), 1000)
    ritz = arrays["ritz_values"][at - 1]
    lines = np.where(ritz > 0, ritz, np.nan)  # a logarithmic axis has no place for the others
    for j, shade in enumerate(shades):
        axes.plot(at, lines[:, j], color=shade, lw=1, alpha=0.8)
        axes.errorbar(k, values[:, j], residuals[:, j], fmt="o", ms=3.5, capsize=3, color=shade)
    axes.plot([], [], "o", ms=4, color="0.3", label=r"eigenvalue $\lambda_j(H_k)$, bar: residual")
    axes.plot([], [], color="0.3", label=r"Ritz value $\lambda_j(\Lambda_k)$")
    finish(figure, f"dark to light: $j = 1$ to {d}")
    if (values > 0).any():
        least = values[values > 0].min()
        axes.set_ylim(bottom=max(0.7 * np.nanmin([least, np.nanmin(lines)]), least / 30))
    return figure


main = cli.command("spectra", SpectraConfig, _find)

if __name__ == "__main__":
    cli.leave(main())
