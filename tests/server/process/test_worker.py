"""The engine's process by itself: how it ends, and what it is deaf to."""

import os
import signal
import socket
import struct
import subprocess
import sys

import msgspec
import pytest

from server.engine.config import EngineConfig
from server.engine.messages import EngineStats, Progress
from server.process.frames import from_payload, receive_payload, to_frame
from server.process.messages import FromEngine, StatsQuery
from tests.server.process.conftest import PATIENCE, WORKER
from tests.server.process.counting_worker import HANG, INFO
from tests.server.process.samples import request

DECODER = msgspec.msgpack.Decoder(FromEngine)


class Worker:
    """A process and our end of its socket."""

    def __init__(self, folder, config):
        self.sock, theirs = socket.socketpair()
        self.sock.settimeout(PATIENCE)
        command = [sys.executable, str(WORKER), str(folder), "--fd", str(theirs.fileno())]
        with theirs:
            self.process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
        self.send(config)

    def send(self, message):
        self.sock.sendall(to_frame(message))

    def receive(self):
        return from_payload(receive_payload(self.sock), DECODER)

    def wait(self):
        return self.process.wait(PATIENCE)


@pytest.fixture
def start(control):
    workers = []

    def start(config=EngineConfig(model="well")):  # noqa: B008 frozen
        workers.append(Worker(control, config))
        return workers[-1]

    yield start
    for worker in workers:
        worker.sock.close()
        worker.process.kill()
        worker.process.wait()
        worker.process.stderr.close()


@pytest.fixture
def ready(start):
    worker = start()
    while not isinstance(worker.receive(), EngineStats):
        pass
    return worker


def test_it_tells_of_progress_then_of_its_engine_then_of_how_that_stands(start):
    worker = start()
    progress, info, stats = worker.receive(), worker.receive(), worker.receive()
    assert (Progress(phase="counting", done=1, total=2), INFO) == (progress, info)
    assert 0 == stats.requests_running


def test_it_ends_when_who_started_it_goes_while_it_connects(start):
    worker = start()
    worker.sock.close()
    worker.wait()
    assert b"Traceback" not in worker.process.stderr.read()


def test_it_ends_when_nobody_is_left_to_serve(ready, control):
    ready.sock.close()
    ready.wait()
    assert (control / "closed").exists()


def test_it_ends_when_nobody_is_left_to_serve_though_its_engine_hangs(ready, control):
    os.mkfifo(control / "hanging")
    ready.send(request(kind=HANG))
    assert b"yes" == (control / "hanging").read_bytes()  # comes when it does
    ready.sock.close()
    assert 1 == ready.wait()


def test_it_ends_when_nobody_is_left_while_it_loads(start):
    worker = start(EngineConfig(model="slow"))
    worker.receive()
    worker.sock.close()
    assert 1 == worker.wait()


def test_it_ends_when_nobody_asks_for_an_engine(control):
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, str(WORKER), str(control), "--fd", str(theirs.fileno())]
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
    ours.close()
    assert 0 == process.wait(PATIENCE)


def test_sigterm_ends_it_after_closing_the_engine(ready, control):
    ready.process.send_signal(signal.SIGTERM)
    assert (0, True) == (ready.wait(), (control / "closed").exists())


def test_sigint_is_left_to_others(ready):
    ready.process.send_signal(signal.SIGINT)
    ready.send(StatsQuery())
    assert isinstance(ready.receive(), EngineStats)


@pytest.mark.parametrize(
    ("bad", "message"),
    [(b"\xff\xff\xff\xff", "4294967295 bytes is announced"), (struct.pack(">I", 3) + b"abc", "3 bytes that cannot")],
)
def test_a_broken_message_ends_it_with_an_error(ready, bad, message):
    ready.sock.sendall(bad)
    _, stderr = ready.process.communicate(timeout=PATIENCE)
    assert message in stderr.decode()


def test_a_configuration_out_of_range_is_a_mistake(start):
    worker = start({"model": "well", "max_num_seqs": 0})
    assert "max_num_seqs is 0" in worker.receive().message
    assert 2 == worker.wait()


def test_the_clients_side_imports_without_torch():
    code = "import sys, server.process.client; sys.exit('torch' in sys.modules)"
    assert 0 == subprocess.run([sys.executable, "-c", code], check=False, timeout=PATIENCE).returncode
