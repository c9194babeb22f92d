"""Checkpoints go to and from `transformers` through one name map, and nothing that we lack is ignored."""

import dataclasses
import json
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.attention import PackedContext
from models.bundled import resolve_model
from models.checkpoint import load_model, read_fingerprints, save_checkpoint
from models.config import ModelConfig
from models.errors import CheckpointError, ConfigError
from models.importing import import_checkpoint
from tests.models.checkpoint_samples import (
    DENSE,
    EVERY_KIND,
    MEMORY,
    edit_json,
    equal_tensors,
    random_model,
    tensors_of,
)

UNTIED = dataclasses.replace(DENSE, tie_word_embeddings=False, rms_norm_eps=1e-6, rope_theta=500.0)
IDS = torch.tensor([3, 1, 39, 1, 17, 22, 0, 8])


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def foreign(tmp_path):
    """Return a checkpoint as older versions of `transformers` wrote them."""
    directory = tmp_path / "foreign"
    directory.mkdir()
    config = {
        "_name_or_path": "someone/tiny",
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": 16,
        "initializer_range": 0.02,
        "intermediate_size": 24,
        "max_position_embeddings": 128,
        "model_type": "llama",
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.31.0",
        "use_cache": True,
        "vocab_size": 40,
    }
    (directory / "config.json").write_text(json.dumps(config))
    save_file(tensors_of(random_model(DENSE)), directory / "model.safetensors")
    return directory


def rewrite(directory, **tensors):
    path = directory / "model.safetensors"
    save_file({name: tensor.clone() for name, tensor in load_file(path).items()} | tensors, path)


# Without transformers


def test_an_import_keeps_every_tensor(foreign, out):
    import_checkpoint(foreign, out)
    assert equal_tensors(tensors_of(load_model(out)), tensors_of(random_model(DENSE)))


def test_an_import_translates_the_configuration(foreign, out):
    import_checkpoint(foreign, out)
    assert ModelConfig.load(out) == dataclasses.replace(
        DENSE, max_position_embeddings=128, rms_norm_eps=1e-6, bos_token_id=1, eos_token_id=2
    )


def test_an_import_has_fingerprints(foreign, out):
    assert import_checkpoint(foreign, out) == read_fingerprints(out)


def test_an_import_can_change_the_dtype(foreign, out):
    import_checkpoint(foreign, out, dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in tensors_of(load_model(out)).values()} == {torch.bfloat16}


def test_absent_keys_mean_what_transformers_takes_for_them(foreign):
    values = json.loads((foreign / "config.json").read_text())
    for key in ("num_key_value_heads", "rms_norm_eps", "tie_word_embeddings", "max_position_embeddings"):
        del values[key]
    config = ModelConfig.from_dict(values)
    assert config.num_key_value_heads == 4
    assert config.rms_norm_eps == 1e-6
    assert config.rope_theta == 10000.0
    assert config.max_position_embeddings == 2048
    assert not config.tie_word_embeddings


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_theta": 500.0},
        {"rope_parameters": {"rope_theta": 500.0, "rope_type": "default"}},
        {"rope_parameters": {"rope_theta": 500}, "rope_theta": 500.0},
        {"rope_theta": 500.0, "rope_scaling": {"type": "default"}},
    ],
)
def test_the_rotary_base_is_read_from_wherever_it_is(foreign, changes):
    edit_json(foreign / "config.json", **changes)
    assert ModelConfig.load(foreign).rope_theta == 500.0


