"""Clients that go at any moment, and clients that do not read: nothing of theirs stays."""

import asyncio
import random
import socket
import struct

import pytest

from tests.server.serving.raw_client import connect, post
from tests.server.serving.server_process import LONGEST, PATIENCE, eventually

pytestmark = pytest.mark.timeout(LONGEST)

NUM_CLIENTS = 150
AT_ONCE = 30
RESET = struct.pack("ii", 1, 0)
"""To close a connection without a goodbye."""
NUM_CHOICES = 60
MUCH = {"prompt": [1, 2], "n": NUM_CHOICES, "max_tokens": 60, "logprobs": 20, "stream": True, "ignore_eos": True}
"""More than the system buffers for a connection."""


@pytest.fixture(scope="module")
def server(start):
    server = start("--max-num-seqs", str(NUM_CHOICES + 4), "--tol-device-rows", "100")
    server.ready()
    assert 200 == server.post(prompt="x").status_code
    return server


@pytest.fixture
def num_files(server):
    """Open files and sockets before the test."""
    server.await_idle()
    counts = [-1, server.num_files]

    def is_settled():
        counts.append(server.num_files)
        return counts[-1] == counts[-2]

    eventually(is_settled, "the connections of earlier tests are closed")
    return counts[-1]


async def leave(server, rng):
    """Ask for something and go at some moment, politely or not."""
    request = post(
        {
            "prompt": [[rng.randrange(1, 290) for _ in range(rng.randint(1, 30))] for _ in range(rng.randint(1, 3))],
            "n": rng.randint(1, 3),
            "max_tokens": rng.randint(1, 30),
            "stream": rng.random() < 0.7,
            "ignore_eos": True,
        },
        "connection: close",
    )
    reader, writer = await connect(server)
    async with asyncio.timeout(PATIENCE):
        if rng.random() < 0.2:  # before the request is whole
            writer.write(request[: rng.randrange(len(request))])
            await writer.drain()
        else:
            writer.write(request)
            await writer.drain()
            await reader.read(rng.choice([1, 100, 1000, 4000]) if rng.random() < 0.8 else -1)
    if rng.random() < 0.5:
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.close()


@pytest.mark.parametrize("seed", [1, 2])
def test_clients_that_go_at_random_leave_nothing_behind(server, num_files, seed):
    async def all_leave():
        places = asyncio.Semaphore(AT_ONCE)

        async def one(number):
            async with places:
                await leave(server, random.Random(1000 * seed + number))  # noqa: S311 to be repeated

        async with asyncio.TaskGroup() as group:
            for number in range(NUM_CLIENTS // 2):
                group.create_task(one(number))

    asyncio.run(all_leave())
    server.await_idle()
    eventually(lambda: server.num_files <= num_files, "all connections are closed")
    assert 200 == server.post(prompt=[1, 2, 3], max_tokens=2).status_code


@pytest.fixture
def deaf_client(server):
    """A client that asks for much and reads nothing."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
        client.sendall(post(MUCH))
        eventually(lambda: not server.is_idle(), "its request runs")
        yield client


def test_a_client_that_does_not_read_holds_nobody_up_and_leaves_nothing_behind(server, num_files, deaf_client):
    before = server.resident_bytes
    for _ in range(3):
        answer = server.post(prompt=[1, 2, 3], max_tokens=20, ignore_eos=True)
        assert 20 == answer.json()["usage"]["completion_tokens"]
    server.await_idle()  # the engine has finished what nobody reads
    assert server.resident_bytes < before + 100 * 2**20
    deaf_client.close()
    eventually(lambda: server.num_files <= num_files, "its connection is closed")


def test_a_client_that_reads_late_gets_all_of_it(server, deaf_client):
    server.await_idle()
    deaf_client.settimeout(PATIENCE)
    deaf_client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**20)
    data = bytearray()
    while not data.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"):
        part = deaf_client.recv(2**20)
        assert part
        data += part
    assert NUM_CHOICES == data.count(b'"finish_reason":"length"')
