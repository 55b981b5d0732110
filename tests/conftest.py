"""What tests stand on: an account without settings, a server on loopback."""

import http.server
import threading

import pytest


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
