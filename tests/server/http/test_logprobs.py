"""Log probabilities in the shape of completions, and scoring."""

import pytest

from models.tokenizer import encode

pytestmark = pytest.mark.anyio


async def logprobs_of(complete, **fields):
    (choice,) = (await complete(**fields))["choices"]
    return choice["logprobs"]


async def test_there_are_four_lists(complete, engine, tokenizer):
    engine.script = encode(tokenizer, "ab")
    found = await logprobs_of(complete, logprobs=1, max_tokens=2)
    a, b = (tokenizer.decode([token_id + 1]) for token_id in engine.script)
    assert {
        "tokens": ["a", "b"],
        "token_logprobs": [-1.5, -1.5],
        "top_logprobs": [{a: -0.25, "a": -1.5}, {b: -0.25, "b": -1.5}],
        "text_offset": [0, 1],
    } == found


async def test_zero_lists_the_tokens_alone(complete):
    found = await logprobs_of(complete, logprobs=0, max_tokens=2)
    assert ([-1.5, -1.5], [{}, {}]) == (found["token_logprobs"], found["top_logprobs"])


async def test_half_a_character_is_told_in_bytes(complete, engine, tokenizer):
    engine.script = encode(tokenizer, "日")
    found = await logprobs_of(complete, logprobs=0, max_tokens=len(engine.script))
    assert [r"bytes:\xe6", 0] == [found["tokens"][0], found["text_offset"][-1]]


async def test_impossible_tokens_have_a_number(complete):
    found = await logprobs_of(complete, logprobs=3, max_tokens=1)
    assert -9999.0 == min(found["top_logprobs"][0].values())


async def test_the_first_token_of_an_echoed_prompt_has_null(complete, engine, tokenizer):
    engine.script = encode(tokenizer, "!")
    found = await logprobs_of(complete, prompt="brød", logprobs=1, max_tokens=1, echo=True)
    num_prompt = len(encode(tokenizer, "brød"))
    assert [None, *[-1.5] * num_prompt] == found["token_logprobs"]
    assert (None, num_prompt + 1) == (found["top_logprobs"][0], len(found["tokens"]))


async def test_offsets_go_on_behind_an_echoed_prompt(complete, engine, tokenizer):
    engine.script = encode(tokenizer, "!")
    found = await logprobs_of(complete, prompt=encode(tokenizer, "ab"), logprobs=0, max_tokens=1, echo=True)
    assert [0, 1, 2] == found["text_offset"]


async def test_scoring_generates_nothing(complete, tokenizer):
    answer = await complete("ab", logprobs=0, max_tokens=0, echo=True)
    (choice,) = answer["choices"]
    assert ("ab", [None, -1.5], "length") == (
        choice["text"],
        choice["logprobs"]["token_logprobs"],
        choice["finish_reason"],
    )
    assert 0 == answer["usage"]["completion_tokens"]


async def test_a_prompt_that_fills_the_context_can_be_scored(complete, engine):
    answer = await complete([66] * engine.info.max_model_len, logprobs=0, max_tokens=0, echo=True)
    assert engine.info.max_model_len == len(answer["choices"][0]["logprobs"]["tokens"])


async def test_an_echoed_prompt_is_streamed_with_its_logprobs(stream, engine, tokenizer):
    frames = await stream(prompt="ab", logprobs=0, max_tokens=2, echo=True)
    values = [value for frame in frames for value in frame["choices"][0]["logprobs"]["token_logprobs"]]
    assert [None, -1.5, -1.5, -1.5] == values


async def test_only_as_many_are_listed_as_were_asked_for(complete):
    (choice,) = (await complete([66, 67], logprobs=1, prompt_logprobs=2, echo=True, max_tokens=1))["choices"]
    assert [2, 2] == [len(choice["prompt_logprobs"][1]), len(choice["logprobs"]["top_logprobs"][1])]


async def test_tokens_behind_a_stop_string_have_none(complete, engine, tokenizer):
    engine.script = encode(tokenizer, "ab!cd")
    found = await logprobs_of(complete, logprobs=0, max_tokens=40, stop="!")
    assert ["a", "b", "!"] == found["tokens"]
