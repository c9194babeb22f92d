"""What clients do wrong, and how they are told."""

import pytest

from tests.server.http.conftest import error_of

pytestmark = pytest.mark.anyio
CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nonsense",
        b'{"prompt": "\xff"}',
        b'{"prompt": "\\ud800"}',
        b'{"temperature": NaN}',
        b'{"suffix": ' + b"[" * 10**5,
    ],
)
async def test_bad_json_is_a_mistake(client, body):
    assert "invalid_json" == error_of(await client.post("/v1/completions", content=body), 400)["code"]


@pytest.mark.parametrize("body", [b"[]", b"[" * 10**5, b"null", b"7", b'"x"', b"{}"])
async def test_json_of_another_kind_is_a_mistake(client, body):
    error_of(await client.post("/v1/completions", content=body), 400)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 2.5}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"frequency_penalty": -3}, "frequency_penalty"),
        ({"min_tokens": 17}, "min_tokens"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"stop": [""]}, "stop"),
        ({"stop": [1]}, "stop"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"300": 1}}, "logit_bias"),
        ({"logit_bias": {"1": "x"}}, "logit_bias"),
        ({"allowed_token_ids": []}, "allowed_token_ids"),
        ({"allowed_token_ids": [300]}, "allowed_token_ids"),
        ({"stop_token_ids": [-1]}, "stop_token_ids"),
        ({"stop_token_ids": [300]}, "stop_token_ids"),
        ({"logprobs": -1}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"prompt_logprobs": -1}, "prompt_logprobs"),
        ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ({"stream": "yes"}, "stream"),
        ({"stream": True, "stream_options": {"include": True}}, "stream_options.include"),
        ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options"),
        ({"prompt": None}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": ["x", ""]}, "prompt"),
        ({"prompt": ["x", 1]}, "prompt"),
        ({"prompt": [300]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [[66], [300]]}, "prompt"),
        ({"prompt": [1.5]}, "prompt"),
        ({"prompt": {"text": "x"}}, "prompt"),
        ({"metadata": {"a": 1}}, "metadata"),
    ],
)
async def test_the_field_at_fault_is_named(refused, fields, param):
    assert param == (await refused(**fields))["param"]


async def test_an_unknown_field_is_named_with_the_nearest(refused):
    error = await refused(temprature=1)
    assert ("temprature", "unknown_field") == (error["param"], error["code"])
    assert "did you mean temperature?" in error["message"]


async def test_a_missing_field_is_named(client):
    error = error_of(await client.post("/v1/completions", json={}), 400)
    assert ("prompt", "missing_field") == (error["param"], error["code"])


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/completions", {"suffix": "x"}),
        ("/v1/completions", {"best_of": 3}),
        ("/v1/completions", {"best_of": True}),
        ("/v1/completions", {"response_format": {"type": "json_object"}}),
        ("/v1/completions", {"use_beam_search": True}),
        (CHAT, {"response_format": {"type": "json_schema", "json_schema": {}}}),
        (CHAT, {"tools": [{"type": "function"}]}),
        (CHAT, {"tool_choice": "required"}),
        (CHAT, {"functions": [{}]}),
        (CHAT, {"modalities": ["audio"]}),
        (CHAT, {"reasoning_effort": "high"}),
        (CHAT, {"chat_template": "x"}),
        (CHAT, {"web_search_options": {}}),
        (CHAT, {"prediction": {"type": "content"}}),
        (CHAT, {"echo": True}),
    ],
)
async def test_what_is_not_supported_is_refused_by_name(refused, path, fields):
    assert next(iter(fields)) == (await refused(path, **fields))["param"]


@pytest.mark.parametrize(
    "fields",
    [
        {"best_of": 2, "n": 2, "suffix": "", "response_format": {"type": "text"}, "length_penalty": 1.0},
        {"user": "me", "metadata": {"a": "b"}, "store": True, "service_tier": "auto", "prompt_cache_key": "k"},
    ],
)
async def test_neutral_values_of_completions_are_taken(complete, fields):
    await complete(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [], "tool_choice": "auto", "functions": [], "parallel_tool_calls": True, "modalities": ["text"]},
        {"response_format": {"type": "text"}, "tools": None, "audio": None, "reasoning_effort": None},
        {"user": "me", "metadata": {"a": "b"}, "store": False, "service_tier": "default", "safety_identifier": "s"},
    ],
)
async def test_neutral_values_of_chats_are_taken(chat, fields):
    await chat(max_tokens=1, **fields)


