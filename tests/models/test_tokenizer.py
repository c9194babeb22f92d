import errno
import functools
import inspect
import os
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE

from models.errors import CheckpointError, ConfigError, CorpusError
from models.tokenizer import (
    END_OF_TEXT,
    encode,
    encode_batch,
    encode_with_special_tokens,
    end_of_text_id,
    load_tokenizer,
    save_tokenizer,
    train_tokenizer,
    vocab_size,
)

TEXTS = [inspect.getsource(textwrap), inspect.getsource(functools)]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, vocab_size=512)


def test_training_is_deterministic(tokenizer):
    assert train_tokenizer(TEXTS, vocab_size=512).to_str() == tokenizer.to_str()


def test_training_reaches_the_vocabulary_size(tokenizer):
    assert vocab_size(tokenizer) == 512


def test_end_of_text_is_id_0(tokenizer):
    assert end_of_text_id(tokenizer) == 0


def test_too_little_text_gives_the_bytes_and_the_end_of_text():
    assert vocab_size(train_tokenizer(["a"], vocab_size=512)) == 257


def test_a_vocabulary_without_room_for_the_bytes_is_refused():
    with pytest.raises(ConfigError, match="vocab_size is 256; a byte-level tokenizer needs at least 257"):
        train_tokenizer(TEXTS, vocab_size=256)


def test_training_makes_text_shorter(tokenizer):
    assert len(encode(tokenizer, TEXTS[0])) < len(TEXTS[0].encode()) / 2


@given(text=st.text())
def test_decoding_gives_back_any_text(tokenizer, text):
    assert tokenizer.decode(encode(tokenizer, text)) == text


@given(
    text=st.text(alphabet=" \t\r\n\u00a0\u3000a1.'<|>") | st.from_regex(r"(<\|endoftext\|>|[ \n<|>a])*", fullmatch=True)
)
def test_decoding_gives_back_white_space_and_literal_special_tokens(tokenizer, text):
    assert tokenizer.decode(encode(tokenizer, text)) == text


def test_every_ascii_character_has_a_token_of_its_own(tokenizer):
    ids = [encode(tokenizer, chr(byte)) for byte in range(128)]
    assert len({tuple(one) for one in ids if len(one) == 1}) == 128


def test_numbers_are_split_into_groups_of_three_digits():
    tokenizer = train_tokenizer(["123456 " * 9], vocab_size=300)
    assert [tokenizer.decode([token_id]) for token_id in encode(tokenizer, "123456")] == ["123", "456"]


def test_no_space_is_put_in_front(tokenizer):
    assert tokenizer.decode(encode(tokenizer, "def")) == "def"
    assert encode(tokenizer, "def") != encode(tokenizer, " def")


@given(before=st.text(), after=st.text())
def test_a_text_that_spells_end_of_text_does_not_give_the_token(tokenizer, before, after):
    assert end_of_text_id(tokenizer) not in encode(tokenizer, before + END_OF_TEXT + after)


def test_encode_keeps_special_tokens_out_whatever_the_tokenizer_was_set_to(tokenizer):
    other = Tokenizer.from_str(tokenizer.to_str())
    assert encode(other, END_OF_TEXT) == encode(tokenizer, END_OF_TEXT)


def test_special_tokens_are_read_where_they_are_asked_for(tokenizer):
    expected = [*encode(tokenizer, "one "), 0, 0, *encode(tokenizer, " two")]
    assert encode_with_special_tokens(tokenizer, f"one {END_OF_TEXT}{END_OF_TEXT} two") == expected


def test_a_special_token_that_begins_another_does_not_hide_it(tokenizer):
    other = Tokenizer.from_str(tokenizer.to_str())
    other.add_special_tokens(["<|user|>", "<|user|>!"])
    assert encode_with_special_tokens(other, "<|user|>!") == [513]


def test_special_tokens_are_text_to_a_tokenizer_that_has_none():
    tokenizer = Tokenizer(BPE({"<": 0, ">": 1}, []))
    assert encode_with_special_tokens(tokenizer, "<>") == [0, 1]


def test_a_batch_gives_the_same_ids_as_single_texts(tokenizer):
    texts = ["", "one", END_OF_TEXT, "two\n"]
    assert encode_batch(tokenizer, texts) == [encode(tokenizer, text) for text in texts]


def test_a_lone_surrogate_is_an_error_that_says_where(tokenizer):
    with pytest.raises(CorpusError, match=r"a lone surrogate U\+D800 at character 2"):
        encode(tokenizer, "ab\ud800")


def test_a_tokenizer_is_loaded_as_it_was_saved(tokenizer, tmp_path):
    save_tokenizer(tokenizer, tmp_path / "new" / "tokenizer.json")
    loaded = load_tokenizer(tmp_path / "new" / "tokenizer.json")
    assert loaded.to_str() == tokenizer.to_str()
    assert encode(loaded, TEXTS[0]) == encode(tokenizer, TEXTS[0])


def test_saving_replaces_the_file_and_leaves_nothing_else(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text("old")
    save_tokenizer(tokenizer, path)
    assert [*tmp_path.iterdir()] == [path]
    assert load_tokenizer(path).to_str() == tokenizer.to_str()


def test_a_full_disk_leaves_the_old_file(tokenizer, tmp_path, monkeypatch):
    path = tmp_path / "tokenizer.json"
    path.write_text("old")

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"cannot write the tokenizer .*No space left"):
        save_tokenizer(tokenizer, path)
    assert [*tmp_path.iterdir()] == [path]
    assert path.read_text() == "old"


def test_a_stored_truncation_and_padding_are_switched_off(tokenizer, tmp_path):
    other = Tokenizer.from_str(tokenizer.to_str())
    other.enable_truncation(2)
    other.enable_padding(length=9)
    other.save(str(tmp_path / "tokenizer.json"))
    assert encode(load_tokenizer(tmp_path / "tokenizer.json"), "a b c d") == encode(tokenizer, "a b c d")


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"no json", b'{"version": "1.0", "model": {"type": "Other"}}'])
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"tokenizer.json is not a tokenizer"):
        load_tokenizer(path)


def test_a_file_that_is_not_utf_8_is_refused(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(b"\xff")
    with pytest.raises(CheckpointError, match=r"cannot read the tokenizer .*tokenizer.json"):
        load_tokenizer(path)


def test_a_missing_tokenizer_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"cannot read the tokenizer .*nowhere.json"):
        load_tokenizer(tmp_path / "nowhere.json")


def test_the_end_of_text_of_llama_3_is_known(tokenizer):
    other = Tokenizer(BPE({"a": 0}, []))
    other.add_special_tokens(["<|end_of_text|>"])
    assert end_of_text_id(other) == 1


def test_a_tokenizer_without_an_end_of_text_is_refused():
    with pytest.raises(CheckpointError, match="the tokenizer has no end of text"):
        end_of_text_id(Tokenizer(BPE({"a": 0}, [])))


def test_the_vocabulary_size_counts_added_tokens():
    tokenizer = Tokenizer(BPE({"a": 0}, []))
    tokenizer.add_tokens([AddedToken("b"), AddedToken("c")])
    assert vocab_size(tokenizer) == 3
