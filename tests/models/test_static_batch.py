"""Steps over tensors that stay where they are, beside the same steps over tensors of their own."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.attention import PagedContext
from models.computed_rows import ComputedRows
from models.kv_cache import BlockTable, KVCache
from models.static_batch import StaticBatch
from tests.models.tiny_models import MEMORY, random_ids, random_model

BLOCK = 4
LANES = 4
MODEL = random_model(dtype=torch.float64)
IDS = random_ids(200)


def new_cache():
    cache = KVCache(MEMORY, num_blocks=30, block_size=BLOCK, has_scratch=True, dtype=torch.float64)
    cache.keys.fill_(float("nan"))
    cache.values.fill_(float("nan"))
    return cache


@settings(max_examples=30, deadline=None)
@given(steps=st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=LANES, unique=True), min_size=1, max_size=12))
def test_any_lanes_give_what_a_batch_of_its_own_gives(steps):
    caches = new_cache(), new_cache()
    batch = StaticBatch(caches[1], num_lanes=LANES, num_blocks=4)
    tables = [BlockTable(BLOCK) for _ in range(6)]
    free, done = list(range(30)), [0] * 6
    for members in steps:
        for member in members:
            if done[member] == len(tables[member]) * BLOCK:
                tables[member].extend([free.pop((7 * member) % len(free))])
        ids = [int(IDS[20 * member + done[member]]) for member in members]
        positions, held = [done[member] for member in members], [tables[member] for member in members]
        batch.fill(ids, positions, held)
        lengths = [position + 1 for position in positions]
        own = PagedContext(cache=caches[0], query_lengths=[1] * len(ids), context_lengths=lengths, block_tables=held)
        ids_N, positions_N = torch.tensor([ids, positions])
        with torch.inference_mode():
            expected = MODEL(ids_N, positions_N, own, ComputedRows(MODEL).fetch(ids_N))
            rows = ComputedRows(MODEL).fetch(batch.ids_S)
            actual = MODEL(batch.ids_S, batch.positions_S, batch.context, rows)[: len(ids)]
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-9)
        for member in members:
            done[member] += 1
    used = torch.tensor([block for table in tables for block in table.blocks])
    assert torch.equal(caches[0].keys[:, :, used].isnan(), caches[1].keys[:, :, used].isnan())


def test_resting_lanes_write_to_the_scratch_block_alone():
    cache = new_cache()
    batch = StaticBatch(cache, num_lanes=3, num_blocks=2)
    batch.fill([5], [0], [BlockTable(BLOCK, [7])], None)
    assert [7 * BLOCK, 30 * BLOCK, 30 * BLOCK] == batch.context.slot_mapping_S.tolist()
    assert [1, 1, 1] == batch.context.lengths_S.tolist()


def test_a_sequence_that_began_again_has_its_new_blocks():
    batch = StaticBatch(new_cache(), num_lanes=1, num_blocks=4)
    table = BlockTable(BLOCK, [3, 9])
    batch.fill([5], [6], [table])
    table.clear()
    table.extend([8, 2])
    batch.fill([5], [6], [table])
    assert [8, 2] == batch.context.blocks_SB[0, :2].tolist()
    assert [2 * BLOCK + 2] == batch.context.slot_mapping_S.tolist()


def test_a_block_more_is_read_by_the_next_step():
    batch = StaticBatch(new_cache(), num_lanes=1, num_blocks=4)
    table = BlockTable(BLOCK, [3])
    batch.fill([5], [3], [table])
    table.extend([11])
    batch.fill([5], [4], [table])
    assert [3, 11] == batch.context.blocks_SB[0, :2].tolist()
