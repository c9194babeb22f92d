"""Offline use: prompts in, completions out."""

import pytest

from models.errors import ConfigError
from models.tokenizer import encode
from server import LLM, SamplingParams
from server.engine.errors import RequestError


@pytest.fixture
def llm(memory_model, tolbooth):
    tolbooth("export-tol", memory_model)
    with LLM(str(memory_model), quiet=True, tol_device_fraction=0.2, max_num_seqs=4) as llm:
        yield llm


GREEDY = SamplingParams(max_tokens=12, temperature=0)


def test_completions_come_in_the_order_of_the_prompts(llm):
    prompts = [f"at gate {number}" for number in range(20)]
    together = llm.generate(prompts, GREEDY)
    assert prompts == [completion.prompt for completion in together]
    assert [llm.generate(prompt, GREEDY)[0].outputs for prompt in prompts] == [each.outputs for each in together]


def test_more_prompts_than_may_wait_are_fed_as_there_is_room(memory_model, tolbooth):
    tolbooth("export-tol", memory_model)
    with LLM(str(memory_model), quiet=True, max_num_seqs=2, max_waiting=3) as llm:
        assert 12 == len(llm.generate(["a toll"] * 12, GREEDY))


def test_a_prompt_may_be_token_ids(llm, tokenizer):
    (text,), (ids,) = llm.generate("a toll", GREEDY), llm.generate(encode(tokenizer, "a toll"), GREEDY)
    assert (text.outputs, None) == (ids.outputs, ids.prompt)


def test_each_prompt_may_have_its_parameters(llm):
    params = [SamplingParams(max_tokens=count, temperature=0, ignore_eos=True) for count in (1, 5, 3)]
    completions = llm.generate(["a", "b", "c"], params)
    assert [1, 5, 3] == [len(completion.outputs[0].token_ids) for completion in completions]


def test_choices_are_numbered(llm):
    (completion,) = llm.generate("a toll", SamplingParams(n=3, max_tokens=8, temperature=2, seed=1, ignore_eos=True))
    assert 3 == len({tuple(output.token_ids) for output in completion.outputs})


def test_a_stop_string_ends_a_choice_and_frees_it(llm):
    (free,) = llm.generate("Once upon a time", SamplingParams(max_tokens=30, temperature=0, ignore_eos=True))
    text = free.outputs[0].text
    stop = text[len(text) // 2 : len(text) // 2 + 2]
    params = SamplingParams(max_tokens=30, temperature=0, ignore_eos=True, stop=[stop])
    (completion,) = llm.generate("Once upon a time", params)
    (output,) = completion.outputs
    assert (text[: text.index(stop)], "stop", stop) == (output.text, output.finish_reason, output.stop_reason)
    assert not llm.engine.scheduler.has_work
    llm.engine.check_integrity()


def test_pieces_of_a_stream_make_the_text(llm):
    (completion,) = llm.generate("Once", GREEDY)
    assert completion.outputs[0].text == "".join(piece for piece, _ in llm.stream("Once", GREEDY))


def test_a_stream_that_is_left_frees_its_request(llm):
    stream = llm.stream("Once", GREEDY)
    next(stream)
    stream.close()
    assert not llm.engine.scheduler.has_work


def test_a_refused_prompt_aborts_the_others(llm):
    with pytest.raises(RequestError, match="no tokens"):
        llm.generate(["a toll", []], GREEDY)
    assert not llm.engine.scheduler.has_work


def test_unknown_options_are_errors(memory_model):
    with pytest.raises(ConfigError, match="tol_device_percent"):
        LLM(str(memory_model), tol_device_percent=3)


@pytest.mark.parametrize(("option", "value"), [("memory", "vram"), ("max_num_seqs", "many"), ("dtype", 16)])
def test_values_that_do_not_suit_an_option_are_errors(memory_model, option, value):
    with pytest.raises(ConfigError, match=option):
        LLM(str(memory_model), **{option: value})


def test_what_was_granted_is_printed(memory_model, tolbooth, capsys):
    tolbooth("export-tol", memory_model)
    with LLM(str(memory_model), tol_device_rows=40):
        assert "device tier: 40 of " in capsys.readouterr().err


def test_bad_words_are_never_completed(llm):
    (free,) = llm.generate("Once upon a time", SamplingParams(max_tokens=20, temperature=0, ignore_eos=True))
    word = free.outputs[0].text.split()[0]
    params = SamplingParams(max_tokens=20, temperature=0, ignore_eos=True, bad_words=[word])
    assert word not in llm.generate("Once upon a time", params)[0].outputs[0].text.split()
