"""Questions through a process: answered, refused, given up."""

import asyncio
import os

import msgspec
import pytest

from server.engine.errors import QueueFullError, RequestError
from server.engine.questions import DescribeRowWishes, ListRecentRows, PinnedRows, PinRows, UnpinRows, WarmRows
from server.process.errors import BrokenQuestionError, EngineDiedError, EngineUnavailableError, NoAnswerError
from tests.server.process.conftest import PATIENCE
from tests.server.process.counting_worker import HANG, HOLD, SMALL_FRAME
from tests.server.process.samples import request, tokens_of

pytestmark = pytest.mark.anyio


class Unknown(msgspec.Struct, tag="unknown"):
    pass


async def test_a_question_is_answered(client):
    assert PinnedRows(token_ids=[3, 1]) == await client.ask(PinRows(token_ids=[3, 1]), PATIENCE)


async def test_each_of_many_questions_gets_its_own_answer(client):
    answers = await asyncio.gather(*[client.ask(PinRows(token_ids=[number]), PATIENCE) for number in range(50)])
    assert [[number] for number in range(50)] == [answer.token_ids for answer in answers]


async def test_a_question_is_answered_while_requests_run(client):
    async with client.submit(request(max_tokens=100_000)) as stream:
        await anext(stream)
        assert PinnedRows(token_ids=[1]) == await client.ask(PinRows(token_ids=[1]), PATIENCE)


async def test_what_the_engine_refuses_is_refused_as_in_process(client):
    with pytest.raises(RequestError, match="nothing is pinned") as caught:
        await client.ask(UnpinRows(token_ids=None), PATIENCE)
    assert "token_ids" == caught.value.param


async def test_what_the_engine_has_no_room_for_is_refused_as_in_process(client):
    with pytest.raises(QueueFullError, match="being warmed already"):
        await client.ask(WarmRows(token_ids=[1]), PATIENCE)


@pytest.mark.parametrize(
    ("question", "match"), [(Unknown(), "unknown"), (PinRows(token_ids=["one"]), "Expected `int`")]
)
async def test_a_question_that_is_none_disturbs_nothing_else(client, question, match):
    async with client.submit(request(kind=HOLD)) as other:
        await anext(other)
        with pytest.raises(BrokenQuestionError, match=match):
            await client.ask(question, PATIENCE)
        assert not other.is_over


async def test_a_question_over_which_the_engine_breaks_ends_nothing_else(client):
    async with client.submit(request(kind=HOLD)) as other:
        await anext(other)
        with pytest.raises(BrokenQuestionError, match="a wheel came off"):
            await client.ask(DescribeRowWishes(), PATIENCE)
        assert not other.is_over


async def test_an_answer_too_long_for_a_message_is_an_error(clients):
    client = clients("terse")
    await client.start()
    await client.wait_ready(PATIENCE)
    with pytest.raises(BrokenQuestionError, match="the longest is"):
        await client.ask(ListRecentRows(most=2 * SMALL_FRAME), PATIENCE)
    assert [0] == await tokens_of(client.submit(request(max_tokens=1)))


@pytest.fixture
async def hanging(client, control):
    """A client whose engine hangs."""
    os.mkfifo(control / "hanging")
    async with client.submit(request(kind=HANG)):
        await asyncio.to_thread((control / "hanging").read_bytes)  # comes when it does
        yield client
        if client._supervisor.process is not None:
            client._supervisor.process.kill()  # which would otherwise be given time to end by itself


async def test_a_question_that_is_not_answered_in_time_is_given_up(hanging):
    with pytest.raises(NoAnswerError, match=r"within 0\.01 s"):
        await hanging.ask(PinRows(token_ids=[1]), 0.01)


async def test_too_many_open_questions_are_refused(hanging):
    asked = [asyncio.create_task(hanging.ask(PinRows(token_ids=[1]), PATIENCE)) for _ in range(65)]
    (done,), waiting = await asyncio.wait(asked, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    with pytest.raises(QueueFullError, match="64 questions wait"):
        done.result()


async def test_whoever_asks_an_engine_that_dies_is_told_so(hanging):
    asked = asyncio.create_task(hanging.ask(PinRows(token_ids=[1]), PATIENCE))
    await asyncio.sleep(0)  # for the question to be sent
    hanging._supervisor.process.kill()
    with pytest.raises(EngineDiedError, match="was not answered"):
        await asked


async def test_a_question_before_the_engine_is_ready_is_told_when_to_ask_again(clients):
    client = clients("slow")
    await client.start()
    with pytest.raises(EngineUnavailableError, match="is being loaded"):
        await client.ask(PinRows(token_ids=[1]), PATIENCE)
