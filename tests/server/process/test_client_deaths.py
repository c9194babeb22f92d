"""Engines that die, hang or cannot be loaded: everybody is told, and another one comes where that can help."""

import asyncio
import itertools
import os
import signal
import sys

import pytest

from server.process.client import Backoff, EngineState
from server.process.errors import EngineDiedError, EngineFatalError, EngineUnavailableError
from tests.server.process.conftest import PATIENCE
from tests.server.process.counting_worker import BREAK, DIE, HANG, HOLD, SPIN
from tests.server.process.samples import request, tokens_of

pytestmark = pytest.mark.anyio


def pid_of(client):
    return client._supervisor.process.pid


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_killing_the_engine_ends_every_stream_at_once(client):
    async with client.submit(request("a", HOLD)) as first, client.submit(request("b", HOLD)) as second:
        await anext(first)
        await anext(second)
        os.kill(pid_of(client), signal.SIGKILL)
        for stream in (first, second):
            with pytest.raises(EngineDiedError, match=r"ended by signal 9 \(Killed\); the request was not finished"):
                await asyncio.wait_for(anext(stream), PATIENCE)


async def test_an_engine_that_was_killed_is_started_again(client):
    with pytest.raises(EngineDiedError):
        await tokens_of(client.submit(request(kind=DIE)))
    await client.wait_ready(PATIENCE)
    assert [0, 1, 2] == await tokens_of(client.submit(request(max_tokens=3)))
    assert (1, None) == (client.num_restarts, client.failure)


async def test_the_log_says_that_an_engine_died_and_when_it_is_back(client, capfd):
    pid = pid_of(client)
    with pytest.raises(EngineDiedError):
        await tokens_of(client.submit(request(kind=DIE)))
    await client.wait_ready(PATIENCE)
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("tolbooth: ")]
    assert f"tolbooth: the engine's process {pid} was ended by signal 9 (Killed); it is started again in" in lines[0]
    assert lines[1].startswith("tolbooth: the engine is ready again, after ")


async def test_an_engine_that_raises_says_what_and_is_started_again(client):
    with pytest.raises(EngineDiedError, match="RuntimeError: a wheel came off"):
        await tokens_of(client.submit(request(kind=BREAK)))
    await client.wait_ready(PATIENCE)
    assert 1 == client.num_restarts


async def test_requests_are_turned_away_while_the_engine_is_down(clients):
    client = clients(backoff=Backoff(first=1000, longest=1000))
    await client.start()
    await client.wait_ready(PATIENCE)
    with pytest.raises(EngineDiedError):
        await tokens_of(client.submit(request(kind=DIE)))
    with pytest.raises(EngineUnavailableError, match=r"again: the engine's process \d+ was ended by") as caught:
        client.submit(request())
    assert EngineState.DOWN == client.state
    assert 900 < caught.value.retry_after <= 1100


async def test_counters_never_go_down_and_gauges_are_of_the_live_engine(client):
    async with client.submit(request("held", HOLD)) as held:
        await anext(held)
        await tokens_of(client.submit(request(max_tokens=7)))
        before = await client.refresh_stats(PATIENCE)
        assert (8, 1) == (before.generation_tokens, before.requests_running)
        with pytest.raises(EngineDiedError):
            await tokens_of(client.submit(request(kind=DIE)))
        assert (8, 0) == (client.stats.generation_tokens, client.stats.requests_running)
    await client.wait_ready(PATIENCE)
    await tokens_of(client.submit(request(max_tokens=2)))
    assert 10 == (await client.refresh_stats(PATIENCE)).generation_tokens


async def test_an_engine_that_was_killed_while_loading_is_started_again(clients):
    loading = asyncio.Event()
    client = clients("slow once", on_progress=lambda *_: loading.set())
    await client.start()
    await asyncio.wait_for(loading.wait(), PATIENCE)
    os.kill(pid_of(client), signal.SIGKILL)
    await client.wait_ready(PATIENCE)
    assert (EngineState.READY, 1) == (client.state, client.num_restarts)


@pytest.mark.parametrize(
    ("model", "message"), [("mistaken", "^the table is of another model"), ("broken", "loaded: RuntimeError: a wheel")]
)
async def test_an_engine_that_cannot_be_loaded_is_not_tried_again(clients, model, message):
    client = clients(model)
    await client.start()
    with pytest.raises(EngineFatalError, match=message):
        await client.wait_ready(PATIENCE)
    assert (EngineState.STOPPED, 0) == (client.state, client.num_restarts)


@pytest.mark.parametrize("command", [["/nonexistent/engine"], [sys.executable, "/nonexistent/engine.py"]])
async def test_a_command_that_does_not_run_is_not_tried_again(clients, command):
    client = clients(command=command)
    await client.start()
    with pytest.raises(EngineFatalError, match="the engine's process"):
        await client.wait_ready(PATIENCE)


