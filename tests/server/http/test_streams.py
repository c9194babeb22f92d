import pytest

from models.tokenizer import encode

pytestmark = pytest.mark.anyio
CHAT = "/v1/chat/completions"


async def test_frames_put_together_are_the_text(stream, complete, engine, tokenizer):
    engine.script = encode(tokenizer, "日本語 é 😀 toll")
    frames = await stream(max_tokens=30)
    whole = (await complete(max_tokens=30))["choices"][0]["text"]
    assert whole == "".join(frame["choices"][0]["text"] for frame in frames)


@pytest.mark.parametrize("path", ["/v1/completions", CHAT])
async def test_characters_are_never_split(stream, engine, tokenizer, path):
    engine.script = encode(tokenizer, "日本語😀")
    choices = [frame["choices"][0] for frame in await stream(path, max_tokens=len(engine.script))]
    texts = [choice.get("text") or choice.get("delta", {}).get("content") or "" for choice in choices]
    assert list("日本語😀") == [text for text in texts if text]


@pytest.mark.parametrize("path", ["/v1/completions", CHAT])
async def test_the_reason_is_null_until_the_end(stream, path):
    *others, last = [frame["choices"][0] for frame in await stream(path, max_tokens=4)]
    assert {None} == {choice["finish_reason"] for choice in others}
    assert ("length", None) == (last["finish_reason"], last["stop_reason"])


async def test_the_first_chat_frame_of_each_choice_has_the_role(stream):
    frames = await stream(CHAT, n=2, max_tokens=2)
    deltas = [(frame["choices"][0]["index"], frame["choices"][0]["delta"]) for frame in frames[:2]]
    assert [(index, {"role": "assistant", "content": ""}) for index in (0, 1)] == deltas


async def test_frames_have_the_names_of_the_api(stream):
    completions, chats = await stream(max_tokens=1), await stream(CHAT, max_tokens=1)
    assert {"id", "object", "created", "model", "choices"} == completions[0].keys() == chats[0].keys()
    assert ["text_completion", "chat.completion.chunk"] == [completions[0]["object"], chats[0]["object"]]


async def test_a_stream_has_one_id(stream):
    assert 1 == len({frame["id"] for frame in await stream()})


async def test_usage_comes_last_without_choices(stream):
    *others, last = await stream(max_tokens=3, stream_options={"include_usage": True})
    assert [None] * 3 == [frame["usage"] for frame in others]
    assert ([], 3) == (last["choices"], last["usage"]["completion_tokens"])


async def test_continuous_usage_grows(stream):
    frames = await stream(max_tokens=3, stream_options={"continuous_usage_stats": True})
    assert [1, 2, 3] == [frame["usage"]["completion_tokens"] for frame in frames]


async def test_both_kinds_of_usage_go_together(stream):
    options = {"include_usage": True, "continuous_usage_stats": True}
    frames = await stream(max_tokens=2, stream_options=options)
    assert [1, 2, 2] == [frame["usage"]["completion_tokens"] for frame in frames]


async def test_without_stream_options_there_is_no_usage(stream):
    assert not any("usage" in frame for frame in await stream())


@pytest.mark.parametrize("stream_value", [None, False])
async def test_stream_options_need_a_stream(refused, stream_value):
    error = await refused(stream=stream_value, stream_options={"include_usage": True})
    assert "stream_options" == error["param"]


async def test_a_stop_string_ends_a_stream(stream, engine, tokenizer):
    engine.script = encode(tokenizer, "go stop go")
    choices = [frame["choices"][0] for frame in await stream(max_tokens=40, stop="stop")]
    assert "go " == "".join(choice["text"] for choice in choices)
    assert ("stop", "stop") == (choices[-1]["finish_reason"], choices[-1]["stop_reason"])


async def test_echo_begins_each_choice_once(stream, engine, tokenizer):
    engine.script = encode(tokenizer, "!?")
    frames = await stream(echo=True, n=2, max_tokens=2)
    texts = ["", ""]
    for frame in frames:
        texts[frame["choices"][0]["index"]] += frame["choices"][0]["text"]
    assert ["Once upon!?"] * 2 == texts


async def test_several_prompts_are_streamed_together(stream, engine, tokenizer):
    engine.script = encode(tokenizer, "!")
    frames = await stream(prompt=["a", "b"], max_tokens=3, stream_options={"include_usage": True})
    assert {0, 1} == {frame["choices"][0]["index"] for frame in frames[:-1]}
    assert 6 == frames[-1]["usage"]["completion_tokens"]


async def test_each_token_says_its_tier_where_asked_for(stream):
    frames = await stream(return_memory_stats=True, max_tokens=3)
    assert [["storage"], ["host"], ["host"]] == [frame["choices"][0]["tiers"] for frame in frames[:-1]]


async def test_tiers_are_not_told_unasked(stream):
    assert not any("tiers" in frame["choices"][0] for frame in await stream())


async def test_logprobs_are_streamed_with_their_tokens(stream, engine):
    frames = await stream(logprobs=1, max_tokens=3)
    assert [1, 1, 1] == [len(frame["choices"][0]["logprobs"]["tokens"]) for frame in frames]


async def test_an_engine_that_dies_ends_a_stream_with_an_error(stream, engine):
    engine.dies_after = 2
    *frames, last = await stream()
    assert 2 == len(frames)
    assert ("server_error", "engine_died") == (last["error"]["type"], last["error"]["code"])


async def test_a_request_given_up_ends_its_stream_with_an_error(stream, engine):
    engine.breaks_after = 1
    assert "a row could not be read" == (await stream(CHAT))[-1]["error"]["message"]


async def test_a_fault_of_ours_ends_a_stream_with_an_error_and_no_details(stream, engine, monkeypatch, caplog):
    from server.http.completion_form import CompletionForm

    monkeypatch.setattr(CompletionForm, "closing", lambda _form: 1 / 0)
    assert "internal_error" == (await stream())[-1]["error"]["code"]
    assert "division by zero" in caplog.text


async def test_no_answer_comes_in_pieces_unasked(client):
    response = await client.post("/v1/completions", json={"prompt": "x"})
    assert "application/json" == response.headers["content-type"]
    assert len(response.content) == int(response.headers["content-length"])
