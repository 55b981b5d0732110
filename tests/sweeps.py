"""The sweep at a small size: run in this process, its folder read back, its losses in NumPy."""

import json

import drawing
import numpy as np

from experiments.common import cli, prepare, problem
from experiments.sweep import __main__ as sweep


def read(out):
    """The arrays and the summary of a finished run."""
    with np.load(out / "results.npz", allow_pickle=False) as found:
        return dict(found), json.loads((out / "summary.json").read_text())


def run(argv, out, capsys):
    """Exit status and stderr of the command in this process, drawing nothing."""
    with drawing.nothing():
        status = sweep.main([*argv, "--out", str(out)])
    return status, capsys.readouterr().err


def restored(argv, out):
    """The problem, settings and checkpoint folder of a finished run."""
    config = cli.parse("sweep", sweep.SweepConfig, argv)
    return problem.load(config), config, out / "checkpoint"


def load(argv, out):
    """The problem, w* and subspace of a finished run, from its checkpoint."""
    found, config, store = restored(argv, out)
    params = prepare.trained(found, config, store)
    return found, prepare.directions(found, params, config.subspace, config.dim, store)


def flax_losses64(params, samples):
    """Per-sample cross-entropy of a Flax MLP in float64 NumPy."""
    z = np.asarray(samples["inputs"], np.float64).reshape(len(samples["targets"]), -1)
    for i in range(len(params)):
        layer = params[f"Dense_{i}"]
        z = z @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"], np.float64)
        if i < len(params) - 1:
            z = np.maximum(z, 0)
    margins = z - z[np.arange(len(z)), np.asarray(samples["targets"])][:, None]
    top = margins.max(1)
    others = np.arange(z.shape[1]) != np.asarray(samples["targets"])[:, None]
    rest = (np.exp(margins - top[:, None]) * others).sum(1)
    return np.where(top > 0, top + np.log(np.exp(-top) + rest), np.log1p(rest))


def check_same(found, one):
    """Curves to 1e-5, but for the rounding of losses that happen to be close to L_k."""
    size = one["delta_first_order"]
    rounding = 2e-6 * size * size.mean(1, keepdims=True)
    assert (abs(found["delta"] - one["delta"]) <= 1e-5 * one["delta"] + rounding).all()
    for name in "eigenvalues", "loss_variance", "loss_at_origin":
        np.testing.assert_allclose(found[name], one[name], rtol=1e-5, err_msg=name)
    scale = abs(one["law_total"]).max(1, keepdims=True)
    assert (abs(found["law_total"] - one["law_total"]) <= 1e-5 * scale).all()
