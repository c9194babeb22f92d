import pytest

from models.tokenizer import encode
from tests.server.http.conftest import error_of

pytestmark = pytest.mark.anyio
CHAT = "/v1/chat/completions"


async def test_an_answer_has_the_shape_of_the_api(chat, engine, tokenizer):
    engine.script = encode(tokenizer, " a time")
    answer = await chat(max_tokens=len(engine.script))
    assert ("chatcmpl-", "chat.completion", "toy") == (answer["id"][:9], answer["object"], answer["model"])
    message = {"role": "assistant", "content": " a time", "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "length", "stop_reason": None}
    assert [choice] == answer["choices"]


async def test_messages_go_through_the_template(chat, engine, tokenizer):
    await chat("Once upon", max_tokens=1)
    assert "user: Once upon\nassistant:" == tokenizer.decode(list(engine.requests[0].prompt_ids))


async def test_the_generation_prompt_can_be_left_out(chat, engine, tokenizer):
    await chat("Once", max_tokens=1, add_generation_prompt=False)
    assert "user: Once\n" == tokenizer.decode(list(engine.requests[0].prompt_ids))


async def test_parts_of_text_are_lines(client, engine, tokenizer):
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    await client.post(CHAT, json={"messages": [{"role": "user", "content": parts}], "max_tokens": 1})
    assert "user: a\nb\nassistant:" == tokenizer.decode(list(engine.requests[0].prompt_ids))


async def test_a_developer_is_the_system(client, engine, tokenizer):
    await client.post(CHAT, json={"messages": [{"role": "developer", "content": "x"}], "max_tokens": 1})
    assert "system: x\nassistant:" == tokenizer.decode(list(engine.requests[0].prompt_ids))


async def test_the_room_left_is_the_default(chat, engine):
    usage = (await chat())["usage"]
    assert engine.info.max_model_len == usage["total_tokens"]


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_tokens_are_limited_by_either_name(chat, name):
    assert 5 == (await chat(**{name: 5}))["usage"]["completion_tokens"]


async def test_two_different_limits_are_a_mistake(refused):
    error = await refused(CHAT, max_tokens=5, max_completion_tokens=6)
    assert "max_completion_tokens" == error["param"]


async def test_without_a_template_the_answer_says_so(connect, stored_models):
    client = await connect(directory=stored_models["dense"])
    error = error_of(await client.post(CHAT, json={"messages": [{"role": "user", "content": "x"}]}), 400)
    assert ("no_chat_template", "messages") == (error["code"], error["param"])
    assert "/v1/completions" in error["message"]


async def test_logprobs_have_an_entry_for_each_token(chat, engine):
    engine.script = [66]
    (choice,) = (await chat(max_tokens=2, logprobs=True, top_logprobs=3))["choices"]
    entries = choice["logprobs"]["content"]
    assert [-1.5, -1.5] == [entry["logprob"] for entry in entries]
    assert [-0.25, -1.5, -9999.0] == [candidate["logprob"] for candidate in entries[0]["top_logprobs"]]


async def test_bytes_of_half_a_character_are_told(chat, engine, tokenizer):
    engine.script = encode(tokenizer, "日")
    (choice,) = (await chat(max_tokens=len(engine.script), logprobs=True))["choices"]
    raw = [byte for entry in choice["logprobs"]["content"] for byte in entry["bytes"]]
    assert "日" == bytes(raw).decode()


async def test_prompt_logprobs_stand_beside_the_choices(chat):
    answer = await chat("Once", prompt_logprobs=1, max_tokens=1)
    assert answer["usage"]["prompt_tokens"] == len(answer["prompt_logprobs"])


async def test_top_logprobs_need_logprobs(refused):
    assert "top_logprobs" == (await refused(CHAT, top_logprobs=2))["param"]


@pytest.mark.parametrize(
    "message",
    [
        {"role": "tool", "content": "x", "tool_call_id": "1"},
        {"role": "wizard", "content": "x"},
        {"role": "user", "content": None},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
        {"role": "assistant", "content": "x", "tool_calls": [{"id": "1"}]},
        {"role": "user", "content": "x", "colour": "red"},
        {"role": "user", "content": 7},
        {"content": "x"},
        "x",
    ],
)
async def test_messages_of_other_kinds_are_a_mistake(refused, message):
    assert (await refused(CHAT, messages=[message]))["param"].startswith("messages")


async def test_no_messages_are_a_mistake(refused):
    assert "messages" == (await refused(CHAT, messages=[]))["param"]


async def test_special_tokens_can_be_put_around_a_conversation(chat, engine, tokenizer):
    await chat("x", max_tokens=1, add_special_tokens=True)  # this tokenizer puts none
    assert "user: x\nassistant:" == tokenizer.decode(list(engine.requests[0].prompt_ids))
