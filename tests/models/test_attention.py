"""Attention with and without a paged cache, against a float64 reference and against each other."""

import dataclasses
from itertools import accumulate

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.attention import PackedContext, PagedContext
from models.kv_cache import BlockTable, KVCache
from tests.models import reference
from tests.models.tiny_models import DENSE

CLOSE = {"rtol": 0, "atol": 1e-12}


def config_of(*, heads=4, kv_heads=2, head_dim=6):
    return dataclasses.replace(
        DENSE, num_attention_heads=heads, num_key_value_heads=kv_heads, hidden_size=heads * head_dim
    )


def random_qkv(num_tokens, config, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    heads = (config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads)
    return [torch.randn(num_tokens, h, config.head_dim, generator=generator, dtype=dtype) for h in heads]


def expected_attention(lengths, qkv):
    parts = zip(*(x.split(lengths) for x in qkv), strict=True)
    return torch.from_numpy(np.concatenate([reference.causal_attention(*(x.numpy() for x in part)) for part in parts]))


class Sequences:
    """Sequences that are fed to a paged cache chunk by chunk; every slot holds NaN until it is written to."""

    def __init__(self, lengths, *, block_size, block_order, config, garbage=float("nan"), head_dim_multiple=1):
        self.lengths = lengths
        num_blocks = [-(-length // block_size) for length in lengths]
        self.cache = KVCache(
            config,
            num_blocks=sum(num_blocks) + 1,
            block_size=block_size,
            dtype=torch.float64,
            head_dim_multiple=head_dim_multiple,
        )
        for store in (self.cache.keys, self.cache.values):
            store[..., : config.head_dim] = garbage
        starts = [0, *accumulate(num_blocks)]
        self.tables = [
            BlockTable(block_size, block_order[start : start + count])
            for start, count in zip(starts, num_blocks, strict=False)
        ]
        self.done = [0] * len(lengths)
        self.tokens = torch.arange(sum(lengths)).split(lengths)

    def feed(self, chunks, qkv, layer=0):
        """Give sequences their next tokens: `chunks` are (sequence, count); return which tokens, and what came out."""
        taken = []
        for sequence, count in chunks:
            taken.append(self.tokens[sequence][self.done[sequence] : self.done[sequence] + count])
            self.done[sequence] += count
        context = PagedContext(
            cache=self.cache,
            query_lengths=[count for _, count in chunks],
            context_lengths=[self.done[sequence] for sequence, _ in chunks],
            block_tables=[self.tables[sequence] for sequence, _ in chunks],
        )
        tokens = torch.cat(taken)
        return tokens, context.attend(layer, *(x[tokens] for x in qkv))


@st.composite
def schedules(draw):
    """Lengths of sequences, blocks in any order, and batches of (sequence, count) until all tokens are in."""
    lengths = draw(st.lists(st.integers(1, 13), min_size=1, max_size=4))
    block_size = draw(st.integers(1, 5))
    num_blocks = sum(-(-length // block_size) for length in lengths) + 1
    block_order = draw(st.permutations(range(num_blocks)))
    left = dict(enumerate(lengths))
    batches = []
    while left:
        members = draw(st.lists(st.sampled_from(sorted(left)), min_size=1, unique=True))
        decode_only = draw(st.booleans())
        batch = [(sequence, 1 if decode_only else draw(st.integers(1, left[sequence]))) for sequence in members]
        batches.append(batch)
        left = {key: count - dict(batch).get(key, 0) for key, count in left.items()}
        left = {key: count for key, count in left.items() if count}
    return lengths, block_size, block_order, batches


# Without a cache


@pytest.mark.parametrize("lengths", [[7], [1], [4, 4, 4], [3, 8, 1]], ids=str)
def test_packed_sequences_attend_to_themselves_alone(lengths):
    qkv = random_qkv(sum(lengths), DENSE)
    out = PackedContext(lengths).attend(0, *qkv)
    torch.testing.assert_close(out, expected_attention(lengths, qkv), **CLOSE)


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (4, 1), (1, 1), (6, 3)])
def test_query_heads_share_key_and_value_heads_in_groups(heads, kv_heads):
    qkv = random_qkv(9, config_of(heads=heads, kv_heads=kv_heads))
    out = PackedContext([9]).attend(0, *qkv)
    torch.testing.assert_close(out, expected_attention([9], qkv), **CLOSE)


def test_float32_is_within_1e_6_of_the_reference():
    qkv = random_qkv(40, config_of(head_dim=60))
    out = PackedContext([40]).attend(0, *(x.float() for x in qkv))
    torch.testing.assert_close(out.double(), expected_attention([40], qkv), rtol=0, atol=1e-6)


# With a paged cache


@settings(max_examples=60, deadline=None)
@given(schedule=schedules(), head_dim_multiple=st.sampled_from([1, 8]))
def test_any_schedule_over_a_paged_cache_equals_whole_sequences(schedule, head_dim_multiple):
    # Slots that hold NaN (not yet written, past the end, of a padding block) never show.
    lengths, block_size, block_order, batches = schedule
    qkv = random_qkv(sum(lengths), DENSE)
    sequences = Sequences(
        lengths, block_size=block_size, block_order=block_order, config=DENSE, head_dim_multiple=head_dim_multiple
    )
    out = torch.full_like(qkv[0], float("nan"))
    for batch in batches:
        tokens, attended = sequences.feed(batch, qkv)
        out[tokens] = attended
    torch.testing.assert_close(out, PackedContext(lengths).attend(0, *qkv), **CLOSE)


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), -float("inf"), 1e300])
def test_what_lies_in_unused_slots_changes_no_bit_of_a_decode(garbage):
    lengths, order = [3, 9], [2, 0, 4, 1, 3]
    qkv = random_qkv(sum(lengths), DENSE)

    def last_step(garbage):
        sequences = Sequences(lengths, block_size=4, block_order=order, config=DENSE, garbage=garbage)
        sequences.feed([(0, 2), (1, 8)], qkv)
        return sequences.feed([(0, 1), (1, 1)], qkv)[1]

    assert last_step(garbage).tolist() == last_step(0.0).tolist()


