"""Parameters that the host shards over eight devices, against the same on one."""

import command
import numpy as np
import pytest
import sharded


@pytest.mark.slow
def test_sharded_parameters_give_what_one_device_does(tmp_path):
    done = command.process("tests/sharded.py", tmp_path / "8.npz", env=command.eight_devices())
    assert done.returncode == 0, done.stderr
    found, wanted = dict(np.load(tmp_path / "8.npz")), sharded.answers(None)
    for name in wanted:
        if name.startswith(("delta", "product", "values")):
            scale = np.abs(wanted[name]).max()
            np.testing.assert_allclose(found[name], wanted[name], rtol=1e-5, atol=1e-5 * scale)
    # a vector is drawn as it is held, and may so point the other way
    signs = np.sign((found["vectors"] * wanted["vectors"]).sum(1, keepdims=True))
    np.testing.assert_allclose(found["vectors"], signs * wanted["vectors"], atol=1e-3)
    # all but the few leaves that eight devices cannot share
    p = int(wanted["parameters"])
    assert (wanted["here"] == p).all()
    assert (found["here"] >= p / 8).all()
    assert (found["here"] < p / 8 + 40).all()
    assert found["krylov"] < p / 8 < p == wanted["krylov"]
