"""Blocks of keys and values: holders, prefixes, runs."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from models.kv_cache import BlockTable
from server.engine.blocks import BlockPool, PrefixKey, extend_digests

BLOCK = 4
ROOT = PrefixKey(model="m").digest()


def digests_of(ids, root=ROOT):
    found = []
    extend_digests(found, root, ids, BLOCK)
    return found


def num_runs(blocks):
    return len(BlockTable(BLOCK, blocks).spans(len(blocks) * BLOCK))


def test_blocks_allocated_together_lie_side_by_side():
    assert num_runs(BlockPool(50).allocate(12)) == 1


def test_sequences_that_grow_in_turns_stay_in_one_piece():
    pool = BlockPool(64)
    tables = [pool.allocate(2, room=3) for _ in range(4)]
    for room in (2, 1, 0):
        for table in tables:
            table.extend(pool.allocate(1, after=table[-1], room=room))
    assert [num_runs(table) for table in tables] == [1, 1, 1, 1]


def test_a_full_pool_of_cached_blocks_still_gives_runs():
    pool = BlockPool(128)
    for number in range(8):
        ids = list(range(number * 100, number * 100 + 16 * BLOCK))
        blocks = pool.allocate(16)
        for block, digest in zip(blocks, digests_of(ids), strict=True):
            pool.publish(block, digest)
        pool.release(blocks)
    assert num_runs(pool.allocate(8)) == 1


def test_sequences_that_come_and_go_stay_in_one_piece_however_long():
    pool, tables, pieces = BlockPool(160), [], []
    for number in range(400):
        if len(tables) == 8:
            table = tables.pop(0)
            pieces.append(num_runs(table))
            for block in table:
                pool.publish(block, b"%d %d" % (number, block))
            pool.release(reversed(table))
        tables.append(pool.allocate(8, room=4))
        for each in tables:
            if len(each) < 12:
                each.extend(pool.allocate(1, after=each[-1], room=12 - len(each) - 1))
    assert 1.1 > sum(pieces) / len(pieces)


def test_sequences_of_equal_room_stay_in_one_piece_where_they_fill_the_pool():
    pool, pieces = BlockPool(8 * 12), []
    for number in range(4):
        tables = [pool.allocate(8, room=4) for _ in range(8)]
        for room in (3, 2, 1, 0):
            for table in tables:
                table.extend(pool.allocate(1, after=table[-1], room=room))
        for place, table in enumerate(tables):
            pieces.append(num_runs(table))
            for block in table[:-1]:  # the last is not full
                pool.publish(block, b"%d %d %d" % (number, place, block))
        for table in tables:
            pool.release(reversed(table))
    assert [1] * 32 == pieces


def test_the_oldest_content_is_forgotten():
    pool = BlockPool(8)
    old, new = pool.allocate(4), pool.allocate(4)
    for block in old + new:
        pool.publish(block, b"%d" % block)
    pool.release(old)
    pool.release(new)
    pool.allocate(4)
    assert ([], new) == tuple(pool.match(b"%d" % block for block in blocks) for blocks in (old, new))


def test_growing_does_not_forget_what_was_used_lately():
    pool = BlockPool(16)
    running, others, lately = pool.allocate(4), pool.allocate(8), pool.allocate(4)
    assert [*range(16)] == running + others + lately
    for block in others + lately:
        pool.publish(block, b"%d" % block)
    pool.release(lately)
    pool.release(reversed(others))  # the first of them, behind the running one, is now the one that was used last
    (grown,) = pool.allocate(1, after=running[-1])
    assert lately[0] == grown


def test_digests_depend_on_every_token_before_them():
    first, second = digests_of([1, 2, 3, 4, 5, 6, 7, 8, 9]), digests_of([0, 2, 3, 4, 5, 6, 7, 8, 9])
    assert len({*first, *second}) == 4


def test_digests_grow_with_the_sequence():
    found = []
    for length in range(20):
        extend_digests(found, ROOT, list(range(length)), BLOCK)
        assert digests_of(list(range(length))) == found


def test_keys_that_differ_in_any_field_share_nothing():
    keys = [
        PrefixKey(model="m"),
        PrefixKey(model="n"),
        PrefixKey(model="m", overlay="o"),
        PrefixKey(model="m", alpha=(0.5,)),
        PrefixKey(model="m", left_out_layers=(5,)),
        PrefixKey(model="m", salt="s"),
    ]
    assert len({key.digest() for key in keys}) == len(keys)


class Pool(RuleBasedStateMachine):
    """A pool beside sequences in plain lists: tokens and the blocks that hold them."""

    def __init__(self):
        super().__init__()
        self.pool = BlockPool(12)
        self.content = {}  # block -> the prefix that it ends, where it was published
        self.sequences = []

    @rule(ids=st.lists(st.integers(0, 1), max_size=30))
    def start(self, ids):
        digests = digests_of(ids)
        cached = self.pool.match(digests)
        for index, block in enumerate(cached):
            assert self.content[block] == ids[: (index + 1) * BLOCK]
        needed = -(-len(ids) // BLOCK) - len(cached)
        if needed > self.pool.num_free - self.pool.num_unheld(cached):
            return
        self.pool.hold(cached)
        new = self.pool.allocate(needed, after=cached[-1] if cached else None)
        assert len(set(new)) == needed
        assert not set(new) & {block for blocks in self.sequences for block in blocks}
        for block in new:
            self.content.pop(block, None)
        blocks = cached + new
        for index, digest in enumerate(digests):
            self.pool.publish(blocks[index], digest)
            self.content.setdefault(blocks[index], ids[: (index + 1) * BLOCK])
        self.sequences.append(blocks)

    @precondition(lambda self: self.sequences)
    @rule(data=st.data())
    def end(self, data):
        index = data.draw(st.integers(0, len(self.sequences) - 1))
        self.pool.release(reversed(self.sequences.pop(index)))

    @invariant()
    def holds(self):
        self.pool.check_integrity()
        assert self.pool.num_held == len({block for blocks in self.sequences for block in blocks})


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
