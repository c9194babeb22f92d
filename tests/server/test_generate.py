import pytest

from models.tokenizer import encode
from server.engine.sampling import SampledTokens, Sampler


@pytest.fixture
def says(monkeypatch):
    """Makes every model generate these token ids, after whatever prompt, and then end the text."""

    def arrange(token_ids):
        def sample(self, logits_SV, sequences):
            (sequence,) = sequences
            arrange.prompt_ids = sequence.prompt_ids
            return SampledTokens([[*token_ids, 0][sequence.position]], [None], {})

        monkeypatch.setattr(Sampler, "sample", sample)

    return arrange


def test_json_has_text_ids_and_reason(tolbooth, dense_model, tokenizer):
    result = tolbooth("generate", dense_model, "--prompt", "Once", "--max-tokens", 5, "--temperature", 0, "--json").json
    assert {"text", "token_ids", "finish_reason"} == result.keys()
    assert (5, "length") == (len(result["token_ids"]), result["finish_reason"])


def test_the_same_seed_gives_the_same_text(tolbooth, dense_model):
    first, again, other = (
        tolbooth("generate", dense_model, "--prompt", "Once", "--max-tokens", 20, "--seed", seed, "--json").json
        for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


@pytest.mark.parametrize("memory", ["resident", "mapped", "paged"])
def test_every_memory_generates_the_same(tolbooth, memory_model, memory):
    tolbooth("export-tol", memory_model, "--encoding", "fp32")
    command = ("generate", memory_model, "--prompt", "Once upon", "--max-tokens", 12, "--seed", 7, "--json", "--memory")
    assert tolbooth(*command, "computed").json == tolbooth(*command, memory).json


def test_a_prompt_may_have_more_different_tokens_than_there_are_device_rows(tolbooth, memory_model):
    tolbooth("export-tol", memory_model, "--encoding", "fp32")
    command = (
        "generate",
        memory_model,
        "--prompt",
        "Once upon a time",
        "--max-tokens",
        12,
        "--seed",
        7,
        "--json",
        "--memory",
    )
    assert tolbooth(*command, "computed").json == tolbooth(*command, "paged", "--device-rows", 2).json


def test_a_paged_memory_says_no_more_than_another(tolbooth, memory_model):
    tolbooth("export-tol", memory_model)
    command = ("generate", memory_model, "--prompt", "Once", "--max-tokens", 8, "--seed", 7, "--memory")
    mapped, paged = (tolbooth(*command, memory) for memory in ("mapped", "paged"))
    assert (mapped.out, mapped.err) == (paged.out, paged.err)


def test_device_rows_without_a_paged_memory_are_a_mistake(fails, memory_model):
    command = ("generate", memory_model, "--prompt", "Once", "--memory", "mapped", "--device-rows", 9)
    assert "not paged" in fails(*command)


def test_too_few_device_rows_are_a_mistake_that_says_how_many_are_needed(tolbooth, fails, memory_model):
    tolbooth("export-tol", memory_model)
    command = ("generate", memory_model, "--prompt", "Once", "--memory", "paged", "--device-rows", 1)
    assert "need 2" in fails(*command)


def test_text_goes_to_stdout_and_a_line_ends_it(tolbooth, dense_model, says, tokenizer):
    says(encode(tokenizer, " a time"))
    assert " a time\n" == tolbooth("generate", dense_model, "--prompt", "Once upon").out


def test_characters_of_several_tokens_come_whole(tolbooth, dense_model, says, tokenizer):
    says(encode(tokenizer, "日本語 é 😀"))
    assert "日本語 é 😀" == tolbooth("generate", dense_model, "--prompt", "x", "--json").json["text"]


def test_a_character_cut_off_is_marked(tolbooth, dense_model, says, tokenizer):
    says(encode(tokenizer, "ab日")[:-1])
    assert "ab\N{REPLACEMENT CHARACTER}" == tolbooth("generate", dense_model, "--prompt", "x", "--json").json["text"]


def test_special_tokens_are_not_text(tolbooth, dense_model, says, tokenizer):
    says(encode(tokenizer, "The end."))
    result = tolbooth("generate", dense_model, "--prompt", "x", "--json").json
    assert ("The end.", "stop", 0) == (result["text"], result["finish_reason"], result["token_ids"][-1])


def test_a_prompt_is_never_read_as_a_special_token(tolbooth, dense_model, says, tokenizer):
    says([5])
    tolbooth("generate", dense_model, "--prompt", "<|endoftext|>")
    assert encode(tokenizer, "<|endoftext|>") == says.prompt_ids


def test_an_empty_prompt_starts_a_text(tolbooth, dense_model, says):
    says([5])
    tolbooth("generate", dense_model, "--prompt", "")
    assert [0] == says.prompt_ids


def test_the_bundled_model_is_meant_where_none_is_named(tolbooth, demo):
    assert 0 == tolbooth("generate", "--prompt", "Once", "--max-tokens", 3).code


def test_a_table_can_be_named(tolbooth, memory_model, tmp_path):
    tolbooth("export-tol", memory_model, "--out", tmp_path / "t")
    outcome = tolbooth("generate", memory_model, "--prompt", "Once", "--table", tmp_path / "t", "--max-tokens", 2)
    assert 0 == outcome.code


def test_a_missing_table_names_the_command_that_makes_it(fails, memory_model):
    assert f"`tolbooth export-tol {memory_model}`" in fails("generate", memory_model, "--prompt", "Once")


def test_a_prompt_that_fills_the_context_is_a_mistake(fails, dense_model):
    assert "the model takes 64" in fails("generate", dense_model, "--prompt", "gate " * 200)


def test_without_a_seed_texts_differ(tolbooth, dense_model):
    command = ("generate", dense_model, "--prompt", "Once", "--max-tokens", 20, "--temperature", 2, "--json")
    assert tolbooth(*command).json["token_ids"] != tolbooth(*command).json["token_ids"]
