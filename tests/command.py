"""The main command as a process, made small by its flags."""

import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

EMITTERS = "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters"
ROOT = Path(__file__).parent.parent
FAST = ["--hidden", "6", "--layers", "1", "--epochs", "2", "--dim", "3", "--points", "5"]


def process(*arguments, **options):
    """What became of ``python`` with these arguments, in the root of the project."""
    options = {"cwd": ROOT, "capture_output": True, "text": True, "check": False} | options
    return subprocess.run([sys.executable, *map(str, arguments)], **options)


def eight_devices():
    """The environment of a process that sees eight devices."""
    flag = "--xla_force_host_platform_device_count=8"
    return os.environ | {"XLA_FLAGS": f"{os.environ['XLA_FLAGS']} {flag}"}


def as_users_have_it():
    """The environment of a process that compiles its own programs, with every optimisation."""
    flags = os.environ["XLA_FLAGS"].replace(EMITTERS, "")
    ours = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    return os.environ | ours | {"XLA_FLAGS": flags}


def hosts(arguments):
    """What became of two such processes at once, of ``arguments(address, number)``.

    Their environment says which they are, as JAX has it.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    known = os.environ | {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}

    def start(number):
        env = known | {"JAX_PROCESS_ID": str(number)}
        return process(*arguments(address, number), env=env)

    with ThreadPoolExecutor() as pool:
        return list(pool.map(start, (0, 1)))


def clouds(path):
    """Flags for 250 of 300 samples of three overlapping clouds, written to ``path``."""
    rng = np.random.default_rng(0)
    targets = rng.integers(3, size=340)
    inputs = (rng.normal(size=(340, 7)) + np.eye(3, 7)[targets]).astype(np.float32)
    np.savez(path, inputs=inputs[:300], targets=targets[:300], test_inputs=inputs[300:],
             test_targets=targets[300:])  # fmt: skip
    return ["--dataset", f"npz:{path}", "--k-max", "250", *FAST]


def odd(path, targets):
    """Flags for a small file with the given targets."""
    inputs = np.random.default_rng(0).normal(size=(len(targets), 4)).astype(np.float32)
    np.savez(path, inputs=inputs, targets=targets)
    return ["--dataset", f"npz:{path}", "--k-max", str(len(targets)), *FAST]
