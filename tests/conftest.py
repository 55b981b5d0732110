"""What tests stand on: few programs, a bare account, a server on loopback, a small sweep."""

import gc
import http.server
import itertools
import os
import socket
import tempfile
import threading
from pathlib import Path

import command
import jaxtyping
import pytest

# Every function of the package is checked against its annotations, shapes included, at each call.
# Processes that tests start go without.
jaxtyping.install_import_hook("jaxscape", "beartype.beartype")

# Tracing makes many objects and few cycles of them. JAX does work of its own at each collection.
gc.set_threshold(200_000, 20, 100)

# Programs are compiled in half the time, to run in more, by the tests and by processes they start:
# by XLA's older emitters, with few optimisations. Where arithmetic could be upset by these, the
# fixture ``optimised`` has all of them, and a process of command.as_users_have_it the emitters too.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if command.EMITTERS not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {command.EMITTERS}".strip()

# Each worker keeps the programs it has compiled, for later tests and for the processes they start.
# The folder is its own: JAX writes into it without a lock. Set before anything imports JAX.
WORKER = os.environ.get("PYTEST_XDIST_WORKER")
PROGRAMS = None if WORKER else tempfile.TemporaryDirectory(prefix="programs-")
os.environ |= {
    "JAX_COMPILATION_CACHE_DIR": (
        PROGRAMS.name if PROGRAMS else str(Path(os.environ["JAX_COMPILATION_CACHE_DIR"]) / WORKER)
    ),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


def pytest_unconfigure():
    """The process that started the workers outlives them, so it clears away."""
    if PROGRAMS:
        PROGRAMS.cleanup()


def pytest_collection_modifyitems(items):
    """The notebooks come first: long files that start late leave the other workers idle."""
    items.sort(key=lambda item: item.path.name != "test_notebooks.py")


TESTS = itertools.count()


@pytest.fixture(autouse=True)
def few_programs():
    """Drop compiled programs when many: each holds memory maps, of which Linux grants 65,530."""
    import jax

    yield
    maps = Path("/proc/self/maps")  # takes 10 ms to read
    due = next(TESTS) % 16 == 0 and maps.exists()
    if due and maps.read_text().count("\n") > 20_000:
        jax.clear_caches()


@pytest.fixture(scope="module")
def optimised():
    """Programs are optimised as users have them, for tests of arithmetic that this could upset."""
    import jax

    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()
    yield
    jax.config.update("jax_disable_most_optimizations", before)
    jax.clear_caches()


@pytest.fixture
def alone(monkeypatch, tmp_path):
    """No setting or folder of the user's account has a say; returns an empty home."""
    for name in ("JAXSCAPE_DATA_DIR", "JAXSCAPE_MIRROR", "TFDS_DATA_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("JAXSCAPE_OFFLINE", "1")
    return home


@pytest.fixture
def no_network(monkeypatch):
    """Every attempt to reach anything is noted, then fails."""
    attempts = []

    def refuse(*args, **kwargs):
        attempts.append(args)
        raise OSError("no network in this test")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return attempts


@pytest.fixture
def serve(monkeypatch):
    """A function that serves a folder over loopback HTTP and returns (URL, paths asked for)."""
    servers = []

    def start(folder):
        asked = []

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *args):
                super().__init__(*args, directory=str(folder))

            def log_message(self, *args):
                asked.append(self.path)

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/", asked

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("JAXSCAPE_OFFLINE", raising=False)
    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="session")
def clouds(tmp_path_factory):
    """Flags of a small sweep."""
    return command.clouds(tmp_path_factory.mktemp("data") / "clouds.npz")


@pytest.fixture(scope="session")
def finished(clouds, tmp_path_factory):
    """That sweep as a process: its folder, left as it is, and output."""
    out = tmp_path_factory.mktemp("runs") / "run"
    done = command.process("-m", "experiments.sweep", *clouds, "--out", out)
    assert done.returncode == 0, done.stderr
    return out, done
