import asyncio

import pytest

from tests.server.http.conftest import error_of, frames_of

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("option", "fields", "param"),
    [
        ({"max_n": 2}, {"n": 3}, "n"),
        ({"max_prompts": 2}, {"prompt": ["a", "b", "c"]}, "prompt"),
        ({"max_sequences": 5}, {"prompt": ["a", "b", "c"], "n": 2}, "n"),
        ({"max_stop_strings": 2}, {"stop": ["a", "b", "c"]}, "stop"),
        ({"max_stop_length": 2}, {"stop": "abc"}, "stop"),
        ({"max_stop_strings": 2}, {"bad_words": ["a", "b", "c"]}, "bad_words"),
        ({"max_logit_bias": 1}, {"logit_bias": {"1": 1, "2": 1}}, "logit_bias"),
        ({"max_logprobs": 1}, {"logprobs": 2}, "logprobs"),
        ({"max_logprobs": 1}, {"prompt_logprobs": 2}, "prompt_logprobs"),
        ({}, {"stop_token_ids": [1] * 301}, "stop_token_ids"),
        ({}, {"allowed_token_ids": [1] * 301}, "allowed_token_ids"),
    ],
)
async def test_what_is_over_a_limit_is_a_mistake(connect, option, fields, param):
    client = await connect(**option)
    error = error_of(await client.post("/v1/completions", json={"prompt": "x", **fields}), 400)
    assert param == error["param"]


async def test_top_logprobs_are_limited_by_their_own_name(connect):
    client = await connect(max_logprobs=1)
    body = {"messages": [{"role": "user", "content": "x"}], "logprobs": True, "top_logprobs": 2}
    assert "top_logprobs" == error_of(await client.post("/v1/chat/completions", json=body), 400)["param"]


async def test_a_body_that_says_that_it_is_too_large_is_not_read(connect):
    client = await connect(max_body_bytes=100)

    async def never():
        raise AssertionError
        yield

    response = await client.post("/v1/completions", content=never(), headers={"content-length": "101"})
    assert "body_too_large" == error_of(response, 413)["code"]


async def test_a_body_that_turns_out_too_large_is_not_read_to_its_end(connect):
    client = await connect(max_body_bytes=100)

    async def endless():
        while True:
            yield b" " * 64

    assert "body_too_large" == error_of(await client.post("/v1/completions", content=endless()), 413)["code"]


async def test_a_body_at_the_limit_is_read(connect):
    body = b'{"prompt": "x"}'
    client = await connect(max_body_bytes=len(body))
    assert 200 == (await client.post("/v1/completions", content=body)).status_code


async def test_a_request_that_takes_too_long_is_ended(connect, engine):
    client = await connect(request_timeout=0.01)
    engine.gate.clear()
    error = error_of(await client.post("/v1/completions", json={"prompt": "x"}), 400)
    assert "request_timeout" == error["code"]
    assert [(engine.requests[0].request_id, None)] == engine.aborted


async def test_a_stream_that_has_not_begun_in_time_has_a_status(connect, engine):
    client = await connect(request_timeout=0.01)
    engine.gate.clear()
    error_of(await client.post("/v1/completions", json={"prompt": "x", "stream": True}), 400)


async def test_a_stream_that_takes_too_long_ends_with_an_error(connect, engine):
    client = await connect(request_timeout=0.2)
    engine.holds_after = 1
    response = await client.post("/v1/completions", json={"prompt": "x", "stream": True})
    assert "request_timeout" == frames_of(response)[-1]["error"]["code"]


async def test_more_requests_than_may_be_open_are_turned_away(client, engine, lifecycle):
    lifecycle.max_open = 1
    engine.gate.clear()
    first = asyncio.create_task(client.post("/v1/completions", json={"prompt": "x"}))
    await engine.submitted.wait()
    response = await client.post("/v1/completions", json={"prompt": "x"})
    engine.gate.set()
    assert ("queue_full", "1") == (error_of(response, 429)["code"], response.headers["retry-after"])
    assert 200 == (await first).status_code
