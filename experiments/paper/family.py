"""The family of criteria side by side, "Curvature-Aligned Probing" (2026)."""

import numpy as np

import jaxscape as js
from experiments import run_folder, summary
from experiments.paper import aligned
from experiments.paper import bench as benches
from experiments.paper.bench import Bench
from experiments.record import Record, marks
from jaxscape.lab import plot_aligned
from jaxscape.subspace import num_parameters

DIMS = (1, 4, 16)
SIGMAS = (1e-4, 1e-3, 1e-2)


def family(bench: Bench) -> Record:
    """Δ^(1) at w*, Δ over all parameters and along the top D eigenvectors, for every k."""
    arrays = measure(bench)
    figure = plot_aligned.family(arrays, **benches.marks(bench.problem))
    k = arrays["k"]
    single = summary.level(k, arrays["single"] ** 2)
    parts = []
    for row, sigma in enumerate(SIGMAS):
        levels = [summary.level(k, arrays["isotropic"][row])]
        levels += [summary.level(k, arrays["subspace"][row, column]) for column in range(len(DIMS))]
        words = ", ".join(f"{level:.4g}" for level in levels)
        parts.append(f"σ = {sigma:g}: {words}")
    seen = (
        f"The mean of k²δ_k² over k ≥ 100 is {single:.4g} at w* itself. Of k²Δ_k over all "
        f"parameters, then along the top {', '.join(map(str, DIMS))} eigenvectors: "
        f"{'; '.join(parts)}. Where these agree, a criterion sees the level at w*, which needs no "
        "points at all."
    ) + benches.caveat(bench)
    return Record(arrays, {"single": single, "seen": seen}, {"family": figure})


def ratio(bench: Bench) -> Record:
    """Δ_k along the top D eigenvectors over Δ_k over all parameters."""
    arrays = measure(bench)
    k = arrays["k"]
    levels = np.asarray(
        [
            [
                summary.level(k, arrays["subspace"][row, column])
                / summary.level(k, arrays["isotropic"][row])
                for column in range(len(DIMS))
            ]
            for row in range(len(SIGMAS))
        ]
    )
    parts = [
        f"{', '.join(f'{x:.3g}' for x in row)} at σ = {sigma:g}"
        for sigma, row in zip(SIGMAS, levels, strict=True)
    ]
    size = num_parameters(bench.problem.initial)
    seen = (
        f"Subspace over full space, for D = {', '.join(map(str, DIMS))} (ratio of the means of "
        f"k²Δ_k over k ≥ 100): {'; '.join(parts)}. A step along all {size:,} parameters at the "
        f"same σ is √(P/D) times as long, {np.sqrt(size / DIMS[-1]):.0f} times for D = {DIMS[-1]}."
    ) + benches.caveat(bench)
    figure = plot_aligned.ratio(arrays, **marks(bench.problem))
    return Record(arrays | {"ratio": levels}, {"ratio": levels.tolist(), "seen": seen},
                  {"ratio": figure})  # fmt: skip


def measure(bench: Bench) -> dict[str, np.ndarray]:
    """Every member's curve: ``single`` [K], ``isotropic`` [s, K], ``subspace`` [s, D, K].

    Kept for the second of the two figures that show them.
    """
    kept = bench.store / "family.npz"
    if not kept.exists():
        run_folder.write_arrays(kept, _measure(bench))
    with np.load(kept) as arrays:
        return dict(arrays)


def _measure(bench: Bench) -> dict[str, np.ndarray]:
    problem, count = bench.problem, bench.config.points
    space = aligned.space(bench)
    delta = lambda probe: js.delta(problem.loss, probe, problem.samples)  # noqa: E731
    single = delta(js.single(space.origin))
    everywhere, along = [], []
    for sigma in SIGMAS:
        probe = js.isotropic(problem.keys["probe"], space.origin, count, sigma)
        everywhere.append(delta(probe))
        for dim in DIMS:
            points = sigma * benches.normals(bench, count, dim)
            along.append(delta(js.points(benches.leading(space, dim), points)))
    shape = (len(SIGMAS), len(DIMS), -1)
    stack = lambda curves, name: np.stack([getattr(c, name) for c in curves])  # noqa: E731
    return {
        "k": np.asarray(single.k),
        "sigma": np.asarray(SIGMAS),
        "dim": np.asarray(DIMS),
        "single": np.asarray(single.first_order),
        "isotropic": stack(everywhere, "mean"),
        "isotropic_sem": stack(everywhere, "sem"),
        "subspace": stack(along, "mean").reshape(shape),
        "subspace_sem": stack(along, "sem").reshape(shape),
    }
