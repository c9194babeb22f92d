import errno
import os
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.corpus import TokenShards, tokenize_corpus
from models.errors import CheckpointError, CorpusError
from models.tokenizer import END_OF_TEXT, encode, train_tokenizer, vocab_size

LINE = "The quick brown fox jumps over the lazy dog.\n"


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([LINE * 9], vocab_size=300)


def write_text(folder, *texts):
    paths = [folder / f"{index}.txt" for index in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text, encoding="utf-8", newline="")
    return paths


def write_shards(folder, *shards, dtype=np.uint16):
    folder.mkdir(exist_ok=True)
    for index, shard in enumerate(shards):
        np.save(folder / f"tokens-{index:05d}.npy", np.array(shard, dtype=dtype))
    return folder


def all_ids(folder, vocab_size=300):
    corpus = TokenShards.open([folder], vocab_size=vocab_size)
    return corpus.read(0, corpus.num_tokens).tolist()


def test_every_document_ends_with_the_end_of_text(tokenizer, tmp_path):
    files = write_text(tmp_path, f"one\n{END_OF_TEXT}\n{END_OF_TEXT}\ntwo", "three")
    tokenize_corpus(files, tokenizer, tmp_path / "tokens")
    expected = [*encode(tokenizer, "one\n"), 0, *encode(tokenizer, "two"), 0, *encode(tokenizer, "three"), 0]
    assert all_ids(tmp_path / "tokens") == expected


def test_a_long_document_gives_the_tokens_of_the_whole(tokenizer, tmp_path):
    text = LINE * 2000
    tokenize_corpus(write_text(tmp_path, text), tokenizer, tmp_path / "tokens")
    assert all_ids(tmp_path / "tokens") == [*encode(tokenizer, text), 0]


def test_the_result_says_what_was_written(tokenizer, tmp_path):
    files = write_text(tmp_path, f"{LINE}{END_OF_TEXT}\n{LINE}")
    corpus = tokenize_corpus(files, tokenizer, tmp_path / "tokens", shard_tokens=7)
    assert corpus.num_documents == 2
    assert corpus.num_bytes == files[0].stat().st_size
    assert corpus.num_tokens == len(all_ids(tmp_path / "tokens"))
    assert corpus.shards == sorted((tmp_path / "tokens").iterdir())


def test_shards_have_the_size_asked_for(tokenizer, tmp_path):
    corpus = tokenize_corpus(write_text(tmp_path, LINE * 9), tokenizer, tmp_path / "tokens", shard_tokens=7)
    sizes = [len(np.load(shard)) for shard in corpus.shards]
    assert set(sizes[:-1]) == {7}
    assert 0 < sizes[-1] <= 7


def test_shards_of_any_size_hold_the_same_tokens(tokenizer, tmp_path):
    files = write_text(tmp_path, LINE * 9)
    tokenize_corpus(files, tokenizer, tmp_path / "one")
    tokenize_corpus(files, tokenizer, tmp_path / "many", shard_tokens=5)
    assert all_ids(tmp_path / "one") == all_ids(tmp_path / "many")


def test_ids_take_two_bytes_where_the_vocabulary_allows_it(tokenizer, tmp_path):
    corpus = tokenize_corpus(write_text(tmp_path, LINE), tokenizer, tmp_path / "tokens")
    assert np.load(corpus.shards[0]).dtype == np.uint16


def test_ids_take_four_bytes_where_they_must(tokenizer, tmp_path):
    large = type(tokenizer).from_str(tokenizer.to_str())
    large.add_tokens([f"<{token_id}>" for token_id in range(vocab_size(tokenizer), 65_537)])
    corpus = tokenize_corpus(write_text(tmp_path, "<65536>"), large, tmp_path / "tokens")
    assert np.load(corpus.shards[0]).tolist() == [65_536, 0]
    assert np.load(corpus.shards[0]).dtype == np.uint32


def test_progress_counts_all_bytes(tokenizer, tmp_path):
    files = write_text(tmp_path, LINE * 60_000, LINE)
    total = sum(file.stat().st_size for file in files)
    calls = []
    tokenize_corpus(files, tokenizer, tmp_path / "tokens", on_progress=lambda *call: calls.append(call))
    assert len(calls) > 1
    assert calls == sorted(calls)
    assert calls[-1] == (total, total)


def test_an_existing_folder_is_not_overwritten(tokenizer, tmp_path):
    (tmp_path / "tokens").mkdir()
    with pytest.raises(CorpusError, match=r"tokens exists already; remove it"):
        tokenize_corpus(write_text(tmp_path, LINE), tokenizer, tmp_path / "tokens")


def test_separators_alone_are_no_corpus(tokenizer, tmp_path):
    files = write_text(tmp_path, f"{END_OF_TEXT}\n")
    with pytest.raises(CorpusError, match=r"no text in .*0.txt; there are only separators"):
        tokenize_corpus(files, tokenizer, tmp_path / "tokens")
    assert [*tmp_path.iterdir()] == files


def test_a_tokenizer_without_an_end_of_text_is_refused(tokenizer, tmp_path):
    bare = type(tokenizer)(type(tokenizer.model)({"a": 0}, []))
    files = write_text(tmp_path, LINE)
    with pytest.raises(CheckpointError, match="no end of text"):
        tokenize_corpus(files, bare, tmp_path / "tokens")
    assert [*tmp_path.iterdir()] == files


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), r"cannot write .*tokens: No space left"),
        (KeyboardInterrupt("stop"), "stop"),
    ],
)
def test_what_stops_the_writing_leaves_nothing(tokenizer, tmp_path, monkeypatch, failure, expected):
    files = write_text(tmp_path, LINE * 9)
    calls = []

    def fail_at_the_third(*_):
        calls.append(None)
        if len(calls) == 3:
            raise failure

    monkeypatch.setattr(os, "fsync", fail_at_the_third)
    with pytest.raises((CorpusError, KeyboardInterrupt), match=expected):
        tokenize_corpus(files, tokenizer, tmp_path / "tokens", shard_tokens=5)
    assert [*tmp_path.iterdir()] == files


