"""`tolbooth pack`, and packs and shares of rows in the other commands."""

import json

import pytest
import torch
from safetensors.torch import save_file

from models.checkpoint import load_model, save_checkpoint
from models.export import export_table
from models.tokenizer import load_tokenizer
from server import LLM, SamplingParams
from server.engine.memory_options import MemoryOptions
from server.engine.text import token_text


@pytest.fixture
def model(memory_model):
    """A model whose memory matters, with its table."""
    loaded = load_model(memory_model)
    with torch.no_grad():
        for name, parameter in loaded.named_parameters():
            if "_proj" in name:
                parameter.mul_(15)  # fresh weights hardly add to the embedding
    tokenizer = load_tokenizer(memory_model / "tokenizer.json")
    save_checkpoint(loaded, memory_model, tokenizer=tokenizer, replace=True)
    export_table(memory_model, memory_model / "table")
    return memory_model


@pytest.fixture
def tuned(model, tmp_path):
    """A copy of it with another memory."""
    copy = load_model(model)
    with torch.no_grad():
        for name, parameter in copy.named_parameters():
            if ".memory.down_proj" in name:
                parameter.mul_(-1)
    save_checkpoint(copy, tmp_path / "tuned", tokenizer=load_tokenizer(model / "tokenizer.json"))
    return tmp_path / "tuned"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "my-pack"


def text_of(model, token_id):
    return token_text(load_tokenizer(model / "tokenizer.json"), token_id).text


# create


def test_a_pack_is_made_of_a_copy(tolbooth, model, tuned, out):
    assert 0 == tolbooth("pack", "create", model, "--from", tuned, "--out", out).code
    facts = tolbooth("pack", "show", out, "--json").json
    assert ("my-pack", 1, 300, "bf16") == (facts["name"], facts["version"], facts["rows"], facts["encoding"])


def test_the_rows_of_a_texts_tokens_are_taken(tolbooth, model, tuned, out, tmp_path):
    (tmp_path / "some.txt").write_text("Once upon")
    outcome = tolbooth(
        "pack", "create", model, "--from", tuned, "--out", out, "--text", tmp_path / "some.txt", "--name", "o", "--json"
    )
    facts = outcome.json
    assert "o" == facts["name"]
    assert 0 < facts["rows"] < 10


def test_a_pack_that_is_there_stays_unless_told(tolbooth, fails, model, tuned, out):
    command = ["pack", "create", model, "--from", tuned, "--out", out]
    tolbooth(*command)
    assert "holds a pack already" in fails(*command)
    assert 0 == tolbooth(*command, "--overwrite").code


def test_a_copy_of_another_model_is_refused(fails, model, dense_model, out):
    assert "backbone" in fails("pack", "create", model, "--from", dense_model, "--out", out)
    assert "dense" in fails("pack", "create", dense_model, "--from", dense_model, "--out", out)


def test_rows_are_chosen_one_way(fails, model, tuned, out, text_file):
    options = ["--threshold", 0.5, "--text", text_file]
    assert "one of them" in fails("pack", "create", model, "--from", tuned, "--out", out, *options)


# edit and show


def test_edits_make_a_pack_and_go_on(tolbooth, model, out):
    token = text_of(model, 280)
    for options in (["--token", token, "--layer", 1, "--scale", 0], ["--token", "#7", "--scale", 0.5]):
        assert 0 == tolbooth("pack", "edit", out, "--model", model, *options).code
    facts = tolbooth("pack", "show", out, "--model", model, "--json").json
    assert ("my-pack", 2, 2) == (facts["name"], facts["version"], facts["rows"])
    assert [0, 1] == facts["changes"]["layers"]
    changes = {row["id"]: row["change"] for row in facts["changes"]["most_changed"]}
    assert [0.0, 1.0] == changes[280]
    assert changes[7] == pytest.approx([0.5, 0.5], abs=0.01)


def test_a_pack_is_shown_to_people(tolbooth, model, out):
    tolbooth("pack", "edit", out, "--model", model, "--token", "#7", "--scale", 0, "--description", "without 7")
    outcome = tolbooth("pack", "show", out, "--model", model)
    for words in ("without 7", "scaled by 0", "100.0%", repr(text_of(model, 7))):
        assert words in outcome.out


def test_rows_and_vectors_are_added(tolbooth, model, out, tmp_path):
    save_file({"vector": torch.ones(32)}, tmp_path / "v.safetensors")
    common = ["pack", "edit", out, "--model", model, "--token", "#7"]
    assert 0 == tolbooth(*common, "--add", tmp_path / "v.safetensors", "--weight", 2).code
    assert 0 == tolbooth(*common, "--scale", 0, "--add-token", "#9", "--weight", 0.5).code
    history = tolbooth("pack", "show", out, "--json").json["history"]
    assert ["2 times a vector" in history[0], "0.5 times the row of id 9" in history[1]] == [True, True]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ([], "say what to change"),
        (["--weight", 2], "--weight is for what is added"),
        (["--add", "x", "--add-token", "y"], "one of --add and --add-token"),
        (["--scale", 0, "--layer", 2], "no layer 2"),
        (["--add", "nowhere.safetensors"], "cannot read"),
        (["--scale", 0, "--token", "#300"], "no token #300"),
        (["--scale", 0, "--token", "Once upon a time"], "tokens"),
        (["--scale", 0, "--token", ""], "0 tokens"),
        (["--scale", "inf"], "finite"),
    ],
)
def test_edits_that_cannot_be(fails, model, out, options, why):
    assert why in fails("pack", "edit", out, "--model", model, "--token", "#7", *options)
    assert not out.exists()


