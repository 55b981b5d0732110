"""Theory against experiment, Nikitin et al., figure 9."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

import jaxscape as js
from experiments.common import tables
from experiments.common.run_folder import Record
from experiments.paper import curvature_aligned, increments, published
from experiments.paper.bench import SIGMAS, Bench, record
from experiments.paper.increments import DIM
from jaxscape.lab.style import PREFIX, canvas, curve, legend, log_bins
from jaxscape.quadratic import Quadratic

BATCHES = (1, 4, 16, 64, 256)
"""Values of k, in batches, at which Theorem 1 is evaluated as published."""


def fig9(bench: Bench) -> Record:
    """Δ_k along the top ten eigenvectors: Monte-Carlo, the full law, Theorem 1's part alone."""
    whole = curvature_aligned.project(bench)
    model = Quadratic(whole.value, whole.gradient[:, :DIM], whole.hessian[:, :DIM, :DIM])
    laws = js.quadratic_delta(model, np.asarray(SIGMAS, np.float32))._asdict()
    measured = increments.along_eigenvectors(bench)
    arrays: dict[str, np.ndarray] = {
        "sigma": np.asarray(SIGMAS, np.float32),
        "k": np.arange(1, len(measured[0]["delta"]) + 1, dtype=np.int32),
        **{name: np.stack([x[name] for x in measured]) for name in ("delta", "delta_sem")},
        **{f"law_{name}": np.asarray(values) for name, values in laws.items()},
    }
    notes = bench.inexact()
    if bench.config.as_published:
        arrays["published_delta"] = np.stack([x["published_delta"] for x in measured])
        arrays |= _published_theory(bench)
        k, theory = arrays["published_theory_k"], arrays["published_theory"]
        for sigma, old in zip(SIGMAS, arrays["published_delta"], strict=True):
            ratio = np.exp(np.mean(np.log(theory / old[k - 1])))
            what = f"published experiment at σ = {sigma:g}"
            means = f"{ratio:.2g}, geometric mean over {len(k)} k"
            notes.append(f"Theorem 1 as published, which has no σ, over the {what}: {means}")
    late, entries = tables.late(arrays["k"]), []
    for index, sigma in enumerate(SIGMAS):
        entries.append({"sigma": sigma} | tables.agreement(arrays, index, late))
    found, rows = {"sigmas": entries}, tables.law_table(entries)
    return record(arrays, found, rows, notes, {"theorem": draw(bench, arrays)})


def _published_theory(bench: Bench) -> dict[str, np.ndarray]:
    """Theorem 1 from magnitudes of eigenvalues of H_k and H_{k+1}, k in batches."""
    problem = bench.problem
    n = len(problem.order)
    chosen = np.asarray([k for k in BATCHES if (k + 1) * published.BATCH <= n])
    ks = np.union1d(chosen, chosen + 1)
    spectra = js.prefix_spectra(
        problem.keys["subspace"], problem.loss, bench.trained, problem.samples, DIM,
        ks=ks * published.BATCH, which="magnitude",
    )  # fmt: skip
    values = dict(zip(ks.tolist(), np.asarray(spectra.values), strict=True))
    theory = [published.theorem(values[k], values[k + 1]) for k in chosen.tolist()]
    return {
        "published_theory_k": chosen,
        "published_theory": np.asarray(theory),
        "published_eigenvalues_k": ks,
        "published_eigenvalues": published.sharp(np.asarray(spectra.values)),
        "published_eigenvalues_converged": np.asarray(spectra.converged),
    }


CURVES = {
    "delta": "Monte-Carlo",
    "law_total": "full law",
    "law_curvature": "Theorem 1's part",
    "published_delta": "experiment, as published",
}


def draw(bench: Bench, arrays: Mapping[str, np.ndarray]) -> Figure:
    """Δ_k·k² by experiment and by theory, a panel per σ; k of published curves is in batches."""
    ylabel = rf"$\Delta_k \cdot k^2$   ({bench.unit}²)"
    panels = [f"σ = {sigma:g}" for sigma in SIGMAS]
    figure, axes = canvas("Theory against experiment", PREFIX, ylabel, panels)
    for index, panel in enumerate(axes):
        for row, name in enumerate(name for name in CURVES if name in arrays):
            values = arrays[name][index]
            k = np.arange(1, len(values) + 1)
            bins = log_bins(k, values * k**2.0)
            style = curve(row, lw=1.6, markevery=(2 * row, 8))
            panel.plot(bins.k, bins.mean, label=CURVES[name], **style)
        if "published_theory" in arrays:
            k, values = arrays["published_theory_k"], arrays["published_theory"]
            style = curve(4, ms=8, lw=0, label="Theorem 1, as published")
            panel.plot(k, values * k**2.0, **style)
        panel.set(xscale="log", yscale="log")
    legend(figure, "lines: mean per logarithmic bin of k; as published: k in batches of 64")
    return figure
