"""A server of completions that streams what it is told to."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class FakeServer(ThreadingHTTPServer):
    """Answers on a free port of 127.0.0.1; `bodies` are the requests that came."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies = []
        self.headers = []
        self.pieces = ["one", " two", " three"]
        self.status = 200
        self.ends_early = False
        self.last_event = None
        self.metrics = []
        self.running = self.most_running = 0
        self.gate = None
        self.lock = threading.Lock()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: FakeServer

    def log_message(self, *_):
        pass

    def do_GET(self):
        if self.path == "/v1/models":
            self._answer(200, json.dumps({"data": [{"id": "fake"}]}))
        elif self.path == "/metrics" and self.server.metrics:
            self._answer(200, self.server.metrics.pop(0))
        else:
            self._answer(404, "there is no such page")

    def do_POST(self):
        server = self.server
        with server.lock:
            server.running += 1
            server.most_running = max(server.most_running, server.running)
            server.bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            server.headers.append(dict(self.headers))
        if server.gate is not None:
            server.gate.wait(30)
        with server.lock:
            server.running -= 1
        if server.status != 200:
            self._answer(server.status, "no room")
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        for piece in server.pieces:
            self._event({"choices": [{"text": piece, "finish_reason": None}]})
        if server.ends_early:
            return
        if server.last_event is not None:
            self._event(server.last_event)
        self._event({"choices": [{"text": "", "finish_reason": "length"}]})
        self._event({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": len(server.pieces)}})
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, value):
        self.wfile.write(b"data: " + json.dumps(value).encode() + b"\n\n")

    def _answer(self, status, text):
        self.send_response(status)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())


@pytest.fixture
def server():
    with FakeServer() as fake:
        thread = threading.Thread(target=fake.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield fake
        if fake.gate is not None:
            fake.gate.abort()
        fake.shutdown()
        thread.join(10)