def test_a_table_of_a_model_that_is_not_named(fails, model, tolbooth, out):
    tolbooth("pack", "edit", out, "--model", model, "--token", "#7", "--scale", 0)
    assert "name the model too" in fails("pack", "show", out, "--table", model / "table")


def test_what_is_no_pack_is_not_shown(fails, tmp_path):
    assert "no pack at" in fails("pack", "show", tmp_path)


# What an edit does


def test_an_edit_moves_the_tokens_logits_and_no_others(tolbooth, model, out):
    edited, other = 280, 281
    tolbooth("pack", "edit", out, "--model", model, "--token", f"#{edited}", "--scale", 0, "--add-token", "#9")
    prompts = [[5, 6, other, 8], [5, 6, edited, 8]]
    params = SamplingParams(max_tokens=0, prompt_logprobs=0)
    with LLM(str(model), quiet=True, pack=(f"p={out}",)) as llm:
        plain, packed = (llm.generate(prompts, params, pack=pack) for pack in (None, "p"))
    unrelated, intended = (
        [(mine.actual.logprob, theirs.actual.logprob) for mine, theirs in zip(
            one.prompt_logprobs[1:], two.prompt_logprobs[1:], strict=True)]
        for one, two in zip(plain, packed, strict=True)
    )  # fmt: skip
    assert all(mine == theirs for mine, theirs in unrelated)
    assert all(mine == theirs for mine, theirs in intended[:2])  # the token has only been predicted so far
    assert intended[2][0] != intended[2][1]  # what follows it is predicted otherwise


# Elsewhere


def test_texts_go_on_with_a_pack(tolbooth, model, tuned, out):
    tolbooth("pack", "create", model, "--from", tuned, "--out", out)
    command = ["generate", model, "--prompt", "Once", "--max-tokens", 8, "--temperature", 0, "--json"]
    plain, packed = tolbooth(*command), tolbooth(*command, "--pack", out)
    of_tuned = tolbooth("generate", tuned, *command[2:], "--memory", "computed")
    assert plain.json["token_ids"] != packed.json["token_ids"]
    assert of_tuned.json["token_ids"] == packed.json["token_ids"]


def test_a_text_is_measured_with_a_pack(tolbooth, model, tuned, out, tmp_path):
    (tmp_path / "short.txt").write_text("Once upon a time a toll was paid in bread, by 5 travellers at gate 7.")
    tolbooth("pack", "create", model, "--from", tuned, "--out", out)
    options = ["--text", tmp_path / "short.txt", "--json"]
    of_tuned = tolbooth("eval", tuned, *options, "--memory", "computed").json["perplexity"]
    plain = tolbooth("eval", model, *options).json["perplexity"]
    for memory in ("mapped", "resident", "computed", "paged"):
        packed = tolbooth("eval", model, *options, "--memory", memory, "--pack", out).json["perplexity"]
        assert of_tuned == pytest.approx(packed, rel=2e-3)
        assert abs(plain - packed) > 0.005 * plain


def test_a_text_is_not_measured_with_a_pack_of_another_model(fails, tolbooth, model, dense_model, out, text_file):
    tolbooth("pack", "edit", out, "--model", model, "--token", "#7", "--scale", 0)
    assert "dense" in fails("eval", dense_model, "--text", text_file, "--pack", out)


def test_texts_go_on_with_less_of_the_memory(tolbooth, model):
    command = ["generate", model, "--prompt", "Once", "--max-tokens", 8, "--temperature", 0, "--json"]
    dropped = tolbooth(*command, "--drop-layers", 0, "--drop-layers", 1).json
    assert dropped == tolbooth(*command, "--alpha", 0).json == tolbooth(*command, "--alpha", 0, "--alpha", 0).json
    assert dropped != tolbooth(*command).json


def test_layers_that_there_are_not(fails, model):
    command = ["generate", model, "--prompt", "Once"]
    assert "tol_drop_layers has the layer 2" in fails(*command, "--drop-layers", 2)
    assert "tol_alpha" in fails(*command, "--alpha", 3)


def test_offline_requests_choose_for_themselves(model):
    params = SamplingParams(max_tokens=8, temperature=0)
    with LLM(str(model), quiet=True) as llm:
        (plain,) = llm.generate("Once", params)
        (without,) = llm.generate("Once", params, memory=MemoryOptions(drop_layers=[0, 1]))
        *_, (_, streamed) = llm.stream("Once", params, memory=MemoryOptions(alpha=0.0))
    assert plain.outputs[0].token_ids != without.outputs[0].token_ids == streamed.outputs[0].token_ids


def test_training_the_memory_makes_a_copy_that_packs_are_made_of(tolbooth, model, out, text_file, tmp_path):
    outcome = tolbooth(
        "train", "--memory-only", "--from", model, "--text", text_file, "--out", tmp_path / "run", "--max-tokens", 512,
        "--sequence-length", 32, "--batch-size", 4, "--micro-batch-size", 4, "--warmup-steps", 0,
    )  # fmt: skip
    assert 0 == outcome.code
    assert json.loads((tmp_path / "run" / "run.json").read_text())["recipe"]["memory_only"]
    assert 0 == tolbooth("pack", "create", model, "--from", tmp_path / "run" / "model", "--out", out).code


def test_training_the_memory_needs_a_model(fails, text_file, tmp_path):
    command = ["train", "--memory-only", "--text", text_file, "--out", tmp_path / "run", "--max-tokens", 512]
    assert "say which model's" in fails(*command, "--preset", "250m-memoryllm")