@pytest.mark.parametrize("garbage", [float("nan"), 0.0])
def test_one_call_for_all_sequences_gives_what_a_call_for_each_gives(garbage):
    # What a GPU takes and the CPU does not.
    lengths, order = [3, 9, 5], [2, 0, 4, 1, 6, 3, 5]
    qkv = random_qkv(sum(lengths), DENSE)
    sequences = Sequences(lengths, block_size=4, block_order=order, config=DENSE, garbage=garbage)
    sequences.feed([(0, 2), (1, 8), (2, 4)], qkv)
    tokens, out = sequences.feed([(0, 1), (1, 1), (2, 1)], qkv)
    context = PagedContext(
        cache=sequences.cache, query_lengths=[1] * 3, context_lengths=lengths, block_tables=sequences.tables
    )
    torch.testing.assert_close(context._attend_together(0, qkv[0][tokens]), out, **CLOSE)


def test_chunks_beside_single_tokens_attend_as_they_do_by_themselves():
    # What a GPU takes and the CPU does not.
    lengths, order = [3, 9, 5, 6], [2, 0, 4, 1, 6, 3, 5, 7]
    qkv = random_qkv(sum(lengths), DENSE)
    sequences = Sequences(lengths, block_size=4, block_order=order, config=DENSE)
    sequences.feed([(0, 2), (1, 4), (2, 4)], qkv)
    chunks = [(0, 1), (1, 5), (2, 1), (3, 6)]
    tokens, out = sequences.feed(chunks, qkv)
    context = PagedContext(
        cache=sequences.cache,
        query_lengths=[count for _, count in chunks],
        context_lengths=lengths,
        block_tables=sequences.tables,
    )
    torch.testing.assert_close(context._attend_together(0, qkv[0][tokens]), out, **CLOSE)


