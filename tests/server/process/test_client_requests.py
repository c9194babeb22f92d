"""Requests through a process: answered, refused, aborted, by many at a time."""

import asyncio

import pytest

from server.engine.errors import QueueFullError, RequestError
from server.engine.messages import FinishReason, Request
from server.process.client import EngineState
from server.process.errors import EngineUnavailableError
from tests.server.process.conftest import PATIENCE
from tests.server.process.counting_worker import COUNT, FLOOD, FULL, HOLD, INFO
from tests.server.process.samples import request, tokens_of

pytestmark = pytest.mark.anyio


async def stats_after(client):
    """Statistics that know of all that was sent before."""
    return await client.refresh_stats(PATIENCE)


async def test_a_request_is_answered_to_its_end(client):
    async with client.submit(request()) as stream:
        outputs = [output async for output in stream]
    assert [0, 1, 2, 3, 4] == [token for output in outputs for token in output.choices[0].token_ids]
    assert (FinishReason.LENGTH, True) == (outputs[-1].choices[0].finish_reason, outputs[-1].is_finished)


async def test_the_engine_tells_what_it_is(client):
    assert (INFO, EngineState.READY) == (client.info, client.state)


async def test_progress_is_told_while_the_engine_loads(clients):
    seen = []
    client = clients(on_progress=lambda *progress: seen.append(progress))
    await client.start()
    await client.wait_ready(PATIENCE)
    assert [("counting", 1, 2)] == seen


async def test_a_client_is_the_same_on_another_event_loop(anyio_backend, clients):
    client = clients()
    await client.start()
    await client.wait_ready(PATIENCE)
    assert [0, 1, 2] == await tokens_of(client.submit(request(max_tokens=3)))


test_a_client_is_the_same_on_another_event_loop = pytest.mark.parametrize(
    "anyio_backend", [pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop")]
)(test_a_client_is_the_same_on_another_event_loop)


async def test_many_requests_at_a_time_are_each_answered(client):
    streams = [client.submit(request(str(index), max_tokens=20)) for index in range(200)]
    answers = await asyncio.gather(*[tokens_of(stream) for stream in streams])
    assert [list(range(20))] * 200 == answers


async def test_a_slow_reader_gets_all_that_came_at_once(client):
    async with client.submit(request(n=2)) as stream:
        while (await stats_after(client)).requests_running:
            pass
        (output,) = [output async for output in stream]
    assert [[0, 1, 2, 3, 4]] * 2 == [choice.token_ids for choice in output.choices]
    assert output.is_finished


async def test_a_slow_reader_holds_up_nobody(client):
    async with client.submit(request("slow", max_tokens=1000)):
        assert [0, 1, 2] == await tokens_of(client.submit(request("quick", max_tokens=3)))


async def test_a_request_that_cannot_be_served_is_refused_as_in_process(client):
    with pytest.raises(RequestError, match="outside the vocabulary") as caught:
        await tokens_of(client.submit(request(kind=FULL + 1)))
    assert "prompt_ids" == caught.value.param


async def test_a_request_that_finds_the_queue_full_is_refused_as_in_process(client):
    with pytest.raises(QueueFullError, match="waits already"):
        await tokens_of(client.submit(request(kind=FULL)))


async def test_a_request_with_values_of_wrong_types_is_refused_and_others_go_on(client):
    async with client.submit(request("other", HOLD)) as other:
        await anext(other)
        with pytest.raises(RequestError, match="Expected `int`"):
            await tokens_of(client.submit(Request(request_id="r", prompt_ids=["one"])))
        assert not other.is_over


async def test_an_id_in_use_is_refused(client):
    async with client.submit(request(kind=HOLD)):
        with pytest.raises(RequestError, match="'r' is in use"):
            client.submit(request())


async def test_leaving_a_stream_aborts_its_request(client):
    async with client.submit(request(kind=HOLD)) as stream:
        await anext(stream)
        assert 1 == (await stats_after(client)).requests_running
    stats = await stats_after(client)
    assert (0, 1) == (stats.requests_running, stats.preemptions)


async def test_leaving_a_stream_that_is_over_aborts_nothing(client):
    await tokens_of(client.submit(request()))
    assert 0 == (await stats_after(client)).preemptions


async def test_a_cancelled_reader_aborts_its_request(client):
    started = asyncio.Event()

    async def read():
        async with client.submit(request(kind=HOLD)) as stream:
            async for _ in stream:
                started.set()

    task = asyncio.create_task(read())
    await asyncio.wait_for(started.wait(), PATIENCE)
    task.cancel()
    await asyncio.wait({task})
    assert (True, 1) == (task.cancelled(), (await stats_after(client)).preemptions)


async def test_an_aborted_request_ends_its_stream(client):
    async with client.submit(request(kind=HOLD)) as stream:
        await anext(stream)
        client.abort("r")
        assert [] == [output async for output in stream]


async def test_nothing_more_is_said_of_an_aborted_choice(client):
    async with client.submit(request(n=2, max_tokens=50)) as stream:
        client.abort("r", 0)
        later = [choice.choice async for output in stream for choice in output.choices]
    assert {1} == set(later)


async def test_a_stream_ends_when_each_choice_was_aborted(client):
    async with client.submit(request(kind=HOLD, n=2)) as stream:
        await anext(stream)
        client.abort("r", 1)
        client.abort("r", 0)
        assert [] == [output async for output in stream]


async def test_aborting_an_unknown_request_is_ignored(client):
    client.abort("nobody")
    assert [0] == await tokens_of(client.submit(request(max_tokens=1)))


async def test_outputs_too_long_for_a_message_come_in_several(clients):
    client = clients("terse")
    await client.start()
    await client.wait_ready(PATIENCE)
    streams = [client.submit(request(str(index), COUNT, max_tokens=2)) for index in range(100)]
    assert [[0, 1]] * 100 == await asyncio.gather(*[tokens_of(stream) for stream in streams])


async def test_an_output_too_long_for_any_message_ends_its_request_alone(clients):
    client = clients("terse")
    await client.start()
    await client.wait_ready(PATIENCE)
    async with client.submit(request("other", HOLD)) as other:
        await anext(other)
        with pytest.raises(RequestError, match="cannot be sent"):
            await tokens_of(client.submit(request(kind=FLOOD)))
        assert not other.is_over


async def test_a_request_before_the_engine_is_ready_is_told_when_to_try_again(clients):
    client = clients("slow")
    await client.start()
    with pytest.raises(EngineUnavailableError, match="is being loaded") as caught:
        client.submit(request())
    assert caught.value.retry_after >= 1


async def test_a_request_to_a_client_that_was_not_started_is_refused_for_good(clients):
    with pytest.raises(EngineUnavailableError, match="is stopped") as caught:
        clients().submit(request())
    assert caught.value.retry_after is None
