from collections import Counter
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.batches import Batches, permuted
from models.corpus import TokenShards
from models.errors import CorpusError


def counting_corpus(num_tokens):
    """A corpus whose token at position i is i."""
    return TokenShards([np.arange(num_tokens, dtype=np.uint32)], ["tokens.npy"], vocab_size=num_tokens)


def batches(num_tokens, sequence_length, batch_size=1, seed=0):
    return Batches(counting_corpus(num_tokens), sequence_length=sequence_length, batch_size=batch_size, seed=seed)


def epoch_inputs(source):
    return [next(source).inputs[0].tolist() for _ in range(source.sequences_per_epoch)]


def keys_of(seed):
    return np.random.SeedSequence(seed).generate_state(6, np.uint64)


def test_a_batch_is_of_int64_rows():
    batch = next(batches(100, 8, batch_size=3))
    assert (batch.inputs.shape, batch.inputs.dtype) == ((3, 8), torch.int64)
    assert (batch.targets.shape, batch.targets.dtype) == ((3, 8), torch.int64)


@given(num_tokens=st.integers(9, 60), seed=st.integers(0, 2**64))
def test_targets_are_the_tokens_that_follow(num_tokens, seed):
    batch = next(batches(num_tokens, 8, batch_size=5, seed=seed))
    assert batch.targets.tolist() == ((batch.inputs + 1) % num_tokens).tolist()


@given(sequence_length=st.integers(1, 9), num_sequences=st.integers(2, 20), seed=st.integers(0, 2**32))
def test_an_epoch_has_every_token_once(sequence_length, num_sequences, seed):
    num_tokens = sequence_length * num_sequences
    source = batches(num_tokens, sequence_length, seed=seed)
    for _ in range(3):
        assert sorted(chain.from_iterable(epoch_inputs(source))) == list(range(num_tokens))


@given(num_tokens=st.integers(9, 60), seed=st.integers(0, 2**32))
def test_an_epoch_leaves_out_less_than_a_sequence_and_repeats_nothing(num_tokens, seed):
    counts = Counter(chain.from_iterable(epoch_inputs(batches(num_tokens, 8, seed=seed))))
    assert set(counts.values()) == {1}
    assert num_tokens - len(counts) < 8


def test_epochs_differ_in_order_and_offset():
    source = batches(1000, 10)
    first, second = epoch_inputs(source), epoch_inputs(source)
    assert first != second
    assert sorted(first) != sorted(second)


def test_sequences_are_shuffled():
    starts = [row[0] for row in epoch_inputs(batches(10_000, 10))]
    steps = np.diff(starts) % 10_000
    assert np.count_nonzero(steps == 10) < 10


def test_the_seed_decides_the_order():
    assert epoch_inputs(batches(1000, 10, seed=1)) == epoch_inputs(batches(1000, 10, seed=1))
    assert epoch_inputs(batches(1000, 10, seed=1)) != epoch_inputs(batches(1000, 10, seed=2))


def test_the_order_never_changes():
    """Checkpoints store a position only; another order would repeat some tokens and skip others."""
    source = batches(40, 4, batch_size=12, seed=7)
    assert next(source).inputs[:, 0].tolist() == [32, 8, 0, 12, 4, 16, 24, 20, 28, 36, 5, 37]


@given(before=st.integers(0, 40), batch_size=st.integers(1, 7))
def test_a_resumed_position_gives_the_same_next_batch(before, batch_size):
    source = batches(100, 8, batch_size=batch_size)
    for _ in range(before):
        next(source)
    resumed = batches(100, 8, batch_size=batch_size)
    resumed.position = source.position
    assert next(resumed).inputs.tolist() == next(source).inputs.tolist()


def test_the_batch_size_does_not_change_the_order():
    small, large = batches(100, 8, batch_size=3), batches(100, 8, batch_size=30)
    rows = torch.cat([next(small).inputs for _ in range(10)])
    assert rows.tolist() == next(large).inputs.tolist()


def test_the_position_counts_sequences_and_the_epoch_follows():
    source = batches(32, 8, batch_size=3)
    assert (source.position, source.epoch) == (0, 0)
    next(source)
    next(source)
    assert (source.position, source.epoch) == (6, 1)


@pytest.mark.parametrize("num_tokens", [1, 7, 8])
def test_a_corpus_shorter_than_a_sequence_is_refused(num_tokens):
    with pytest.raises(CorpusError, match=rf"the corpus has {num_tokens} tokens; sequences of 8 need at least 9"):
        batches(num_tokens, 8)


def test_a_corpus_of_one_sequence_will_do():
    batch = next(batches(9, 8))
    assert batch.targets.tolist() == ((batch.inputs + 1) % 9).tolist()


@given(size=st.integers(1, 3000), seed=st.integers(0, 2**64))
def test_a_permutation_reaches_everything_once(size, seed):
    assert sorted(permuted(np.arange(size, dtype=np.uint64), size, keys_of(seed)).tolist()) == list(range(size))


@given(size=st.integers(2**30, 2**60), seed=st.integers(0, 2**64), data=st.data())
def test_a_part_of_a_huge_permutation_has_no_repetition(size, seed, data):
    start = data.draw(st.integers(0, size - 100))
    values = permuted(np.arange(start, start + 100, dtype=np.uint64), size, keys_of(seed)).tolist()
    assert len(set(values)) == 100
    assert max(values) < size


def test_permutations_spread_evenly():
    """Where the first index goes over many seeds: every tenth of the range is hit about equally often."""
    size = 1000
    places = [int(permuted(np.zeros(1, dtype=np.uint64), size, keys_of(seed))[0]) for seed in range(2000)]
    tenths = np.bincount(np.array(places) // 100, minlength=10)
    assert tenths.min() > 140
    assert tenths.max() < 260
