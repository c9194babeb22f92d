import pytest

from models.tokenizer import encode
from server.engine.params import SamplingParams
from tests.server.http.conftest import error_of, frames_of

pytestmark = pytest.mark.anyio


async def test_an_answer_has_the_shape_of_the_api(complete, engine, tokenizer):
    engine.script = encode(tokenizer, " a time")
    answer = await complete(max_tokens=len(engine.script))
    assert "cmpl-" == answer.pop("id")[:5]
    assert answer.pop("created") > 1_700_000_000
    expected = {
        "object": "text_completion",
        "model": "toy",
        "choices": [{"index": 0, "text": " a time", "logprobs": None, "finish_reason": "length", "stop_reason": None}],
        "usage": {
            "prompt_tokens": len(encode(tokenizer, "Once upon")),
            "completion_tokens": len(engine.script),
            "total_tokens": len(encode(tokenizer, "Once upon")) + len(engine.script),
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    }
    assert expected == answer


async def test_sixteen_tokens_are_the_default(complete):
    assert 16 == (await complete())["usage"]["completion_tokens"]


async def test_the_default_gives_way_to_a_prompt_that_leaves_less_room(complete):
    assert 4 == (await complete(list(range(60))))["usage"]["completion_tokens"]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("Once", 1),
        (["Once", "upon"], 2),
        ([66, 67], 1),
        ([[66, 67], [68]], 2),
    ],
)
async def test_prompts_come_in_four_shapes(complete, engine, prompt, expected):
    answer = await complete(prompt, n=2)
    assert list(range(2 * expected)) == [choice["index"] for choice in answer["choices"]]
    assert expected == len(engine.requests)


async def test_choices_are_indexed_prompt_by_prompt(complete, engine, tokenizer):
    answer = await complete(["Once", "upon"], n=2, max_tokens=1, echo=True)
    starts = [choice["text"].startswith("Once") for choice in answer["choices"]]
    assert [True, True, False, False] == starts


async def test_usage_counts_each_prompt_once_and_every_choice(complete):
    usage = (await complete([[66, 67], [68]], n=3, max_tokens=5))["usage"]
    assert (3, 30) == (usage["prompt_tokens"], usage["completion_tokens"])


async def test_usage_says_what_was_cached(complete, engine):
    engine.num_cached_tokens = 2
    assert {"cached_tokens": 4} == (await complete([[66, 67], [68, 69]]))["usage"]["prompt_tokens_details"]


async def test_text_ids_reach_the_engine_as_text(complete, engine, tokenizer):
    await complete("<|endoftext|>")
    assert encode(tokenizer, "<|endoftext|>") == list(engine.requests[0].prompt_ids)


async def test_the_end_of_text_ends_a_choice_and_is_no_text(complete, engine, tokenizer):
    engine.script = [*encode(tokenizer, "ab"), 0]
    (choice,) = (await complete())["choices"]
    assert ("ab", "stop", None) == (choice["text"], choice["finish_reason"], choice["stop_reason"])


async def test_a_stop_token_is_the_stop_reason(complete, engine):
    (choice,) = (await complete(stop_token_ids=[68]))["choices"]
    assert ("stop", 68) == (choice["finish_reason"], choice["stop_reason"])


@pytest.mark.parametrize("stop", ["stop", ["nowhere", "stop"]])
async def test_a_stop_string_ends_a_choice(complete, engine, tokenizer, stop):
    engine.script = encode(tokenizer, "go stop go")
    (choice,) = (await complete(max_tokens=40, stop=stop))["choices"]
    assert ("go ", "stop", "stop") == (choice["text"], choice["finish_reason"], choice["stop_reason"])


async def test_tokens_count_up_to_the_one_that_completed_the_stop_string(complete, engine, tokenizer):
    engine.script = encode(tokenizer, "xy!zw")
    assert 3 == (await complete(max_tokens=40, stop="!"))["usage"]["completion_tokens"]


async def test_a_stop_string_aborts_its_choice_in_the_engine(complete, engine, tokenizer):
    engine.script = encode(tokenizer, "xy!zw")
    await complete(max_tokens=40, stop="!", n=2)
    request_id = engine.requests[0].request_id
    assert {(request_id, 0), (request_id, 1)} <= set(engine.aborted)