@pytest.mark.parametrize(
    "changes",
    [
        {"attention_bias": True},
        {"mlp_bias": True},
        {"hidden_act": "gelu"},
        {"head_dim": 8},
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}},
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0}},
        {"rope_theta": 10000.0, "rope_parameters": {"rope_theta": 500.0}},
        {"partial_rotary_factor": 0.5},
        {"architectures": ["LlamaForSequenceClassification"]},
        {"quantization_config": {"quant_method": "awq"}},
        {"eos_token_id": [1, 2]},
        {"sliding_window": 4096},
        {"something_new": 1},
    ],
    ids=str,
)
def test_a_feature_that_we_lack_is_refused_by_name(foreign, out, changes):
    edit_json(foreign / "config.json", **changes)
    with pytest.raises(ConfigError, match=next(iter(changes))) as caught:
        import_checkpoint(foreign, out)
    assert "\n" not in str(caught.value)
    assert not out.exists()


def test_all_features_that_we_lack_are_named_at_once(foreign):
    edit_json(foreign / "config.json", attention_bias=True, hidden_act="gelu", something_new=1)
    with pytest.raises(ConfigError, match=r"attention_bias.*hidden_act.*something_new"):
        ModelConfig.load(foreign)


def test_a_head_dimension_that_says_what_we_derive_is_read(foreign):
    edit_json(foreign / "config.json", head_dim=4)
    assert ModelConfig.load(foreign).head_dim == 4


def test_a_stored_copy_of_a_tied_head_is_dropped(foreign, out):
    rewrite(foreign, **{"lm_head.weight": random_model(DENSE).model.embed_tokens.weight.detach().clone()})
    import_checkpoint(foreign, out)
    assert load_model(out).lm_head is None


def test_a_tied_head_with_values_of_its_own_is_refused(foreign, out):
    rewrite(foreign, **{"lm_head.weight": torch.ones(40, 16)})
    with pytest.raises(CheckpointError, match=r"ties its head to the embedding, but stores lm_head\.weight"):
        import_checkpoint(foreign, out)


def test_stored_rotary_frequencies_are_dropped(foreign, out):
    rewrite(foreign, **{"model.layers.1.self_attn.rotary_emb.inv_freq": torch.ones(2)})
    import_checkpoint(foreign, out)
    assert equal_tensors(tensors_of(load_model(out)), tensors_of(random_model(DENSE)))


def test_an_unknown_tensor_is_refused(foreign, out):
    rewrite(foreign, **{"model.layers.0.self_attn.q_proj.bias": torch.ones(16)})
    with pytest.raises(CheckpointError, match=r"unexpected model\.layers\.0\.self_attn\.q_proj\.bias"):
        import_checkpoint(foreign, out)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth"])
def test_pickled_weights_are_refused(foreign, out, name):
    (foreign / "model.safetensors").rename(foreign / name)
    with pytest.raises(CheckpointError, match=f"pickles .*{name}.*safetensors"):
        import_checkpoint(foreign, out)


def test_generation_settings_are_kept(foreign, out):
    (foreign / "generation_config.json").write_text('{"temperature": 0.6, "eos_token_id": [2, 3]}')
    import_checkpoint(foreign, out)
    assert json.loads((out / "generation_config.json").read_text()) == {"temperature": 0.6, "eos_token_id": [2, 3]}


@pytest.mark.parametrize("name", ["tokenizer_config.json", "chat_template.jinja"])
def test_a_chat_template_is_kept(foreign, out, name):
    (foreign / name).write_text('{"chat_template": "x"}')
    import_checkpoint(foreign, out)
    assert '{"chat_template": "x"}' == (out / name).read_text()


@pytest.mark.parametrize("config", EVERY_KIND.values(), ids=EVERY_KIND)
def test_our_own_checkpoints_are_copied_to_the_bit(config, tmp_path, out):
    stored = save_checkpoint(random_model(config), tmp_path / "own")
    assert import_checkpoint(tmp_path / "own", out) == stored
    assert ModelConfig.load(out) == config


def test_a_slim_copy_in_another_dtype_keeps_the_fingerprint_of_the_sources_table(tmp_path, out):
    stored = save_checkpoint(random_model(MEMORY), tmp_path / "own")
    import_checkpoint(tmp_path / "own", out, slim=True, dtype=torch.bfloat16)
    assert read_fingerprints(out).table == stored.table