def test_what_a_killed_run_left_does_not_get_into_the_next(tokenizer, tmp_path):
    write_shards(tmp_path / "tokens.partial", *[[1, 2]] * 9)
    corpus = tokenize_corpus(write_text(tmp_path, LINE), tokenizer, tmp_path / "tokens")
    assert sorted((tmp_path / "tokens").iterdir()) == corpus.shards
    assert not (tmp_path / "tokens.partial").exists()


@given(shards=st.lists(st.lists(st.integers(0, 299), max_size=9), max_size=9).filter(any), data=st.data())
def test_shards_read_like_one_array(tmp_path_factory, shards, data):
    corpus = TokenShards.open([write_shards(tmp_path_factory.mktemp("shards"), *shards)], vocab_size=300)
    whole = [*chain.from_iterable(shards)]
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, len(whole)))
    assert corpus.num_tokens == len(whole)
    assert corpus.read(start, stop).tolist() == whole[start:stop]


def test_reading_gives_int64(tmp_path):
    assert TokenShards.open([write_shards(tmp_path, [1])], vocab_size=300).read(0, 1).dtype == np.int64


def test_reading_past_the_end_is_refused(tmp_path):
    corpus = TokenShards.open([write_shards(tmp_path, [1, 2])], vocab_size=300)
    with pytest.raises(IndexError, match=r"\[1, 3\) is outside the corpus of 2 tokens"):
        corpus.read(1, 3)


def test_files_and_folders_are_read_in_the_order_given(tmp_path):
    folder = write_shards(tmp_path / "folder", [1], [2])
    other = write_shards(tmp_path / "other", [3]) / "tokens-00000.npy"
    corpus = TokenShards.open([other, folder], vocab_size=300)
    assert corpus.read(0, 3).tolist() == [3, 1, 2]


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.int64, np.uint64, ">u4"])
def test_any_integers_will_do(tmp_path, dtype):
    assert all_ids(write_shards(tmp_path / "tokens", [1, 299], dtype=dtype)) == [1, 299]


def test_tokens_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr("models.corpus._COUNT_TOKENS", 2)
    corpus = TokenShards.open([write_shards(tmp_path, [3, 1, 3], [0, 3])], vocab_size=5)
    assert corpus.token_counts().tolist() == [1, 1, 0, 3, 0]
    assert corpus.token_counts().dtype == np.int64


@pytest.mark.parametrize("bad", [300, -1])
def test_an_id_outside_the_vocabulary_is_named_with_its_place(tmp_path, bad):
    corpus = TokenShards.open([write_shards(tmp_path, [1, 2], [3, 4, bad], dtype=np.int32)], vocab_size=300)
    message = rf"tokens-00001.npy has token id {bad} at position 2, outside the vocabulary of 300"
    with pytest.raises(CorpusError, match=message):
        corpus.read(3, 5)


def test_a_missing_shard_is_named(tmp_path):
    with pytest.raises(CorpusError, match=r"cannot read the token shard .*nowhere.npy: No such file"):
        TokenShards.open([tmp_path / "nowhere.npy"], vocab_size=300)


def test_a_folder_without_shards_is_refused(tmp_path):
    with pytest.raises(CorpusError, match=r"no \.npy token shards in "):
        TokenShards.open([tmp_path], vocab_size=300)


@pytest.mark.parametrize("paths", [[], ["tokens"]])
def test_no_tokens_are_refused(tmp_path, paths):
    write_shards(tmp_path / "tokens", [])
    with pytest.raises(CorpusError, match="no tokens in"):
        TokenShards.open([tmp_path / path for path in paths], vocab_size=300)


@pytest.mark.parametrize("array", [np.zeros((2, 2), np.uint16), np.zeros(2, np.float32), np.zeros(2, np.bool_)])
def test_an_array_of_another_kind_is_refused(tmp_path, array):
    np.save(tmp_path / "tokens.npy", array)
    with pytest.raises(CorpusError, match=r"tokens.npy holds .*; a token shard is a 1-D array of integers"):
        TokenShards.open([tmp_path], vocab_size=300)


def test_pickled_objects_are_refused(tmp_path):
    np.save(tmp_path / "tokens.npy", np.array([object()]), allow_pickle=True)
    with pytest.raises(CorpusError, match=r"tokens.npy is not a whole .npy array"):
        TokenShards.open([tmp_path], vocab_size=300)


@pytest.mark.parametrize("size", [0, 5, 64, 130])
def test_a_truncated_shard_is_refused(tmp_path, size):
    write_shards(tmp_path, [1, 2, 3, 4])
    os.truncate(tmp_path / "tokens-00000.npy", size)
    with pytest.raises(CorpusError, match=r"tokens-00000.npy is not a whole .npy array"):
        TokenShards.open([tmp_path], vocab_size=300)


def test_an_archive_is_not_a_shard(tmp_path):
    np.savez(tmp_path / "tokens.npz", np.zeros(2, np.uint16))
    with pytest.raises(CorpusError, match=r"tokens.npz is not a whole .npy array"):
        TokenShards.open([tmp_path / "tokens.npz"], vocab_size=300)
