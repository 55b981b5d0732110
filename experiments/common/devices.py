"""Several hosts at one run: how they join, and what they tell each other."""

import contextlib
import hashlib
import math
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from jaxscape import InputError, devices

AUTO = "auto"


PATIENCE = 300.0
"""Seconds that hosts wait for each other."""


MEETING = "meeting"
"""Name of the thread in which they do."""


WORDS = 500
"""Bytes of an error that the other hosts are told."""


IDLE = 0.1
"""Share of the points that may be looked at twice, so that samples need not be shared."""


T = TypeVar("T")


def ranges(hosts: int, host: int, coordinator: str | None) -> list[tuple[str, Any, bool, str]]:
    """The flags of ``join``; see ``ProblemConfig.ranges``."""
    address = coordinator is None or coordinator == AUTO or re.fullmatch(r".+:\d+", coordinator)
    known = hosts == 1 or coordinator not in (None, AUTO)
    return [
        ("hosts", hosts, hosts >= 1, "at least 1"),
        ("host", host, 0 <= host < max(hosts, 1), f"from 0 to {hosts - 1}, of {hosts} hosts"),
        ("coordinator", coordinator, bool(address), "HOST:PORT, or auto"),
        ("coordinator", coordinator or "none", known, f"HOST:PORT of host 0, for {hosts} hosts"),
    ]


def join(hosts: int, host: int, coordinator: str | None) -> None:
    """Wait for the others, where ``coordinator`` is given; before anything is computed.

    Raises:
        InputError: they were not to be had.
    """
    if coordinator is None:
        return
    if coordinator != AUTO:
        print(f"host {host} of {hosts}: meeting at {coordinator} ...", file=sys.stderr)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")  # of no effect on GPU and TPU
    jax.config.update("jax_enable_preemption_service", False)  # which would leave SIGTERM unheard
    given: dict[str, Any] = (
        {} if coordinator == AUTO else {"num_processes": hosts, "process_id": host}
    )
    if given:
        given |= {"coordinator_address": coordinator, "cluster_detection_method": "deactivate"}
    failure = _meet(given)
    if failure:
        where = "in this cluster" if coordinator == AUTO else f"at {coordinator}"
        raise InputError(
            f"expected to meet the other hosts {where}, found: {failure}; start all of them within "
            "five minutes, with --coordinator HOST:PORT a free port of host 0 that all can reach"
        )
    count, here = jax.device_count(), jax.local_device_count()
    if count != here * jax.process_count():
        raise InputError(
            f"expected as many devices on every host, found {here} of {count} on host "
            f"{jax.process_index()} of {jax.process_count()}; hide some from JAX"
        )
    multihost_utils.sync_global_devices("joined")  # connects, which has to be done at one time


def _meet(given: dict[str, Any]) -> str:
    """Start ``jax.distributed``; the reason where that fails.

    In a thread that may be left behind: JAX waits without an ear for Ctrl-C, and would end the
    process with a stack trace where the others do not come in time.
    """
    reason = [f"not all of them within {PATIENCE:g} seconds"]

    def start() -> None:
        try:
            jax.distributed.initialize(**given, initialization_timeout=math.ceil(2 * PATIENCE))
            reason[0] = ""
        except Exception as error:  # of whatever kind a cluster that JAX knows may have
            reason[0] = (str(error) or type(error).__name__).splitlines()[0]

    thread = threading.Thread(target=start, name=MEETING, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return reason[0]


def first() -> bool:
    """Whether this is the host that prints and writes."""
    return jax.process_index() == 0


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing is printed but on the first host."""
    if first():
        yield
        return
    redirect = contextlib.redirect_stdout, contextlib.redirect_stderr
    with open(os.devnull, "w") as nowhere, redirect[0](nowhere), redirect[1](nowhere):
        yield


def together(find: Callable[[], T]) -> T:
    """What ``find`` gives on this host; bad input or output found on one of them ends all."""
    if jax.process_count() == 1:
        return find()
    found: Any = None
    failure: Exception | None = None
    try:
        found = find()
    except (InputError, OSError) as error:
        failure = error
    kind = "output: " if isinstance(failure, OSError) else ""
    words = f"{kind}{failure or ''}".encode()[:WORDS].ljust(WORDS, b"\0")
    told = multihost_utils.process_allgather(np.frombuffer(words, np.uint8))
    if failure:
        raise failure
    for host, row in enumerate(told):
        if row.any():
            text = bytes(row).rstrip(b"\0").decode(errors="replace")
            other = OSError if text.startswith("output: ") else InputError
            raise other(f"on host {host}: {text.removeprefix('output: ')}")
    return found


def from_first(find: Callable[[], T], like: Any) -> T:
    """What ``find`` gives on the first host, arrays of the shapes of ``like``, on all of them."""
    if jax.process_count() == 1:
        return find()
    empty = lambda: jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)  # noqa: E731
    return multihost_utils.broadcast_one_to_all(together(find if first() else empty))


def decide(find: Callable[[], bool]) -> bool:
    """The first host's answer, on all of them."""
    return bool(from_first(lambda: np.int32(find()), np.int32(0)))


def check_alike(what: str) -> None:
    """Raise an ``InputError`` unless every host has the same text."""
    mine = np.frombuffer(hashlib.sha256(what.encode()).digest(), np.uint8)
    if not (multihost_utils.process_allgather(mine) == mine).all():
        raise InputError(
            "expected the same settings and data on every host, found others on some; give all "
            "hosts the same flags, but for --host, and the same files"
        )


def mesh(num_devices: int | None, num_points: int) -> Mesh | None:
    """The mesh of ``num_devices`` devices (all, where None); None where that is a single one.

    Points, which need no exchange, are spread over as many of them as have enough to do, the
    samples over the rest. Every host lends as many.

    Raises:
        InputError: fewer devices than asked for, or a number that the hosts cannot share.
    """
    found, hosts = jax.device_count(), jax.process_count()
    count = found if num_devices is None else num_devices
    if not 1 <= count <= found or count % hosts:
        shared = f", a multiple of the {hosts} hosts" if hosts > 1 else ""
        raise InputError(
            f"expected --devices from 1 to {found}, as many as JAX sees here "
            f"({jax.default_backend()}){shared}, found {count}; change it"
        )
    if count == 1:
        return None
    lent = [d for host in range(hosts) for d in jax.devices() if d.process_index == host]
    each = np.reshape(lent, (hosts, -1))[:, : count // hosts].ravel().tolist()
    points = across(count, num_points)
    return devices.mesh(points=points, samples=count // points, devices=each)


def across(num_devices: int, num_points: int) -> int:
    """How many devices to spread points over: the largest divisor that leaves few of them idle."""
    looks = {p: -(-num_points // p) * p for p in range(1, num_devices + 1) if num_devices % p == 0}
    return max(p for p, made in looks.items() if made <= (1 + IDLE) * num_points)
