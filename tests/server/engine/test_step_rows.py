"""Rows of steps: what is at hand runs, what is late is leased, what is short is queued for."""

import math

import pytest

from server.engine.sequence import RequestState, Sequence
from server.engine.step_rows import StepRows
from tests.server.engine.fake_model import BLOCK, request
from tests.server.engine.fake_rows import FakeMemory


def sequence(*ids, num_computed=0):
    state = RequestState(request("a", ids), arrival=0, root=b"")
    made = Sequence(state, 0, block_size=BLOCK)
    made.num_computed = num_computed
    return made


def step_rows(num_slots=24, *, delay=0.0, is_warm=False, defer_after=0.0, most_tokens=8):
    memory = FakeMemory(num_slots, delay=delay)
    if is_warm:
        memory.warm()
    return StepRows(memory, defer_after=defer_after, most_tokens=most_tokens, row_timeout=5.0, clock=memory.clock)


def test_rows_at_hand_are_for_the_common_lease():
    rows = step_rows(is_warm=True)
    chunk = rows.chunk(sequence(1, 2, 3, 2), 4, 24)
    assert (4, None) == (chunk.length, chunk.lease)


@pytest.mark.parametrize(("num_rows", "length"), [(1, 2), (2, 4), (3, 6)])
def test_a_chunk_has_no_more_different_rows_than_there_is_room_for(num_rows, length):
    rows = step_rows(is_warm=True)
    assert length == rows.chunk(sequence(1, 1, 2, 1, 3, 1), 6, num_rows).length


def test_rows_that_are_there_run_without_those_that_are_not():
    rows = step_rows(8, is_warm=True, delay=math.inf)
    late = sequence(1, 2, 20, 3)
    assert (2, None) == (rows.chunk(late, 4, 8).length, late.lease)


def test_a_sequence_sits_out_for_its_first_row_and_keeps_a_lease_on_it():
    rows = step_rows(delay=math.inf)
    late = sequence(20, 1, 2)
    assert rows.chunk(late, 3, 24) is None
    assert [20, 1, 2] == late.lease.keys.tolist()


def test_a_lease_that_is_kept_takes_a_part_of_the_slots_only():
    rows = step_rows(8, delay=math.inf)
    late = sequence(*range(8))
    rows.chunk(late, 8, 8)
    assert 2 == len(late.lease)


def test_where_no_row_is_left_a_sequence_queues_for_one():
    rows = step_rows(8, is_warm=True)
    short = sequence(1, 2, 3)
    chunk = rows.chunk(short, 3, 0)
    assert (1, short.lease) == (chunk.length, chunk.lease)
    assert [1] == short.lease.keys.tolist()


def test_a_late_row_is_waited_for_once():
    rows = step_rows(delay=math.inf, defer_after=math.inf)
    late = sequence(20)
    rows.ask([late])
    chunk = rows.chunk(late, 1, 23)
    before = rows.memory.clock()
    assert [] == rows.hold([chunk]).chunks
    assert 1.0 == rows.memory.clock() - before
    rows.wait(0.02)
    assert rows.chunk(late, 1, 23) is None


def test_where_others_wait_for_room_everyone_queues_up():
    rows = step_rows(4, is_warm=True, delay=math.inf)
    leases = [rows.memory.lease(sequence(*ids).pending(3)) for ids in [(10, 11, 12), (13, 14, 15)]]
    ready, late = sequence(1), sequence(2)
    step = rows.hold([rows.chunk(each, 1, 2) for each in (ready, late)])
    assert [] == step.chunks
    assert [[1], [2]] == [each.lease.keys.tolist() for each in (ready, late)]
    rows.memory.storage.let_go()
    for lease in leases:
        rows.memory.release(lease)
        rows.memory.poll()
    rows.memory.poll()
    assert [True, True] == [each.lease.is_ready for each in (ready, late)]


def test_what_a_step_held_is_given_back_after_it():
    rows = step_rows()
    late, there = sequence(20), sequence(1)
    rows.ask([late])
    rows.memory.release(rows.memory.lease(there.pending(1)))
    rows.memory.poll()
    step = rows.hold([rows.chunk(each, 1, 20) for each in (late, there)])
    assert [late, there] == [chunk.sequence for chunk in step.chunks]
    assert 2 == rows.memory.stats().device_leased_rows
    rows.finish(step, 0.5)
    assert 0 == rows.memory.stats().device_leased_rows
    assert late.lease is None


def test_a_sequence_that_waits_too_long_is_given_up():
    rows = step_rows(delay=math.inf)
    late = sequence(20)
    rows.ask([late])
    rows.wait(0.02)
    assert [] == rows.failures()
    rows.memory.clock.now += 5.0
    ((failed, error),) = rows.failures()
    assert (late, "a row did not arrive within 5 s; the storage answers too slowly") == (failed, str(error))


def test_time_out_of_the_step_counts_as_the_sequences_own():
    rows = step_rows(delay=0.03)
    late = sequence(20)
    rows.ask([late])
    rows.wait(0.02)
    rows.wait(0.02)
    step = rows.hold([rows.chunk(late, 1, 23)])
    rows.note_deferred(step)
    assert 0.03 == pytest.approx(late.state.stall_seconds)
    assert 0.03 == pytest.approx(rows.stall_seconds)
