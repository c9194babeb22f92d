"""The official client against the application, as its users call it."""

import openai
import pytest

from models.tokenizer import encode

pytestmark = pytest.mark.anyio
USER = [{"role": "user", "content": "Once upon"}]


async def test_completions(official, engine, tokenizer):
    engine.script = encode(tokenizer, " a time")
    answer = await official.completions.create(
        model="toy", prompt="Once upon", max_tokens=len(engine.script), logprobs=1
    )
    assert (" a time", "length") == (answer.choices[0].text, answer.choices[0].finish_reason)
    assert len(engine.script) == len(answer.choices[0].logprobs.tokens) == answer.usage.completion_tokens
    assert 0 == answer.usage.prompt_tokens_details.cached_tokens


async def test_streamed_completions(official, engine, tokenizer):
    engine.script = encode(tokenizer, " a time")
    chunks = await official.completions.create(model="toy", prompt="x", max_tokens=len(engine.script), stream=True)
    assert " a time" == "".join([chunk.choices[0].text async for chunk in chunks])


async def test_chats(official, engine, tokenizer):
    engine.script = [*encode(tokenizer, "Hello"), 0]
    answer = await official.chat.completions.create(model="toy", messages=USER, logprobs=True, top_logprobs=2)
    (choice,) = answer.choices
    assert ("assistant", "Hello", "stop") == (choice.message.role, choice.message.content, choice.finish_reason)
    assert len(engine.script) == len(choice.logprobs.content)


async def test_streamed_chats(official, engine, tokenizer):
    engine.script = [*encode(tokenizer, "Hello"), 0]
    options = {"include_usage": True}
    chunks = await official.chat.completions.create(model="toy", messages=USER, stream=True, stream_options=options)
    first, *middle, last = [chunk async for chunk in chunks]
    assert ("assistant", "") == (first.choices[0].delta.role, first.choices[0].delta.content)
    assert "Hello" == "".join(chunk.choices[0].delta.content for chunk in middle)
    assert "stop" == middle[-1].choices[0].finish_reason
    assert ([], len(engine.script)) == (last.choices, last.usage.completion_tokens)


async def test_the_stream_helper(official, engine, tokenizer):
    engine.script = [*encode(tokenizer, "Hello"), 0]
    async with official.chat.completions.stream(model="toy", messages=USER) as stream:
        answer = await stream.get_final_completion()
    assert "Hello" == answer.choices[0].message.content


async def test_extra_fields(official, engine):
    await official.completions.create(model="toy", prompt="x", extra_body={"top_k": 3, "return_memory_stats": True})
    assert 3 == engine.requests[0].params.top_k


async def test_models(official):
    assert ["toy", "alias"] == [model.id async for model in official.models.list()]
    assert "toy" == (await official.models.retrieve("toy")).id


async def test_mistakes(official):
    with pytest.raises(openai.BadRequestError) as caught:
        await official.completions.create(model="toy", prompt="x", n=0)
    assert ("n", "invalid_request_error") == (caught.value.param, caught.value.type)


async def test_an_unknown_model(official):
    with pytest.raises(openai.NotFoundError) as caught:
        await official.chat.completions.create(model="other", messages=USER)
    assert "model_not_found" == caught.value.code


async def test_a_stream_that_breaks(official, engine):
    engine.dies_after = 1
    chunks = await official.completions.create(model="toy", prompt="x", stream=True)
    with pytest.raises(openai.APIError, match="killed"):
        _ = [chunk async for chunk in chunks]


async def test_a_full_queue(official, engine):
    from server.engine.errors import QueueFullError

    engine.refusal = QueueFullError("1024 requests wait")
    with pytest.raises(openai.RateLimitError, match="1024 requests wait"):
        await official.completions.create(model="toy", prompt="x")