@pytest.mark.parametrize("path", ["/v1/completions", CHAT, "/tokenize", "/detokenize"])
async def test_an_unknown_model_is_not_found(client, path):
    wanted = {CHAT: {"messages": [{"role": "user", "content": "x"}]}, "/detokenize": {"tokens": [1]}}
    body = {"model": "other", **wanted.get(path, {"prompt": "x"})}
    error = error_of(await client.post(path, json=body), 404)
    assert ("model_not_found", "model") == (error["code"], error["param"])


async def test_a_prompt_too_long_is_told_with_both_lengths(refused):
    error = await refused(prompt=[66] * 64)
    assert ("context_length_exceeded", "prompt") == (error["code"], error["param"])
    assert "has 64 tokens" in error["message"]
    assert "is 64 tokens" in error["message"]


async def test_more_tokens_than_there_is_room_for_are_a_mistake(refused):
    message = (await refused(prompt=[66] * 60, max_tokens=5))["message"]
    assert "has 60 tokens and 5 are to be generated, 65 together" in message


async def test_messages_too_long_are_a_mistake(refused):
    error = await refused(CHAT, messages=[{"role": "user", "content": "gate " * 100}])
    assert ("context_length_exceeded", "messages") == (error["code"], error["param"])


async def test_an_unknown_route_is_not_found(client):
    assert "route_not_found" == error_of(await client.get("/v1/other"), 404)["code"]


async def test_another_method_is_not_allowed(client):
    response = await client.get("/v1/completions")
    assert "method_not_allowed" == error_of(response, 405)["code"]
    assert "POST" == response.headers["allow"]


async def test_a_fault_of_ours_tells_nothing_of_itself(client, monkeypatch, caplog):
    monkeypatch.setattr("server.http.completions.completion_params", lambda _asked: 1 / 0)
    error = error_of(await client.post("/v1/completions", json={"prompt": "x"}), 500)
    assert ("server_error", "internal_error") == (error["type"], error["code"])
    assert "division" not in error["message"]
    assert "division by zero" in caplog.text


@pytest.mark.parametrize("stream", [False, True])
async def test_a_full_queue_says_when_to_come_again(client, engine, stream):
    from server.engine.errors import QueueFullError

    engine.refusal = QueueFullError("1024 requests wait")
    response = await client.post("/v1/completions", json={"prompt": "x", "stream": stream})
    assert ("queue_full", "1") == (error_of(response, 429)["code"], response.headers["retry-after"])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("state", ["starting", "down"])
async def test_without_an_engine_the_answer_says_when_to_come_again(client, engine, state, stream):
    from server.process.client import EngineState

    engine.state = EngineState(state)
    response = await client.post("/v1/completions", json={"prompt": "x", "stream": stream})
    assert ("engine_unavailable", "3") == (error_of(response, 503)["code"], response.headers["retry-after"])


async def test_an_engine_that_dies_is_an_error_of_the_server(client, engine):
    engine.dies_after = 3
    error = error_of(await client.post("/v1/completions", json={"prompt": "x"}), 500)
    assert ("server_error", "engine_died") == (error["type"], error["code"])


async def test_an_engine_that_dies_at_once_is_a_status_of_a_stream_too(client, engine):
    engine.dies_after = 0
    error_of(await client.post("/v1/completions", json={"prompt": "x", "stream": True}), 500)


async def test_a_request_given_up_is_an_error_of_the_server(client, engine):
    engine.breaks_after = 1
    error = error_of(await client.post("/v1/completions", json={"prompt": ["x", "y"]}), 500)
    assert "a row could not be read" == error["message"]


async def test_one_failed_prompt_ends_the_others(client, engine):
    engine.breaks_after = 1
    await client.post("/v1/completions", json={"prompt": ["x", "y"]})
    assert all(stream.is_over for stream in engine._streams.values())


@pytest.mark.parametrize("field", ["x" * 10**5, "\n\t\x00"])
async def test_errors_are_of_bounded_size(refused, field):
    await refused(**{field: 1})
    await refused(prompt=[66], model=field, status=404)
