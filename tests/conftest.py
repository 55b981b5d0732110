"""What tests stand on: few programs, an account without settings, a server on loopback."""

import http.server
import threading
from pathlib import Path

import jax
import pytest


@pytest.fixture(autouse=True)
def few_programs():
    """Drop compiled programs when many: each holds memory maps, of which Linux grants 65,530."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_text().count("\n") > 20_000:
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