async def test_a_stop_string_can_stay(complete, engine, tokenizer):
    engine.script = encode(tokenizer, "xy!zw")
    answer = await complete(max_tokens=40, stop="!", include_stop_str_in_output=True)
    assert "xy!" == answer["choices"][0]["text"]


async def test_the_sampling_fields_reach_the_engine(complete, engine):
    fields = {
        "n": 2,
        "max_tokens": 7,
        "min_tokens": 3,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 5,
        "min_p": 0.1,
        "repetition_penalty": 1.5,
        "presence_penalty": 0.25,
        "frequency_penalty": -0.5,
        "allowed_token_ids": [66, 67, 68],
        "bad_words": ["gate"],
        "stop": ["x"],
        "stop_token_ids": [99],
        "include_stop_str_in_output": True,
        "ignore_eos": True,
        "seed": 2**64 - 1,
        "logprobs": 2,
        "prompt_logprobs": 1,
        "skip_special_tokens": False,
    }
    await complete(logit_bias={"66": -1.5}, **fields)
    assert SamplingParams(logit_bias={66: -1.5}, **fields) == engine.requests[0].params


async def test_bad_words_reach_the_engine_as_tokens(complete, engine, tokenizer):
    await complete(bad_words=["gate"])
    assert [encode(tokenizer, "gate"), encode(tokenizer, " gate")] == [
        list(ids) for ids in engine.requests[0].bad_word_ids
    ]


async def test_priority_and_salt_reach_the_engine(complete, engine):
    await complete(priority=-3, cache_salt="mine")
    assert (-3, "mine") == (engine.requests[0].priority, engine.requests[0].cache_salt)


async def test_temperature_zero_is_greedy(complete, engine):
    await complete(temperature=0)
    assert engine.requests[0].params.is_greedy


async def test_null_is_what_leaving_out_is(complete, engine):
    names = (
        "n",
        "stop",
        "temperature",
        "seed",
        "logprobs",
        "max_tokens",
        "stream",
        "stream_options",
        "suffix",
        "best_of",
    )
    await complete(**dict.fromkeys(names))
    assert SamplingParams() == engine.requests[0].params


async def test_prompts_are_cut_at_their_beginning(complete, engine):
    await complete([66, 67, 68, 69], truncate_prompt_tokens=2)
    assert [68, 69] == list(engine.requests[0].prompt_ids)


async def test_echo_puts_the_prompt_before_the_text(complete, engine, tokenizer):
    engine.script = encode(tokenizer, "!")
    assert "Once upon!" == (await complete(echo=True, max_tokens=1))["choices"][0]["text"]


async def test_echo_of_token_ids_is_their_text(complete, tokenizer):
    ids = encode(tokenizer, "brød")
    assert "brød" == (await complete(ids, echo=True, max_tokens=0))["choices"][0]["text"]


@pytest.mark.parametrize("stream", [False, True])
async def test_memory_stats_are_told_where_asked_for(client, stream):
    response = await client.post("/v1/completions", json={"prompt": "x", "return_memory_stats": True, "stream": stream})
    usage = frames_of(response)[-1]["usage"] if stream else response.json()["usage"]
    expected = {"rows": 9, "hits": 5, "minor_faults": 3, "major_faults": 1, "bytes": 4096, "stall_seconds": 0.25}
    assert expected == usage["tol"]


async def test_prompt_logprobs_are_by_token_id(complete):
    (choice,) = (await complete([66, 67], prompt_logprobs=1, max_tokens=1))["choices"]
    first, second = choice["prompt_logprobs"]
    assert first is None
    assert {"68", "67"} == second.keys()
    assert {"logprob": -1.5, "rank": 2, "decoded_token": second["67"]["decoded_token"]} == second["67"]


async def test_the_alias_that_was_asked_for_is_in_the_answer(complete):
    assert "alias" == (await complete(model="alias"))["model"]


async def test_what_the_engine_refuses_is_a_mistake(client, engine):
    from server.engine.errors import RequestError

    engine.refusal = RequestError("no such thing", param="prompt")
    error = error_of(await client.post("/v1/completions", json={"prompt": "x"}), 400)
    assert ("no such thing", "prompt") == (error["message"], error["param"])
