"""`ModelConfig` reads exactly what it writes, and refuses the rest in one line."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.config import ContextForm, Kind, ModelConfig
from models.errors import ConfigError
from tests.models.checkpoint_samples import DENSE, EVERY_KIND, FLEX, MEMORY

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
KEYS = {key for config in EVERY_KIND.values() for key in json.loads(config.to_json())}


@st.composite
def configs(draw):
    kind = draw(st.sampled_from(Kind))
    kv_heads, group, half = (draw(st.integers(1, 4)) for _ in range(3))
    heads = kv_heads * group
    vocab_size = draw(st.integers(1, 200_000))
    token_ids = st.none() | st.integers(0, vocab_size - 1)
    flex = {"context_beta": draw(st.integers(1, 3)), "context_form": draw(st.sampled_from(ContextForm))}
    return ModelConfig(
        model_type=kind,
        vocab_size=vocab_size,
        hidden_size=heads * 2 * half,
        num_hidden_layers=draw(st.integers(1, 9)),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        intermediate_size=draw(st.integers(1, 999)),
        max_position_embeddings=draw(st.integers(1, 9999)),
        rms_norm_eps=draw(st.floats(1e-12, 1)),
        rope_theta=draw(st.floats(1, 1e9)),
        tie_word_embeddings=draw(st.booleans()),
        bos_token_id=draw(token_ids),
        eos_token_id=draw(token_ids),
        **(flex if kind is Kind.FLEX_MEMORYLLM else {}),
    )


@given(configs())
def test_json_gives_back_the_configuration(config):
    assert ModelConfig.from_json(config.to_json()) == config


@given(configs())
def test_plain_fields_give_back_the_configuration(config):
    assert ModelConfig.from_dict(dataclasses.asdict(config)) == config


@given(st.sampled_from(list(EVERY_KIND.values())), st.dictionaries(st.sampled_from(sorted(KEYS)), JSON, max_size=3))
def test_any_json_is_read_or_refused_in_one_line(config, changes):
    text = json.dumps(json.loads(config.to_json()) | changes)
    try:
        read = ModelConfig.from_json(text)
    except ConfigError as error:
        assert "\n" not in str(error)  # noqa: PT017 both outcomes are right
    else:
        assert ModelConfig.from_json(read.to_json()) == read


@given(st.text() | JSON.map(json.dumps))
def test_any_text_is_refused_in_one_line(text):
    with pytest.raises(ConfigError) as caught:
        ModelConfig.from_json(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("config", EVERY_KIND.values(), ids=EVERY_KIND)
def test_an_unknown_key_is_refused_by_name(config):
    text = json.dumps(json.loads(config.to_json()) | {"hiden_size": 3})
    with pytest.raises(ConfigError, match="hiden_size"):
        ModelConfig.from_json(text)


@pytest.mark.parametrize("config", EVERY_KIND.values(), ids=EVERY_KIND)
def test_missing_keys_are_refused_by_name(config):
    values = json.loads(config.to_json())
    del values["vocab_size"], values["hidden_size"]
    with pytest.raises(ConfigError, match="lacks keys: hidden_size, vocab_size"):
        ModelConfig.from_json(json.dumps(values))


@pytest.mark.parametrize("config", EVERY_KIND.values(), ids=EVERY_KIND)
@pytest.mark.parametrize("value", ["16", 16.0, True, None, [16]])
def test_a_size_of_another_type_is_refused(config, value):
    text = json.dumps(json.loads(config.to_json()) | {"hidden_size": value})
    with pytest.raises(ConfigError, match=r"hidden_size is .*; it must be int"):
        ModelConfig.from_json(text)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-1.0", "0", "1e999", "1" + "0" * 400, "1" * 5000])
def test_a_number_that_is_no_epsilon_is_refused(text):
    source = MEMORY.to_json().replace("1e-05", text)
    with pytest.raises(ConfigError):
        ModelConfig.from_json(source)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"hidden_size": 18}, "hidden_size 18 is not a multiple of num_attention_heads 4"),
        ({"hidden_size": 12}, "head_dim is 3"),
        ({"num_key_value_heads": 3}, "not a multiple of num_key_value_heads 3"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"context_beta": 1}, "context_beta is 1; a memoryllm model takes 0"),
        ({"eos_token_id": 40}, "eos_token_id is 40, outside the vocabulary of 40"),
        ({"bos_token_id": -1}, "bos_token_id is -1"),
    ],
)
def test_values_that_do_not_fit_together_are_refused(changes, match):
    with pytest.raises(ConfigError, match=match):
        dataclasses.replace(MEMORY, **changes)


def test_another_architecture_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="'mistral'; it can be dense, memoryllm, flex-memoryllm, llama"):
        ModelConfig.from_dict({"model_type": "mistral"})


def test_a_dense_configuration_is_written_in_the_words_of_transformers():
    values = json.loads(DENSE.to_json())
    assert (values["model_type"], values["architectures"]) == ("llama", ["LlamaForCausalLM"])


def test_the_context_part_has_about_beta_d_squared_parameters():
    for form, matrices in ((ContextForm.LINEAR, 2), (ContextForm.SWIGLU, 3)):
        config = dataclasses.replace(
            FLEX, hidden_size=960, num_attention_heads=16, num_key_value_heads=16, context_form=form
        )
        assert matrices * 960 * config.context_size == pytest.approx(3 * 960**2, rel=0.02)
