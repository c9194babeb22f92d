"""What the engine counts, and when."""

import math

import pytest

from paging.storage.faulty import FaultPlan
from server.engine.messages import BATCH_SIZES
from tests.server.engine.fake_model import STEP_SECONDS, make_engine, request, run_all
from tests.server.engine.fake_rows import FakeMemory
from tests.server.engine.real_engine import started


def rows_of(stats):
    return stats.row_device_hits, stats.row_host_hits, stats.row_major_faults


def num_positions(engine):
    return sum(length for step in engine.runner.steps for *_, length in step)


def test_a_position_is_counted_when_its_step_has_run():
    engine = make_engine(FakeMemory(5, delay=math.inf))
    engine.add(request("a", [1, 2, 1], max_tokens=1))
    while not engine.memory.storage.under_way:
        engine.step()
    assert (0, 0, 0) == rows_of(engine.stats())
    engine.memory.storage.let_go()
    run_all(engine)
    assert (1, 0, 2) == rows_of(engine.stats())


def test_a_step_that_broke_is_not_counted():
    engine = make_engine(FakeMemory(24).warm())
    engine.runner.error = RuntimeError("a wheel came off")
    engine.add(request("a", [1, 2, 3], max_tokens=1))
    with pytest.raises(RuntimeError, match="wheel"):
        engine.step()
    assert (0, 0, 0) == rows_of(engine.stats())


def test_at_every_moment_hits_and_faults_are_the_positions_that_were_computed():
    engine = make_engine(FakeMemory(7, host_slots=9, delay=lambda row: 0.003 * (row % 3)))
    for number in range(8):
        engine.add(request(f"r{number}", [number + 1, 2 * number + 1, 3], max_tokens=6, n=2))
    while engine.has_work:
        engine.step()
        assert num_positions(engine) == sum(rows_of(engine.stats()))
    assert all(rows_of(engine.stats()))


def test_choices_that_were_aborted_do_not_make_rows_uncounted():
    engine = make_engine(FakeMemory(24))
    engine.add(request("a", [1, 2, 3], max_tokens=9))
    while not engine.runner.steps:
        engine.step()
    engine.abort("a")
    assert 3 == sum(rows_of(engine.stats()))


@pytest.mark.parametrize("options", [{}, {"tol_device_rows": 9, "tol_host_bytes": 60_000}])
def test_requests_have_together_what_the_engine_counts(small_model, options):
    with started(small_model, plan=FaultPlan(latency=(0.0, 0.002)), max_num_seqs=8, **options) as engine:
        asked = [request(f"r{number}", [number % 4 + 1] * 9 + [number], max_tokens=8, n=2) for number in range(12)]
        uses = [message.memory for message in run_all(engine, *asked).finished.values()]
        found = rows_of(engine.stats())
    names = ("device_hits", "host_hits", "major_faults")
    assert found == tuple(sum(getattr(use, name) for use in uses) for name in names)


@pytest.mark.parametrize("memory", ["resident", "mapped", "computed"])
def test_where_nothing_is_paged_no_rows_are_counted(small_model, memory):
    with started(small_model, memory=memory) as engine:
        run_all(engine, request("a", [1, 2, 3], max_tokens=3))
        assert ((0, 0, 0), 3) == (rows_of(engine.stats()), engine.stats().steps)


def test_steps_are_counted_by_the_number_of_their_sequences():
    engine = make_engine(FakeMemory(24).warm(), max_num_seqs=4)
    run_all(engine, *(request(name, [1], max_tokens=2) for name in "abc"))
    stats = engine.stats()
    assert ([0, 0, 2], 6) == ([*stats.batch_sizes[:3]], stats.batch_sizes_sum)
    assert len(BATCH_SIZES) + 1 == len(stats.batch_sizes)
    assert stats.steps == sum(stats.batch_sizes)


def test_a_sequence_that_begins_looks_its_tokens_up():
    engine = make_engine(FakeMemory(24).warm())
    for _ in range(2):
        run_all(engine, request("a", list(range(1, 11)), max_tokens=1))
    stats = engine.stats()
    assert (20, 8) == (stats.prefix_cache_queries, stats.prefix_cache_hits)


def test_times_of_queue_and_prompt_are_told_with_the_first_output():
    engine = make_engine(FakeMemory(24).warm(), max_num_seqs=1, max_num_batched_tokens=4)
    outcomes = run_all(engine, request("a", [1, 2], max_tokens=3), request("b", list(range(1, 9)), max_tokens=2))
    first, second = (outcomes.first[name].timing for name in "ab")
    assert (0.0, pytest.approx(STEP_SECONDS)) == (first.queue_seconds, first.prefill_seconds)
    assert (3 * STEP_SECONDS, 2 * STEP_SECONDS) == pytest.approx((second.queue_seconds, second.prefill_seconds))
    assert outcomes.finished["a"].timing is None


def test_waiting_for_rows_is_part_of_the_prompts_time():
    engine = make_engine(FakeMemory(24, delay=0.01), max_num_seqs=1)
    timing = run_all(engine, request("a", [1], max_tokens=1)).first["a"].timing
    assert (0.0, 0.01 + STEP_SECONDS) == pytest.approx((timing.queue_seconds, timing.prefill_seconds))


def test_what_is_set_aside_on_the_device_is_told(small_model):
    with started(small_model, tol_device_rows=40) as engine:
        info, memory, model = engine.info, engine.stats().memory, engine.runner.model
    assert memory["device_bytes"] == info.device_memory["tol_cache"]
    second_head = 0 if model.head is model.head_weight else model.head_weight.nbytes
    assert 4 * info.num_parameters + second_head == info.device_memory["weights"]
    assert 0 < info.device_memory["kv_cache"]


@pytest.mark.parametrize(("memory", "expected"), [("resident", 96), ("mapped", 0), ("computed", 0)])
def test_a_table_in_memory_is_on_the_device(small_model, memory, expected):
    with started(small_model, memory=memory) as engine:
        found = engine.info.device_memory["tol_cache"]
        assert expected == found // engine.info.table.get("row_bytes", 1)
