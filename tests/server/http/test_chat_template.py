import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer

from models import bundled
from models.errors import CheckpointError
from models.tokenizer import encode, load_tokenizer
from server.engine.errors import RequestError
from server.http.chat_template import ChatTemplate

PLAIN = "{% for message in messages %}{{ message.content }}{% endfor %}"
SPECIAL = ["<|end|>", "<|end|>x", "[A]"]


@pytest.fixture(scope="module")
def special(tokenizer):
    """A tokenizer with some special tokens."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL])
    copy.encode_special_tokens = True
    return copy


def template(source, tokenizer, **options):
    return ChatTemplate(source, tokenizer, variables={"eos_token": "<|end|>"}, **{"max_chars": 1000} | options)


def says(text, role="user"):
    return {"role": role, "content": text}


def ids_of(source, tokenizer, *texts):
    return template(source, tokenizer).encode([says(text) for text in texts], add_generation_prompt=False)


def test_special_tokens_of_the_template_are_special(special):
    end = special.token_to_id("<|end|>")
    assert [*encode(special, "a"), end, end] == ids_of(PLAIN + "<|end|>{{ eos_token }}", special, "a")


def test_special_tokens_in_messages_are_text(special):
    assert encode(special, "<|end|>") == ids_of(PLAIN, special, "<|end|>")


def test_special_tokens_across_messages_are_text(special):
    assert encode(special, "<|end|>") == ids_of(PLAIN, special, "<|e", "nd|>")


@given(texts=st.lists(st.text(alphabet="<|end>[A] x\n", max_size=12), min_size=1, max_size=4))
def test_messages_never_make_special_tokens(special, texts):
    source = "{% for message in messages %}{{ message.content | trim }}{% endfor %}"
    assert encode(special, "".join(text.strip() for text in texts)) == ids_of(source, special, *texts)


@given(texts=st.lists(st.text(alphabet="<|end>[A]x", max_size=12), min_size=1, max_size=4))
def test_whatever_messages_spell_is_their_text(special, texts):
    assert encode(special, "".join(texts)) == ids_of(PLAIN, special, *texts)


def test_every_character_survives(special):
    text = "".join(chr(code) for code in range(1, 0x3000) if not 0xD800 <= code < 0xE000) + "😀\ufdd0"
    assert encode(special, text) == template(PLAIN, special, max_chars=10**6).encode(
        [says(text)], add_generation_prompt=False
    )


def test_a_template_may_look_for_text(special):
    source = "{% if 'toll' in messages[0].content %}yes{% endif %}"
    assert encode(special, "yes") == ids_of(source, special, "a toll")


def test_a_template_may_refuse(special):
    with pytest.raises(RequestError, match="only once"):
        ids_of("{{ raise_exception('only once') }}", special, "a")


@pytest.mark.parametrize(
    "source",
    ["{{ messages.append(1) }}", "{{ ''.__class__.__mro__ }}", "{{ messages[9].content.x }}", "{{ 1 // 0 }}"],
)
def test_what_a_template_must_not_do_is_an_error(special, source):
    with pytest.raises(RequestError, match="template"):
        ids_of(source, special, "a")


def test_a_text_without_end_is_an_error(special):
    with pytest.raises(RequestError, match="more than 1000 characters"):
        ids_of("{% for _ in range(99999) %}{{ messages[0].content }}{% endfor %}", special, "abc")


def test_a_broken_template_is_an_error_of_the_checkpoint(special):
    with pytest.raises(CheckpointError, match="cannot be read"):
        template("{% for %}", special)


def write(directory, config=None, jinja=None):
    if config is not None:
        (directory / "tokenizer_config.json").write_text(config)
    if jinja is not None:
        (directory / "chat_template.jinja").write_text(jinja)
    return directory


def loaded(directory, tokenizer):
    return ChatTemplate.load(directory, tokenizer, max_chars=1000).encode([says("a")], add_generation_prompt=True)


@pytest.mark.parametrize(
    ("config", "jinja"),
    [
        ({"chat_template": "yes"}, None),
        ({"chat_template": [{"name": "tools", "template": "no"}, {"name": "default", "template": "yes"}]}, None),
        ({"chat_template": "no"}, "yes"),
        (None, "yes"),
        ({"chat_template": "{{ eos_token }}", "eos_token": {"content": "yes"}}, None),
        ({"chat_template": "{{ bos_token }}yes", "bos_token": None}, None),
        ({"chat_template": "{% if add_generation_prompt %}yes{% endif %}"}, None),
    ],
)
def test_the_template_is_where_checkpoints_keep_it(special, tmp_path, config, jinja):
    directory = write(tmp_path, None if config is None else json.dumps(config), jinja)
    assert encode(special, "yes") == loaded(directory, special)


def test_a_checkpoint_may_have_none(special, tmp_path):
    assert ChatTemplate.load(tmp_path, special, max_chars=1) is None


@pytest.mark.parametrize("config", ["{", "[]", '{"chat_template": 7}', " " * (2**20 + 1)])
def test_broken_files_are_errors(special, tmp_path, config):
    with pytest.raises(CheckpointError):
        ChatTemplate.load(write(tmp_path, config), special, max_chars=1)


@pytest.mark.parametrize("name", ["demo", "demo-dense", "demo-flex3"])
def test_the_demos_have_a_plain_template(name):
    directory = bundled.Path(bundled.__file__).parent / "demos" / name
    tokenizer = load_tokenizer(directory / "tokenizer.json")
    chat = ChatTemplate.load(directory, tokenizer, max_chars=1000)
    messages = [says("Be brief.", "system"), says("Hi"), says("Hello.", "assistant"), says(" Who? ")]
    expected = "Be brief.\n\nUser: Hi\nAssistant: Hello.\nUser: Who?\nAssistant:"
    assert expected == tokenizer.decode(chat.encode(messages, add_generation_prompt=True))
