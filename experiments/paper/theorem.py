"""Theory against experiment, Nikitin et al., figure 9."""

import numpy as np

import jaxscape as js
from experiments.common import tables
from experiments.common.run_folder import Record
from experiments.paper import bench as benches
from experiments.paper import curvature_aligned, drawings, increments, published
from experiments.paper.bench import SIGMAS, Bench
from experiments.paper.drawings import Curve
from experiments.paper.increments import DIM

BATCHES = (1, 4, 16, 64, 256)
"""Values of k, in batches, at which Theorem 1 is evaluated as published."""


def fig9(bench: Bench) -> Record:
    """Δ_k along the top ten eigenvectors: Monte-Carlo, the full law, Theorem 1's part alone."""
    problem = bench.problem
    space = benches.directions(bench, "hessian", DIM)
    model = curvature_aligned.leading(curvature_aligned.project(bench), DIM)
    laws = js.quadratic_delta(model, np.asarray(SIGMAS, np.float32))._asdict()
    measured = increments.along_eigenvectors(bench)
    k = np.asarray(measured[0].curve.k)
    arrays = {
        "sigma": np.asarray(SIGMAS, np.float32),
        "k": k,
        "delta": np.stack([found.curve.mean for found in measured]),
        "delta_sem": np.stack([found.curve.sem for found in measured]),
        **{f"law_{name}": np.asarray(values) for name, values in laws.items()},
    }
    marked = {}
    if bench.config.as_published:
        old = [found.published for found in measured if found.published is not None]
        arrays["published_delta"] = np.stack(old)
        arrays |= _published_theory(bench, space)
        marked["Theorem 1, as published"] = (
            arrays["published_theory_k"], arrays["published_theory"],
        )  # fmt: skip
    entries = [
        {"sigma": sigma} | tables.agreement(arrays, row, tables.late(k))
        for row, sigma in enumerate(SIGMAS)
    ]
    panels = {f"σ = {sigma:g}": _curves(arrays, row) for row, sigma in enumerate(SIGMAS)}
    figure = drawings.theorem(panels, marked, **benches.marks(problem))
    found = {"sigmas": entries, "seen": _seen(entries, arrays) + benches.caveat(bench)}
    return Record(arrays, found, {"theorem": figure})


def _curves(arrays: dict[str, np.ndarray], row: int) -> list[Curve]:
    rows = {
        "Monte-Carlo": "delta",
        "full law": "law_total",
        "Theorem 1's part": "law_curvature",
    }
    curves = [Curve(name, arrays["k"], arrays[key][row], 0.0) for name, key in rows.items()]
    if "published_delta" in arrays:
        old = arrays["published_delta"][row]
        curves.append(Curve("experiment, as published", np.arange(1, len(old) + 1), old, 0.0))
    return curves


def _published_theory(bench: Bench, space: js.Subspace) -> dict[str, np.ndarray]:
    """Theorem 1 from magnitudes of eigenvalues of H_k and H_{k+1}, k in batches."""
    problem = bench.problem
    n = len(problem.order)
    chosen = np.asarray([k for k in BATCHES if (k + 1) * published.BATCH <= n])
    ks = np.union1d(chosen, chosen + 1)
    spectra = js.prefix_spectra(
        problem.keys["subspace"], problem.loss, space.origin, problem.samples, DIM,
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


def _seen(entries: list[dict], arrays: dict[str, np.ndarray]) -> str:
    text = " ".join(f"σ = {e['sigma']:g}: {_verdict(e)}." for e in entries)
    if "published_theory" not in arrays:
        return text
    k = arrays["published_theory_k"]
    old = arrays["published_delta"][:, k - 1]
    ratios = [
        f"{np.exp(np.mean(np.log(arrays['published_theory'] / row))):.2g} at σ = {sigma:g}"
        for row, sigma in zip(old, SIGMAS, strict=True)
    ]
    return (
        f"{text} Theorem 1 as published has no σ in it: over the published experiment it is, in "
        f"the geometric mean over {len(k)} values of k, {' and '.join(ratios)}."
    )


def _verdict(entry: dict) -> str:
    if "law_holds" not in entry:
        return "no quadratic law was computed"
    return (
        f"the quadratic law {tables.VERDICTS[entry['law_holds']]}, law / Monte-Carlo is "
        f"{entry['law_over_monte_carlo']:.3g}, its curvature part alone (Theorem 1) "
        f"{entry['law_curvature_over_monte_carlo']:.2g}"
    )
