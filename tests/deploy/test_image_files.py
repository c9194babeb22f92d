"""The two scripts of the image: what it installs, and how it tells whether it is well."""

import contextlib
import http.server
import importlib.metadata
import socketserver
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from deploy.image import requirements

ROOT = Path(__file__).parents[2]
HEALTHCHECK = ROOT / "deploy" / "image" / "healthcheck.py"


def answering(status):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *_arguments):
            """Say nothing."""

    return Handler


class UnixServer(socketserver.UnixStreamServer):
    """An HTTP server at a Unix socket, whose clients have no address."""

    def get_request(self):
        connection, _ = super().get_request()
        return connection, ("client", 0)


@contextlib.contextmanager
def serving(server):
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def check(**environment):
    return subprocess.run([sys.executable, "-I", HEALTHCHECK], env=environment, timeout=30, check=False).returncode


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_the_check_passes_on_health(status, code):
    with serving(http.server.HTTPServer(("127.0.0.1", 0), answering(status))) as server:
        assert code == check(TOLBOOTH_PORT=str(server.server_port))


def test_the_check_fails_where_nobody_listens():
    with socketserver.TCPServer(("127.0.0.1", 0), None, bind_and_activate=False) as server:
        server.server_bind()  # taken, and listening to nobody
        assert 1 == check(TOLBOOTH_PORT=str(server.server_address[1]))


def test_the_check_finds_a_unix_socket(tmp_path):
    with serving(UnixServer(str(tmp_path / "socket"), answering(200))):
        assert 0 == check(TOLBOOTH_UDS=str(tmp_path / "socket"))
    assert 1 == check(TOLBOOTH_UDS=str(tmp_path / "none"))


def written(monkeypatch, folder, torch):
    """Return what is installed where the base image has this version of torch, None for none."""

    def version(_name):
        if torch is None:
            raise importlib.metadata.PackageNotFoundError
        return torch

    monkeypatch.setattr(importlib.metadata, "version", version)
    requirements.main(ROOT / "pyproject.toml", ROOT / "constraints.txt", folder)
    return [(folder / f"image-{name}.txt").read_text().splitlines() for name in ("requirements", "constraints")]


def pinned_torch():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.startswith("torch==")]


@pytest.mark.parametrize(("torch", "is_kept"), [("2.12.1+cu130", True), ("2.5.1", False), (None, False)])
def test_a_torch_that_suits_is_kept(monkeypatch, tmp_path, torch, is_kept):
    _, constraints = written(monkeypatch, tmp_path, torch)
    assert ([] if is_kept else pinned_torch()) == [line for line in constraints if line.startswith("torch==")]


def test_the_image_has_what_the_server_needs_and_nothing_for_developers(monkeypatch, tmp_path):
    names, _ = written(monkeypatch, tmp_path, None)
    assert any(name.startswith("huggingface-hub") for name in names)
    assert [] == [name for name in names if name.startswith(("pytest", "mypy", "matplotlib"))]