def test_a_slim_checkpoint_is_copied_as_a_slim_one_only(tmp_path, out):
    stored = save_checkpoint(random_model(MEMORY), tmp_path / "own", slim=True)
    with pytest.raises(CheckpointError, match="is a slim checkpoint"):
        import_checkpoint(tmp_path / "own", out)
    assert import_checkpoint(tmp_path / "own", out, slim=True) == stored


# Where a name leads


@pytest.fixture
def bundled(tmp_path, monkeypatch):
    """Bundle `demo` and `demo-dense` for this test; return where they are."""
    for name in ("demo", "demo-dense"):
        (tmp_path / "demos" / name).mkdir(parents=True)
        (tmp_path / "demos" / name / "config.json").write_text(MEMORY.to_json())
    monkeypatch.setattr("models.bundled._DEMOS", tmp_path / "demos")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "demos"


def test_no_name_means_the_demo(bundled):
    assert resolve_model(None) == bundled / "demo"


def test_a_bundled_name_leads_to_its_demo(bundled):
    assert resolve_model("demo-dense") == bundled / "demo-dense"


def test_a_path_leads_to_its_directory(bundled):
    assert resolve_model(str(bundled / "demo-dense")) == bundled / "demo-dense"


def test_a_directory_with_a_bundled_name_needs_a_separator(bundled, tmp_path):
    own = tmp_path / "work" / "demo"
    own.mkdir()
    (own / "config.json").write_text(MEMORY.to_json())
    assert resolve_model("demo") == bundled / "demo"
    assert resolve_model("./demo").resolve() == own


@pytest.mark.parametrize("name", ["demo-flex9", "./demo", "..", "", "../demos/nothing"])
def test_a_name_that_leads_nowhere_is_refused_with_the_bundled_names(bundled, name):
    with pytest.raises(CheckpointError, match="the bundled models are demo, demo-dense"):
        resolve_model(name)


# With transformers


@pytest.fixture(scope="module")
def llama():
    """Return `LlamaConfig` and `LlamaForCausalLM`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers = pytest.importorskip("transformers")
        classes = transformers.LlamaConfig, transformers.LlamaForCausalLM
    transformers.utils.logging.disable_progress_bar()
    return classes


def our_logits(directory):
    model = load_model(directory)
    with torch.no_grad():
        return model.logits(model(IDS, torch.arange(len(IDS)), PackedContext([len(IDS)])))


def their_logits(model):
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.eval()(IDS[None]).logits[0]


def loud(model):
    """Give weights a size at which wrong rotations or norms would show in the logits."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5, generator=torch.Generator().manual_seed(parameter.numel()))
    return model


@pytest.mark.parametrize("config", [DENSE, UNTIED], ids=["tied", "untied"])
@pytest.mark.parametrize("shard_bytes", [4000, 10**9], ids=["shards", "single"])
def test_our_dense_checkpoint_has_equal_logits_in_transformers(llama, config, shard_bytes, out):
    save_checkpoint(loud(random_model(config)), out, shard_bytes=shard_bytes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs, report = llama[1].from_pretrained(out, dtype=torch.float32, output_loading_info=True)
    assert not any(report[part] for part in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    torch.testing.assert_close(our_logits(out), their_logits(theirs), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shard", ["4KB", "1GB"])
def test_a_checkpoint_of_transformers_has_equal_logits_here(llama, tied, shard, tmp_path, out):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = llama[0](
            vocab_size=40,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=24,
            rope_parameters={"rope_theta": 500.0, "rope_type": "default"},
            tie_word_embeddings=tied,
        )
        theirs = loud(llama[1](config))
        theirs.save_pretrained(tmp_path / "theirs", max_shard_size=shard)
    import_checkpoint(tmp_path / "theirs", out)
    torch.testing.assert_close(our_logits(out), their_logits(theirs), rtol=1e-5, atol=1e-4)
