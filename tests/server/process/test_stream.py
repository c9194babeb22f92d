"""One request's outputs, merged and in order."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.engine.messages import (
    Candidate,
    ChoiceOutput,
    FinishReason,
    MemoryUse,
    PositionLogprobs,
    RequestOutput,
    RequestTiming,
    Tier,
)
from server.process.merging import merge_outputs
from server.process.stream import RequestStream
from tests.server.process.samples import request

pytestmark = pytest.mark.anyio

TIMING = RequestTiming(queue_seconds=0.5, prefill_seconds=0.25)


def output(*choices, **others):
    return RequestOutput(request_id="r", choices=choices, **others)


def tokens(choice, *token_ids, **others):
    return ChoiceOutput(choice=choice, token_ids=token_ids, **others)


def logprob(token_id):
    return PositionLogprobs(Candidate(token_id, -1.0, 1), [])


def stream_of(n=1):
    left = []
    return RequestStream(request(n=n), lambda: left.append(True)), left


async def rest_of(stream):
    return [output async for output in stream]


def test_merged_outputs_say_what_each_of_them_said():
    first = output(
        tokens(0, 1, logprobs=[logprob(1)], tiers=[Tier.HOST]),
        tokens(1, 7, logprobs=[logprob(7)], tiers=[Tier.DEVICE]),
        prompt_logprobs=[None, logprob(5)],
        num_cached_tokens=3,
        timing=TIMING,
    )
    second = output(
        tokens(1, 8, finish_reason=FinishReason.STOP, stop_token_id=8, logprobs=[logprob(8)], tiers=[Tier.DEVICE])
    )
    third = output(
        tokens(0, 2, 3, finish_reason=FinishReason.LENGTH, logprobs=[logprob(2), logprob(3)], tiers=[Tier.DEVICE] * 2),
        is_finished=True,
        memory=MemoryUse(rows=4),
    )
    expected = RequestOutput(
        request_id="r",
        choices=[
            ChoiceOutput(
                choice=0,
                token_ids=[1, 2, 3],
                logprobs=[logprob(1), logprob(2), logprob(3)],
                finish_reason=FinishReason.LENGTH,
                tiers=[Tier.HOST, Tier.DEVICE, Tier.DEVICE],
            ),
            ChoiceOutput(
                choice=1,
                token_ids=[7, 8],
                logprobs=[logprob(7), logprob(8)],
                finish_reason=FinishReason.STOP,
                stop_token_id=8,
                tiers=[Tier.DEVICE] * 2,
            ),
        ],
        prompt_logprobs=[None, logprob(5)],
        num_cached_tokens=3,
        timing=TIMING,
        is_finished=True,
        memory=MemoryUse(rows=4),
    )
    assert expected == merge_outputs([first, second, third])


@given(st.lists(st.dictionaries(st.integers(0, 2), st.lists(st.integers(0, 9), max_size=3)), min_size=1))
def test_merging_keeps_each_choices_tokens_in_order(steps):
    outputs = [output(*[tokens(choice, *token_ids) for choice, token_ids in step.items()]) for step in steps]
    expected = {}
    for step in steps:
        for choice, token_ids in step.items():
            expected.setdefault(choice, []).extend(token_ids)
    merged = merge_outputs(outputs)
    assert expected == {choice.choice: list(choice.token_ids) for choice in merged.choices}


async def test_outputs_that_were_waited_for_come_one_by_one():
    stream, _ = stream_of()
    reading = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    stream.put(output(tokens(0, 1)))
    assert output(tokens(0, 1)) == await reading


async def test_a_stream_ends_after_the_output_that_finishes_it():
    stream, left = stream_of()
    stream.put(output(tokens(0, 1, finish_reason=FinishReason.STOP), is_finished=True))
    async with stream:
        assert 1 == len(await rest_of(stream))
    assert [] == left


async def test_what_was_said_of_a_choice_before_its_abort_was_known_is_left_out():
    stream, _ = stream_of(n=2)
    stream.put(output(tokens(0, 1), tokens(1, 1)))
    stream.expect_no_more([0])
    stream.put(output(tokens(0, 2), tokens(1, 2)))
    merged = await anext(stream)
    assert {0: [1], 1: [1, 2]} == {choice.choice: list(choice.token_ids) for choice in merged.choices}


async def test_a_stream_is_over_when_every_choice_has_ended_or_was_aborted():
    stream, _ = stream_of(n=2)
    stream.put(output(tokens(0, 1, finish_reason=FinishReason.STOP)))
    stream.expect_no_more([1])
    assert 1 == len(await rest_of(stream))


async def test_an_error_comes_before_what_was_not_read():
    stream, _ = stream_of()
    stream.put(output(tokens(0, 1)))
    stream.fail(RuntimeError("gone"))
    with pytest.raises(RuntimeError, match="gone"):
        await anext(stream)


async def test_a_stream_that_is_over_does_not_fail_any_more():
    stream, _ = stream_of()
    stream.put(output(tokens(0, 1, finish_reason=FinishReason.STOP), is_finished=True))
    stream.fail(RuntimeError("gone"))
    assert 1 == len(await rest_of(stream))


async def test_leaving_early_is_told_once():
    stream, left = stream_of()
    await stream.aclose()
    await stream.aclose()
    assert ([True], []) == (left, await rest_of(stream))
