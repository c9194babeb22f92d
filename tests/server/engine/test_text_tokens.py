"""Single tokens as text, and words as tokens."""

import pytest

from server.engine.errors import RequestError
from server.engine.text import bad_word_ids, token_text
from tests.server.engine.text_samples import byte_fallback, byte_level


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        ("Ġ", (" ", b" ")),
        ("<|start|>", ("<|start|>", b"<|start|>")),
        ("<tool>", ("<tool>", b"<tool>")),
        ("ð", ("bytes:\\xf0", b"\xf0")),
    ],
)
def test_a_token_is_shown_as_text_or_as_its_bytes(token, expected):
    tokenizer = byte_level()
    assert expected == token_text(tokenizer, tokenizer.token_to_id(token))


@pytest.mark.parametrize(
    ("token", "expected"), [("▁a", (" a", b" a")), ("<0x41>", ("A", b"A")), ("<0xE6>", ("bytes:\\xe6", b"\xe6"))]
)
def test_byte_tokens_are_shown_as_the_bytes_that_they_are(token, expected):
    tokenizer = byte_fallback()
    assert expected == token_text(tokenizer, tokenizer.token_to_id(token))


def test_every_byte_has_a_token_of_its_own():
    tokenizer = byte_level()
    texts = [token_text(tokenizer, token_id) for token_id in range(1, 257)]
    assert {bytes([byte]) for byte in range(256)} == {text.raw for text in texts}


def test_an_id_beyond_the_vocabulary_is_no_text():
    assert ("", b"") == token_text(byte_level(), 100_000)


def test_added_tokens_are_what_they_spell():
    from models.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(["some text"], vocab_size=260)
    tokenizer.add_tokens(["café"])
    assert "café" == token_text(tokenizer, tokenizer.token_to_id("café")).text


def test_bad_words_are_tokens_with_and_without_a_space_before_them():
    tokenizer = byte_level()
    expected = [tokenizer.encode(text, add_special_tokens=False).ids for text in ("toll", " toll", "é", " é")]
    assert expected == bad_word_ids(tokenizer, ["toll", " é"])


def test_equal_sequences_of_bad_words_are_given_once():
    assert bad_word_ids(byte_level(), ["toll"]) == bad_word_ids(byte_level(), ["toll", "  toll", "toll"])


def test_a_bad_word_of_spaces_is_itself():
    tokenizer = byte_level()
    assert tokenizer.encode(" ", add_special_tokens=False).ids == bad_word_ids(tokenizer, [" "])[0]


def test_a_special_tokens_name_is_plain_text_as_a_bad_word():
    tokenizer = byte_level()
    assert tokenizer.token_to_id("<|start|>") not in {
        one for ids in bad_word_ids(tokenizer, ["<|start|>"]) for one in ids
    }


def test_a_bad_word_that_is_not_unicode_is_refused():
    with pytest.raises(RequestError, match="lone surrogate") as caught:
        bad_word_ids(byte_level(), ["\ud800"])
    assert "bad_words" == caught.value.param
