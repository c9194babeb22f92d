"""Chunks of several sequences in one call: how they are packed, beside sequences that attend one by one.

The kernel needs a GPU; elsewhere plain operations take its place.
"""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.attention import PagedContext
from models.kv_cache import BlockTable, KVCache
from models.varlen_attention import attend_chunks, attend_packed, is_right, kernel_for, pack_chunks, varlen_kernel
from tests.models.tiny_models import DENSE

CPU = torch.device("cpu")
LAYER = 1


class Chunks:
    """New tokens of sequences, the earlier positions of which are in a cache; NaN in every slot that is nobody's."""

    def __init__(self, chunks, *, block_size=4, head_dim=6, multiple=8, dtype=torch.float64, device=CPU):
        """chunks: (new tokens, all positions) of each sequence."""
        self.queries, self.contexts = (list(lengths) for lengths in zip(*chunks, strict=True))
        generator = torch.Generator().manual_seed(sum(self.contexts))
        config = dataclasses.replace(DENSE, hidden_size=4 * head_dim)
        num_blocks = [-(-context // block_size) for context in self.contexts]
        order = iter(torch.randperm(sum(num_blocks) + 1, generator=generator).tolist())
        self.tables = [BlockTable(block_size, [next(order) for _ in range(count)]) for count in num_blocks]
        self.cache = KVCache(
            config,
            num_blocks=sum(num_blocks) + 1,
            block_size=block_size,
            head_dim_multiple=multiple,
            dtype=dtype,
            device=device,
        )
        self.config, self.dtype, self.device, self._generator = config, dtype, device, generator
        for store in (self.cache.keys, self.cache.values):
            store[..., :head_dim] = float("nan")
        for table, queries, context in zip(self.tables, self.queries, self.contexts, strict=True):
            slots = torch.tensor(table.slots(0, context - queries), dtype=torch.int64, device=device)
            self.cache.write(LAYER, slots, *(self.random(context - queries, 2) for _ in range(2)))

    def random(self, length, heads):
        values = torch.randn(length, heads, self.config.head_dim, generator=self._generator)
        return values.to(self.device, self.dtype)

    def apart(self):
        """What sequences get one by one; their queries are kept."""
        context = PagedContext(
            cache=self.cache,
            query_lengths=self.queries,
            context_lengths=self.contexts,
            block_tables=self.tables,
        )
        self.q_NHD, k_NGD, v_NGD = (self.random(sum(self.queries), heads) for heads in (4, 2, 2))
        self.cache.write(LAYER, context.slot_mapping, k_NGD, v_NGD)
        return context._attend_apart(LAYER, self.q_NHD)

    def packed(self, **options):
        return pack_chunks(self.queries, self.contexts, self.tables, device=self.device, **options)


@settings(max_examples=60, deadline=None)
@given(
    chunks=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 30)), min_size=1, max_size=5),
    block_size=st.integers(1, 8),
    most_gathered=st.sampled_from([1, 20, 1000]),
)
def test_chunks_together_get_what_sequences_get_one_by_one(chunks, block_size, most_gathered):
    batch = Chunks([(new, new + before) for new, before in chunks], block_size=block_size)
    expected = batch.apart()
    packed = batch.packed(most_gathered=most_gathered)
    actual = attend_chunks(batch.cache, LAYER, batch.q_NHD, packed, attend_packed)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def test_as_many_contexts_are_gathered_at_once_as_there_is_room_for():
    packed = Chunks([(2, 10), (3, 3), (1, 8), (4, 40)]).packed(most_gathered=21)
    assert [slice(0, 6), slice(6, 10)] == [chunks.tokens for chunks in packed]
    assert [[0, 2, 5, 6], [0, 4]] == [chunks.query_starts.tolist() for chunks in packed]
    assert [[0, 10, 13, 21], [0, 40]] == [chunks.context_starts.tolist() for chunks in packed]
    assert [(3, 10), (4, 40)] == [(chunks.most_tokens, chunks.most_positions) for chunks in packed]


def test_blocks_behind_a_context_are_not_gathered():
    (chunks,) = pack_chunks([2], [5], [BlockTable(4, [7, 3, 9])], device=CPU)
    assert [28, 29, 30, 31, 12] == chunks.slots_C.tolist()


def at_the_beginning(q_NHD, k_CGD, v_CGD, chunks, scale):
    """A causal mask whose first query is at the first position, as some kernels have it."""
    lengths = zip(chunks.query_starts.diff().tolist(), chunks.context_starts.diff().tolist(), strict=True)
    cut = torch.cat([torch.arange(context) < queries for queries, context in lengths])
    starts = dataclasses.replace(chunks, context_starts=chunks.query_starts)
    return attend_packed(q_NHD, k_CGD[cut], v_CGD[cut], starts, scale)


def not_here(*_):
    raise NotImplementedError


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_kernel_is_taken_that_gives_what_plain_operations_give(dtype):
    assert is_right(attend_packed, CPU, dtype, (4, 2, 64))


@pytest.mark.parametrize("kernel", [at_the_beginning, not_here])
def test_a_kernel_is_not_taken_that_does_not(kernel):
    assert not is_right(kernel, CPU, torch.bfloat16, (4, 2, 64))


def test_there_is_no_kernel_on_a_cpu():
    assert kernel_for(torch.zeros(3, 4, 8), Chunks([(1, 1)], dtype=torch.float32).cache) is None


@torch.inference_mode()
def test_pytorchs_kernel_takes_what_it_is_given():
    kernel = varlen_kernel()
    assert kernel is not None
    (chunks,) = pack_chunks([5, 3], [5, 70], [BlockTable(16, [0]), BlockTable(16, range(1, 6))], device=CPU)
    chunks = dataclasses.replace(
        chunks, query_starts=chunks.query_starts.to("meta"), context_starts=chunks.context_starts.to("meta")
    )
    q_NHD, k_CGD, v_CGD = (
        torch.empty(*shape, device="meta", dtype=torch.bfloat16) for shape in ((8, 4, 64), (75, 2, 64), (75, 2, 64))
    )
    assert (8, 4, 64) == kernel(q_NHD, k_CGD, v_CGD, chunks, 0.125).shape


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("head_dim", [60, 64])
@torch.inference_mode()
def test_the_kernel_gives_what_sequences_get_one_by_one(dtype, head_dim):
    chunks = [(200, 200), (3, 3), (17, 600), (1, 40), (128, 131)]
    batch = Chunks(chunks, block_size=16, head_dim=head_dim, dtype=dtype, device=torch.device("cuda"))
    expected, kernel = batch.apart(), kernel_for(batch.q_NHD, batch.cache)
    assert kernel is not None
    for packed in (batch.packed(), batch.packed(most_gathered=300)):
        actual = attend_chunks(batch.cache, LAYER, batch.q_NHD, packed, kernel)
        torch.testing.assert_close(actual, expected, rtol=0.02, atol=0.02)