def test_keys_and_values_in_one_piece_are_read_in_place():
    cache = KVCache(DENSE, num_blocks=6, block_size=4)
    ((keys, _),) = cache.read(1, BlockTable(4, [2, 3, 4]).spans(10))
    assert (keys.data_ptr(), keys.shape[2]) == (cache.keys[1, 0, 2].data_ptr(), 10)


@given(blocks=st.lists(st.integers(0, 30), unique=True, min_size=1), block_size=st.integers(1, 5), data=st.data())
def test_spans_of_a_block_table_are_the_slots_of_its_positions(blocks, block_size, data):
    table = BlockTable(block_size, blocks)
    length = data.draw(st.integers(0, len(blocks) * block_size))
    assert table.slots(0, length) == [slot for span in table.spans(length) for slot in span]


def test_garbage_past_the_contexts_stays_in_the_cache():
    sequences = Sequences([1, 1], block_size=4, block_order=[0, 1, 2], config=DENSE)
    sequences.feed([(0, 1), (1, 1)], random_qkv(2, DENSE))
    assert sequences.cache.keys[0, :, 0, 1:].isnan().all()


@pytest.mark.parametrize("head_dim", [60, 100])
def test_a_padded_store_gives_what_the_plain_one_gives(head_dim):
    config = config_of(head_dim=head_dim)
    lengths = [11, 3]
    qkv = random_qkv(sum(lengths), config)
    sequences = Sequences(lengths, block_size=4, block_order=[4, 2, 0, 1, 3], config=config, head_dim_multiple=8)
    first, prefilled = sequences.feed([(0, 10), (1, 2)], qkv)
    second, decoded = sequences.feed([(0, 1), (1, 1)], qkv)
    out = torch.cat((prefilled, decoded))[torch.cat((first, second)).argsort()]
    torch.testing.assert_close(out, expected_attention(lengths, qkv), **CLOSE)


@pytest.mark.parametrize(("head_dim", "multiple", "stored"), [(60, 8, 64), (100, 8, 104), (64, 8, 64), (6, 1, 6)])
def test_the_store_is_padded_to_a_multiple(head_dim, multiple, stored):
    cache = KVCache(config_of(head_dim=head_dim), num_blocks=3, block_size=5, head_dim_multiple=multiple)
    assert tuple(cache.keys.shape) == tuple(cache.values.shape) == (2, 2, 3, 5, stored)


def test_layers_keep_their_keys_and_values_apart():
    sequences = Sequences([6], block_size=4, block_order=[1, 0, 2], config=DENSE)
    first, second = random_qkv(6, DENSE, seed=1), random_qkv(6, DENSE, seed=2)
    sequences.feed([(0, 5)], first, layer=0)
    sequences.done = [0]
    sequences.feed([(0, 5)], second, layer=1)
    out = sequences.feed([(0, 1)], second, layer=1)[1]
    torch.testing.assert_close(out, expected_attention([6], second)[5:], **CLOSE)


def test_a_cache_in_a_narrower_dtype_serves_queries_in_a_wider_one():
    cache = KVCache(DENSE, num_blocks=2, block_size=4, dtype=torch.bfloat16)
    qkv = random_qkv(5, DENSE, dtype=torch.float32)
    context = PagedContext(
        cache=cache,
        query_lengths=[5],
        context_lengths=[5],
        block_tables=[BlockTable(4, [0, 1])],
    )
    rounded = [qkv[0], *(x.bfloat16().float() for x in qkv[1:])]
    assert context.attend(0, *qkv).tolist() == PackedContext([5]).attend(0, *rounded).tolist()


def test_query_starts_are_where_sequences_begin():
    context = PagedContext(
        cache=KVCache(DENSE, num_blocks=1, block_size=8),
        query_lengths=[3, 1, 4],
        context_lengths=[3, 1, 4],
        block_tables=[BlockTable(8, [0])] * 3,
    )
    assert context.query_starts == [0, 3, 4, 8]
