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
        elif name.startswith("vector"):  # its sign too
            np.testing.assert_allclose(found[name], wanted[name], atol=1e-3)
    # all but the few leaves that eight devices cannot share
    p = int(wanted["parameters"])
    assert wanted["here"] == p
    assert p / 8 <= found["here"] < p / 8 + 40
    assert found["krylov"] < p / 8 < p == wanted["krylov"]
