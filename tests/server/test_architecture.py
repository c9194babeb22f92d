import dataclasses

import pytest

from models.config import ContextForm, Kind, ModelConfig
from models.errors import ConfigError
from models.presets import PRESETS, flex_intermediate_size
from server.cli.architecture import Base, Sizes, build_config

FLEX = PRESETS["250m-flex2"]
SMALL = Sizes(kind=Kind.MEMORYLLM, hidden_size=48, layers=2, heads=4)


def build(base, sizes, *, vocab_size=300, end_id=7):
    return build_config(base, sizes, vocab_size=vocab_size, end_id=end_id)


def test_sizes_alone_are_enough():
    expected = ModelConfig(
        model_type=Kind.MEMORYLLM,
        vocab_size=300,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=flex_intermediate_size(48, 0),
        bos_token_id=7,
        eos_token_id=7,
    )
    assert expected == build(None, SMALL)


def test_missing_sizes_are_named():
    with pytest.raises(ConfigError, match="--hidden-size, --layers, or a --preset"):
        build(None, Sizes(kind=Kind.DENSE, heads=4))


def test_a_base_is_kept_but_for_the_vocabulary():
    assert dataclasses.replace(FLEX, vocab_size=300, bos_token_id=7, eos_token_id=7) == build(FLEX, Sizes())


def test_without_a_tokenizer_the_bases_ids_stay():
    base = dataclasses.replace(FLEX, bos_token_id=1, eos_token_id=2)
    assert base == build(base, Sizes(), vocab_size=base.vocab_size, end_id=None)


def test_another_beta_has_another_intermediate_size():
    config = build(FLEX, Sizes(beta=3))
    assert (3, flex_intermediate_size(960, 3)) == (config.context_beta, config.intermediate_size)


def test_an_intermediate_size_that_is_given_stays():
    assert 80 == build(FLEX, Sizes(beta=3, intermediate_size=80)).intermediate_size


def test_a_longer_context_changes_nothing_else():
    base = dataclasses.replace(FLEX, intermediate_size=80, bos_token_id=7, eos_token_id=7, vocab_size=300)
    expected = dataclasses.replace(base, max_position_embeddings=4096)
    assert expected == build(base, Sizes(max_position_embeddings=4096))


def test_a_flex_base_can_become_another_kind():
    config = build(FLEX, Sizes(kind=Kind.DENSE))
    assert (Kind.DENSE, 0, 2560) == (config.model_type, config.context_beta, config.intermediate_size)


def test_key_value_heads_follow_the_heads():
    assert 8 == build(FLEX, Sizes(heads=8)).num_key_value_heads


def test_a_context_form_of_another_kind_is_an_error():
    with pytest.raises(ConfigError, match="no FFN-C"):
        build(None, dataclasses.replace(SMALL, context_form=ContextForm.LINEAR))


def test_a_base_is_a_preset_or_a_file(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(FLEX.to_json())
    assert [FLEX, FLEX, None] == [Base(preset="250m-flex2").load(), Base(config=path).load(), Base().load()]


def test_two_bases_are_an_error(tmp_path):
    with pytest.raises(ConfigError, match="give one"):
        Base(preset="250m-flex2", config=tmp_path / "config.json").load()


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="cannot read"):
        Base(config=tmp_path / "config.json").load()