async def test_once_it_was_ready_an_engine_is_tried_again_whatever_happens(clients):
    num_loads, third_load = itertools.count(1), asyncio.Event()
    client = clients("mistaken later", on_progress=lambda *_: third_load.set() if next(num_loads) == 3 else None)
    await client.start()
    await client.wait_ready(PATIENCE)
    with pytest.raises(EngineDiedError):
        await tokens_of(client.submit(request(kind=DIE)))
    await asyncio.wait_for(third_load.wait(), PATIENCE)
    assert (EngineState.DOWN, True) == (client.state, "another model" in client.failure)


async def test_waiting_for_an_engine_that_is_not_ready_in_time_says_so(clients):
    client = clients("slow")
    await client.start()
    with pytest.raises(EngineUnavailableError, match="is being loaded"):
        await client.wait_ready(0.01)


async def test_an_engine_that_talks_nonsense_is_replaced(clients):
    client = clients("garbled once")
    await client.start()
    await client.wait_ready(PATIENCE)
    assert 1 == client.num_restarts


@pytest.mark.parametrize("kind", [HANG, SPIN])
async def test_an_engine_that_makes_no_progress_is_killed_and_started_again(clients, kind, capfd):
    client = clients(stall_timeout=0.3)
    await client.start()
    await client.wait_ready(PATIENCE)
    with pytest.raises(EngineDiedError, match=r"no progress for 0\.3 s"):
        await tokens_of(client.submit(request(kind=kind)))
    await client.wait_ready(PATIENCE)
    assert "most recent call first" in capfd.readouterr().err


async def test_an_idle_engine_is_not_taken_for_hung(client):
    await tokens_of(client.submit(request()))
    assert 0 == client._stalled()


async def test_delays_begin_anew_after_a_time_of_health(clients):
    client = clients(backoff=Backoff(first=0.01, healthy_after=0))
    await client.start()
    for _ in range(2):
        await client.wait_ready(PATIENCE)
        with pytest.raises(EngineDiedError):
            await tokens_of(client.submit(request(kind=DIE)))
    assert (1, 1) == (client.num_restarts, client._supervisor._num_deaths)


async def test_stopping_waits_for_open_requests(client):
    stream = client.submit(request(max_tokens=100))
    stopping = asyncio.create_task(client.stop(PATIENCE))
    assert list(range(100)) == await tokens_of(stream)
    await stopping


async def test_stopping_ends_requests_that_take_too_long(client):
    async with client.submit(request(kind=HOLD)) as stream:
        await anext(stream)
        await client.stop(0.01)
        with pytest.raises(EngineDiedError, match="the server stops"):
            await anext(stream)


async def test_no_request_is_taken_while_stopping(client):
    async with client.submit(request(kind=HOLD)) as stream:
        await anext(stream)
        stopping = asyncio.create_task(client.stop(PATIENCE))
        await asyncio.sleep(0)
        with pytest.raises(EngineUnavailableError, match="is stopped"):
            client.submit(request("late"))
    await stopping


async def test_stopping_closes_the_engine_and_reaps_its_process(client, control):
    pid = pid_of(client)
    await client.stop(0)
    assert (True, False) == ((control / "closed").exists(), is_alive(pid))
    assert (EngineState.STOPPED, 0) == (client.state, client.num_restarts)


async def test_stopping_twice_is_stopping_once(client):
    await asyncio.gather(client.stop(0), client.stop(0))
    await client.stop(0)
    assert EngineState.STOPPED == client.state


async def test_stopping_while_the_engine_loads_does_not_wait_for_it(clients):
    loading = asyncio.Event()
    client = clients("slow", on_progress=lambda *_: loading.set())
    await client.start()
    await asyncio.wait_for(loading.wait(), PATIENCE)
    pid = pid_of(client)
    await asyncio.wait_for(client.stop(0), PATIENCE / 2)
    assert not is_alive(pid)


async def test_stopping_right_after_starting_leaves_no_process(clients):
    client = clients("slow")
    await client.start()
    await asyncio.wait_for(client.stop(0), PATIENCE / 2)
    assert EngineState.STOPPED == client.state


async def test_a_hung_engine_is_killed_when_it_does_not_stop(clients):
    client = clients(shutdown_timeout=0.2)
    await client.start()
    await client.wait_ready(PATIENCE)
    pid = pid_of(client)
    client.submit(request(kind=HANG))
    await asyncio.wait_for(client.stop(0.1), PATIENCE)
    assert not is_alive(pid)


async def test_stopping_between_two_starts_does_not_wait_for_the_next(clients):
    client = clients(backoff=Backoff(first=1000, longest=1000))
    await client.start()
    await client.wait_ready(PATIENCE)
    with pytest.raises(EngineDiedError):
        await tokens_of(client.submit(request(kind=DIE)))
    await asyncio.wait_for(client.stop(0), PATIENCE)
    assert EngineState.STOPPED == client.state


def test_delays_double_up_to_the_longest():
    assert [0.5, 1, 2, 4, 8, 16, 30, 30] == [Backoff().delay(deaths) for deaths in range(1, 9)]
