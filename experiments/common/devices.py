"""Which devices and processes share the work of a command."""

import contextlib
import hashlib
import os
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from jaxscape import InputError, devices
from jaxscape.lab import data

IDLE = 0.1
"""Share of the points that may be evaluated twice, so that samples need not be shared."""

SHUTDOWN = 30
"""Seconds after which a process gives up waiting for the others to end."""


def initialize() -> None:
    """``jax.distributed.initialize``, before anything is computed.

    From the environment variables where JAX does not detect the cluster (as it does TPU pods,
    Slurm, Open MPI, Kubernetes); an ``InputError`` where they are not set either.
    """
    jax.config.update("jax_enable_preemption_service", False)  # it would swallow SIGTERM
    names = {name: f"JAX_{name.upper()}" for name in ("num_processes", "process_id")}
    try:  # JAX itself reads the address alone
        given: Any = {n: int(os.environ[name]) for n, name in names.items() if name in os.environ}
        jax.distributed.initialize(**given, shutdown_timeout_seconds=SHUTDOWN)
    except (ValueError, RuntimeError) as error:
        raise InputError(
            "expected for --distributed a cluster that JAX detects, or JAX_COORDINATOR_ADDRESS, "
            f"JAX_NUM_PROCESSES and JAX_PROCESS_ID, found: {str(error).splitlines()[0]}; set them"
        ) from error


def keep_programs() -> None:
    """Keep compiled programs on disk: a CPU takes seconds for those of a run, a TPU minutes.

    In ``JAX_COMPILATION_CACHE_DIR``, by default beside the downloads. To be called before the
    first program is compiled.
    """
    if jax.config.values["jax_compilation_cache_dir"]:
        return
    # of a killed run, a full disk, a folder that cannot be written: JAX compiles anew
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache entry")
    with contextlib.suppress(RuntimeError):  # an account without a home
        jax.config.update("jax_compilation_cache_dir", str(data.cache_folder() / "programs"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Process 0 prints; the output of the others is discarded."""
    if jax.process_index() == 0:
        yield
        return
    redirect = contextlib.redirect_stdout, contextlib.redirect_stderr
    with open(os.devnull, "w") as nowhere, redirect[0](nowhere), redirect[1](nowhere):
        yield


def check_alike(what: str) -> None:
    """Raise an ``InputError`` unless every process has the same text."""
    digest = np.frombuffer(hashlib.sha256(what.encode()).digest(), np.uint8)
    try:
        multihost_utils.assert_equal(digest)
    except AssertionError:
        raise InputError(
            "expected the same settings and data in every process, found others in some; give "
            "all of them the same flags and the same files"
        ) from None


def mesh(num_devices: int | None, num_points: int) -> Mesh | None:
    """A mesh of ``num_devices`` devices, of all that JAX sees by default; None for a single one.

    Points, which need no exchange, are spread over as many devices as have enough to do, the
    samples over the rest. Every process contributes the same number, or it is an ``InputError``.
    """
    found, processes = jax.device_count(), jax.process_count()
    count = found if num_devices is None else num_devices
    if not 1 <= count <= found or count % processes:
        shared = f", a multiple of the {processes} processes" if processes > 1 else ""
        raise InputError(
            f"expected --devices from 1 to {found}, as many as JAX sees here "
            f"({jax.default_backend()}){shared}, found {count}; change it"
        )
    if count == 1:
        return None
    ordered = sorted(jax.devices(), key=lambda device: device.process_index)
    each = np.reshape(ordered, (processes, -1))[:, : count // processes].ravel().tolist()
    points = across(count, num_points)
    return devices.mesh(points=points, samples=count // points, devices=each)


def across(num_devices: int, num_points: int) -> int:
    """How many devices share the points: the largest divisor that leaves few of them idle."""
    made = {p: -(-num_points // p) * p for p in range(1, num_devices + 1) if num_devices % p == 0}
    return max(p for p, points in made.items() if points <= (1 + IDLE) * num_points)
