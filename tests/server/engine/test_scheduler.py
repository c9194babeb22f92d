"""Who runs when: lanes, budgets, priorities, blocks, siblings, rows that are late."""

import math
from unittest import mock

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paging.errors import RowReadError
from server.engine.errors import QueueFullError, RequestError
from server.engine.messages import FinishReason, Tier
from server.engine.scheduler import Scheduler
from tests.server.engine.fake_model import BLOCK, STEP_SECONDS, Outcomes, make_engine, reference, request, run_all
from tests.server.engine.fake_rows import FakeMemory

NEVER = math.inf


def steps(engine, num, outcomes=None):
    outcomes = outcomes or Outcomes()
    for _ in range(num):
        outcomes.take(engine.step())
        engine.check_integrity()
    return outcomes


def names_of(step):
    return [name for name, *_ in step]


def slow_rows(*rows, seconds=NEVER):
    return lambda row: seconds if row in rows else 0.0


def test_prompts_longer_than_a_step_go_through_in_chunks():
    engine = make_engine(FakeMemory(24).warm(), max_num_batched_tokens=8)
    run_all(engine, request("a", list(range(1, 20)), max_tokens=1))
    assert [(0, 8), (8, 8), (16, 3)] == [(start, length) for ((_, _, start, length),) in engine.runner.steps]


def test_chunks_need_no_more_rows_than_there_are_slots():
    engine = make_engine(FakeMemory(5), max_num_batched_tokens=16)
    run_all(engine, request("a", list(range(1, 20)), max_tokens=1))
    assert 5 >= max(length for ((_, _, _, length),) in engine.runner.steps)


def test_a_long_prompt_leaves_those_that_decode_a_token_each():
    engine = make_engine(FakeMemory(24).warm(), max_num_batched_tokens=8)
    for name in "ab":
        engine.add(request(name, [1], max_tokens=20))
    steps(engine, 3)
    engine.add(request("long", list(range(1, 20)), max_tokens=1, priority=-1))
    steps(engine, 1)
    assert [("long", 6), ("a", 1), ("b", 1)] == [(name, length) for name, _, _, length in engine.runner.steps[-1]]


def test_two_prompts_and_a_decoding_sequence_stay_within_the_budget():
    engine = make_engine(FakeMemory(24), max_num_seqs=4, max_num_batched_tokens=4)
    engine.add(request("c", [1], max_tokens=20))
    steps(engine, 2)
    for name in "ab":
        engine.add(request(name, list(range(1, 10)), max_tokens=1, priority=-1))
    steps(engine, 1)  # the runner counts
    assert [("a", 3), ("c", 1)] == [(name, length) for name, _, _, length in engine.runner.steps[-1]]


def test_the_better_priority_begins_first():
    engine = make_engine(FakeMemory(24), max_num_seqs=1, max_num_batched_tokens=8)
    run_all(engine, *(request(name, [1, 2], max_tokens=2, priority=rank) for name, rank in [("a", 1), ("b", 0)]))
    assert ["b", "b", "a", "a"] == [name for step in engine.runner.steps for name in names_of(step)]


def test_equal_priorities_go_in_order_of_arrival():
    engine = make_engine(FakeMemory(24), max_num_seqs=1, max_num_batched_tokens=8)
    run_all(engine, *(request(name, [1, 2], max_tokens=1) for name in "bca"))
    assert [["b"], ["c"], ["a"]] == [names_of(step) for step in engine.runner.steps]


def test_a_better_priority_takes_the_lane_of_a_worse_one():
    engine = make_engine(FakeMemory(24), max_num_seqs=1, max_num_batched_tokens=8)
    engine.add(request("worse", [1], max_tokens=9))
    steps(engine, 3)
    engine.add(request("better", [2], max_tokens=2, priority=-1))
    steps(engine, 3)
    assert ["better", "better", "worse"] == [name for step in engine.runner.steps[3:] for name in names_of(step)]


def test_a_better_priority_takes_the_blocks_of_a_worse_one():
    engine = make_engine(FakeMemory(24), num_blocks=10)
    worse = request("worse", list(range(1, 20)), max_tokens=20)
    engine.add(worse)
    outcomes = steps(engine, 4)
    better = request("better", list(range(20, 1, -1)), max_tokens=15, priority=-1)
    engine.add(better)
    while engine.has_work:
        steps(engine, 1, outcomes)
    assert 1 <= engine.stats().preemptions
    assert ["better", "worse"] == list(outcomes.finished)
    assert [reference(each, 0)[0] for each in (worse, better)] == [
        outcomes.tokens[each.request_id, 0] for each in (worse, better)
    ]


def test_sequences_that_outgrow_the_blocks_begin_again_and_say_the_same():
    engine = make_engine(FakeMemory(24), num_blocks=10)
    asked = [request(name, [number + 1, 2, 3], max_tokens=30) for number, name in enumerate("abcd")]
    outcomes = run_all(engine, *asked)
    assert 1 <= engine.stats().preemptions
    assert [reference(each, 0)[0] for each in asked] == [outcomes.tokens[each.request_id, 0] for each in asked]


def test_the_scores_of_a_prompt_survive_its_preemption():
    engine = make_engine(FakeMemory(24), num_blocks=10, max_num_batched_tokens=6)
    engine.add(request("worse", list(range(1, 24)), max_tokens=2, prompt_logprobs=0, priority=1))
    steps(engine, 2)
    engine.add(request("better", list(range(23, 0, -1)), max_tokens=10))
    outcomes = Outcomes()
    while engine.has_work:
        steps(engine, 1, outcomes)
    assert 1 <= engine.stats().preemptions
    (scores,) = [first.prompt_logprobs for name, first in outcomes.first.items() if name == "worse"]
    assert [None, *range(2, 24)] == [position and position.actual.token_id for position in scores]


def test_one_context_of_blocks_is_enough_for_any_number_of_requests():
    engine = make_engine(FakeMemory(5), num_blocks=40 // BLOCK, max_num_batched_tokens=5)
    asked = [request(f"r{number}", [number + 1] * 20, max_tokens=None, n=2) for number in range(6)]
    outcomes = run_all(engine, *asked)
    assert {(each.request_id, choice) for each in asked for choice in range(2)} == outcomes.ends.keys()


def test_the_other_choices_find_the_prompt_of_the_first():
    engine = make_engine(FakeMemory(24).warm())
    run_all(engine, request("a", list(range(1, 14)), n=3, max_tokens=1))
    assert [[13], [1, 1]] == [[length for _, _, _, length in step] for step in engine.runner.steps]


def test_without_prefixes_shared_between_requests_choices_still_share():
    engine = make_engine(FakeMemory(24), shares_prefixes=False)
    outcomes = run_all(engine, *(request(name, list(range(1, 14)), n=2, max_tokens=1) for name in "ab"))
    assert [0, 0] == [first.num_cached_tokens for first in outcomes.first.values()]
    assert 2 * (13 + 1) == engine.stats().memory["device_hits"] + engine.stats().memory["major_faults"]


def test_choices_whose_first_is_aborted_have_another_first():
    engine = make_engine(FakeMemory(24, delay=slow_rows(9)))
    asked = request("a", [1, 2, 9], n=3, max_tokens=3)
    engine.add(asked)
    steps(engine, 3)
    engine.abort("a", 0)
    engine.memory.storage.let_go()
    outcomes = Outcomes()
    while engine.has_work:
        steps(engine, 1, outcomes)
    assert {("a", 1), ("a", 2)} == outcomes.ends.keys()
    assert reference(asked, 1)[0] == outcomes.tokens["a", 1]


def test_choices_fail_together_where_their_prompt_cannot_be_read():
    engine = make_engine(FakeMemory(24))
    engine.memory.storage.bad_rows.add(9)
    outcomes = run_all(engine, request("a", [1, 2, 9], n=3, max_tokens=3))
    assert dict.fromkeys([("a", 0), ("a", 1), ("a", 2)], FinishReason.ERROR) == outcomes.ends


def test_a_row_that_cannot_be_read_fails_only_those_that_need_it():
    engine = make_engine(FakeMemory(24))
    engine.memory.storage.bad_rows.add(9)
    good, bad = request("good", [1, 2, 3], max_tokens=1), request("bad", [1, 2, 9], max_tokens=1)
    outcomes = run_all(engine, good, bad)
    assert {("good", 0): FinishReason.LENGTH, ("bad", 0): FinishReason.ERROR} == outcomes.ends
    assert {"bad": "row 9 is bad"} == outcomes.errors


def test_a_row_that_never_arrives_fails_its_request_after_a_time():
    engine = make_engine(FakeMemory(5, delay=slow_rows(9)), row_timeout=5.0)
    outcomes = run_all(engine, request("a", [9], max_tokens=1), request("b", [1, 2], max_tokens=1))
    assert {("a", 0): FinishReason.ERROR, ("b", 0): FinishReason.LENGTH} == outcomes.ends
    assert "a row did not arrive within 5 s; the storage answers too slowly" == outcomes.errors["a"]


def test_others_go_on_while_one_waits_for_its_row():
    engine = make_engine(FakeMemory(24, delay=slow_rows(9)))
    engine.add(request("late", [9], max_tokens=1))
    engine.add(request("other", [1, 2], max_tokens=5))
    outcomes = Outcomes()
    while "other" not in outcomes.finished:
        steps(engine, 1, outcomes)
    assert engine.stats().steps - 1 <= engine.stats().deferred_steps
    assert 1 == engine.stats().requests_deferred


def test_whoever_is_late_loses_its_lane_to_the_next():
    engine = make_engine(FakeMemory(24, delay=slow_rows(9)), max_num_seqs=1)
    engine.add(request("late", [9], max_tokens=1))
    outcomes = run_waiting_for(engine, request("next", [1, 2], max_tokens=5))
    assert ("late", 0) not in outcomes.ends


def run_waiting_for(engine, asked):
    engine.add(asked)
    outcomes = Outcomes()
    while asked.request_id not in outcomes.finished:
        steps(engine, 1, outcomes)
    return outcomes


@pytest.mark.parametrize(("defer_after", "is_waited_for"), [(math.inf, True), (0.0, False)])
def test_late_rows_are_waited_for_as_long_as_was_asked(defer_after, is_waited_for):
    memory = FakeMemory(24, delay=slow_rows(9, seconds=20 * STEP_SECONDS))
    engine = make_engine(memory, defer_after=defer_after)
    engine.add(request("other", [1, 2], max_tokens=12))
    engine.add(request("late", [9], max_tokens=1))
    steps(engine, 10)
    assert is_waited_for == ("late" in [name for step in engine.runner.steps for name in names_of(step)])


def test_rows_that_come_within_the_share_of_a_step_are_waited_for():
    engine = make_engine(FakeMemory(24, delay=slow_rows(9, seconds=STEP_SECONDS / 4)), defer_after=2.0)
    run_all(engine, request("other", [1, 2], max_tokens=12), request("late", [1, 9], max_tokens=8))
    assert 0 == engine.stats().deferred_steps


@pytest.mark.parametrize("has_queue", [False, True])
def test_late_rows_are_waited_for_longer_where_nobody_takes_the_lane(has_queue):
    engine = make_engine(FakeMemory(5, delay=lambda _: STEP_SECONDS / 10), defer_after=0.03, max_num_batched_tokens=8)
    for number in range(4 + has_queue):
        engine.add(request(f"r{number}", [number + 1], max_tokens=39))
    steps(engine, 8)  # until it is known how long reads take
    before = engine.stats()
    steps(engine, 20)
    after = engine.stats()
    assert after.memory["major_faults"] > before.memory["major_faults"]
    assert has_queue == (after.deferred_steps > before.deferred_steps)


def test_nothing_is_waited_for_while_rows_are_there():
    engine = make_engine(FakeMemory(24))
    run_all(engine, request("a", [1, 2, 3], max_tokens=1))
    before = engine.stats().stall_seconds
    run_all(engine, request("b", [3, 2, 1, 2], max_tokens=1))
    assert before == engine.stats().stall_seconds


def test_a_step_that_can_only_wait_does_so_once_and_not_for_long():
    engine = make_engine(FakeMemory(24, delay=slow_rows(9)))
    engine.add(request("late", [9], max_tokens=1))
    before = engine.memory.clock()
    steps(engine, 1)
    assert 0.02 == pytest.approx(engine.memory.clock() - before)
    assert 0.02 == pytest.approx(engine.stats().stall_seconds)


def test_a_prompt_begins_although_others_wait_for_every_slot():
    engine = make_engine(FakeMemory(3, delay=lambda _: 3 * STEP_SECONDS), max_num_seqs=2)
    for number in range(6):
        engine.add(request(f"r{number}", [number + 1], max_tokens=39))
    steps(engine, 40)
    outcomes = run_waiting_for(engine, request("better", [20, 21, 22, 23], max_tokens=5, priority=-1))
    assert {"better"} == outcomes.finished.keys()


def test_a_waiting_request_has_its_rows_brought():
    engine = make_engine(FakeMemory(24), max_num_seqs=1)
    engine.add(request("first", [1], max_tokens=20))
    steps(engine, 2)
    engine.add(request("second", [7, 8], max_tokens=1))
    steps(engine, 2)
    assert not len(engine.memory.absent(engine.scheduler.waiting[0].pending(2)))


def test_aborting_a_request_that_waits_ends_its_prefetch():
    engine = make_engine(FakeMemory(5, delay=lambda _: NEVER), max_num_seqs=1)
    engine.add(request("a", list(range(1, 20)), max_tokens=1))
    prefetch = engine.scheduler.waiting[0].state.prefetch
    engine.abort("a")
    assert prefetch.is_cancelled
    assert not engine.has_work


def test_more_than_may_wait_are_turned_away():
    engine = make_engine(FakeMemory(5), max_waiting=2)
    engine.add(request("a", [1], n=2))
    with pytest.raises(QueueFullError, match="2 sequences wait already, and at most 2 may; try again later"):
        engine.add(request("b", [1]))
    assert ["a"] == list(engine._requests)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (request("a", []), "the prompt has no tokens"),
        (request("a", [1] * 40), "the prompt has 40 tokens; the model takes 40 with the output"),
        (request("a", [24]), "token ids outside the vocabulary, 0 to 23"),
        (request("a", [1, -1]), "token ids outside the vocabulary, 0 to 23"),
        (request("a", [1], stop_token_ids=[99]), "stop_token_ids"),
    ],
)
def test_requests_that_cannot_be_served_are_refused(asked, message):
    engine = make_engine()
    with pytest.raises(RequestError, match=message):
        engine.add(asked)
    assert not engine.has_work


def test_two_requests_of_one_name_at_a_time_are_refused():
    engine = make_engine()
    engine.add(request("a", [1]))
    with pytest.raises(RequestError, match="request_id a is that of a request under way"):
        engine.add(request("a", [2]))
    run_all(engine)
    run_all(engine, request("a", [2]))


def test_unknown_requests_and_choices_are_not_aborted():
    engine = make_engine()
    engine.add(request("a", [1], max_tokens=2))
    engine.abort("b")
    engine.abort("a", 5)
    assert {("a", 0)} == run_all(engine).ends.keys()


def test_a_prompt_as_long_as_the_context_can_be_scored():
    engine = make_engine(FakeMemory(24))
    outcomes = run_all(engine, request("a", [1, 2] * 20, max_tokens=0, prompt_logprobs=1))
    assert 40 == len(outcomes.first["a"].prompt_logprobs)


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()])
def test_a_step_that_raises_can_be_done_again(error):
    engine = make_engine(FakeMemory(24))
    asked = request("a", list(range(1, 8)), n=2, max_tokens=6)
    engine.add(asked)
    outcomes = steps(engine, 3)
    engine.runner.error = error
    with pytest.raises(type(error)):
        engine.step()
    engine.check_integrity()
    assert 0 == engine.memory.pager.stats().device_leased_rows
    while engine.has_work:
        steps(engine, 1, outcomes)
    assert [reference(asked, choice)[0] for choice in range(2)] == [outcomes.tokens["a", choice] for choice in range(2)]


def test_an_error_of_the_memory_fails_what_ran_and_nothing_else():
    engine = make_engine(FakeMemory(24), max_num_seqs=1)
    engine.runner.error = RowReadError("row 1 is damaged", row=1)
    outcomes = run_all(engine, request("a", [1], max_tokens=2), request("b", [1], max_tokens=2))
    assert {("a", 0): FinishReason.ERROR, ("b", 0): FinishReason.LENGTH} == outcomes.ends
    assert {"a": "row 1 is damaged"} == outcomes.errors


def test_failures_are_told_although_the_step_after_them_breaks():
    engine = make_engine(FakeMemory(24))
    engine.memory.storage.bad_rows.add(9)
    engine.add(request("bad", [9], max_tokens=1))
    engine.add(request("good", [1], max_tokens=9))
    outcomes = Outcomes()
    while "bad" not in outcomes.finished:
        engine.runner.error = RuntimeError("broken")
        try:
            outcomes.take(engine.step())
        except RuntimeError:
            continue
    assert {"bad"} == outcomes.finished.keys()


def test_tokens_say_where_their_rows_came_from():
    engine = make_engine(FakeMemory(24))
    engine.add(request("a", [1, 2], max_tokens=3, return_tiers=True))
    tiers = []
    while engine.has_work:
        for message in engine.step():
            tiers += [tier for output in message.choices for tier in output.tiers]
    tokens = reference(request("a", [1, 2], max_tokens=3), 0)[0]
    seen, expected = {1}, []
    for token_id in [2, *tokens[:2]]:
        expected.append(Tier.DEVICE if token_id in seen else Tier.STORAGE)
        seen.add(token_id)
    assert expected == tiers


def test_closing_twice_ends_everything_once():
    engine = make_engine(FakeMemory(24))
    engine.add(request("a", [1, 2], max_tokens=9))
    steps(engine, 2)
    engine.close()
    engine.close()
    run_all(engine)


REQUESTS = st.fixed_dictionaries(
    {
        "length": st.integers(1, 12),
        "max_tokens": st.integers(1, 14),
        "priority": st.integers(-1, 1),
        "n": st.sampled_from([1, 1, 1, 2]),
        "stop_token_ids": st.lists(st.integers(0, 23), max_size=2),
        "ignore_eos": st.booleans(),
        "return_tiers": st.booleans(),
        "logprobs": st.sampled_from([None, None, 1]),
    }
)
EVENTS = st.lists(st.none() | st.none() | REQUESTS | st.integers(0, 9), min_size=1, max_size=40)
"""Before each step: nothing, a request, or the end of an earlier one."""


def prompt_of(length, number):
    return [1 + (number * 7 + place) % 23 for place in range(length)]


@settings(deadline=None)
@given(EVENTS, st.integers(5, 24), st.integers(0, 3), st.sampled_from([0.0, 0.0005, 0.003]), st.integers(12, 64))
def test_steps_that_are_alike_are_those_that_would_be_chosen(events, num_slots, host_slots, delay, num_blocks):
    def served():
        memory = FakeMemory(num_slots, host_slots=host_slots, delay=delay)
        engine = make_engine(memory, num_blocks=num_blocks, defer_after=0.1)
        told, count = [], 0
        for event in events:
            if isinstance(event, dict):
                asked = {name: value for name, value in event.items() if name != "length"}
                engine.add(request(str(count), prompt_of(event["length"], count), **asked))
                count += 1
            elif event is not None:
                engine.abort(str(event))
            told.append(engine.step())
            engine.check_integrity()
        while engine.has_work:
            told.append(engine.step())
            engine.check_integrity()
        stats = msgspec.structs.replace(engine.stats(), resident_bytes=0)
        return engine.runner.steps, told, stats, engine.runner.slots

    alike = served()
    with mock.patch.object(Scheduler, "_lasting_batch", return_value=None):
        assert served() == alike


def test_a_token_that_would_end_another_output_ends_none():
    engine = make_engine(FakeMemory(24).warm())
    tokens = {name: reference(request(name, [number], max_tokens=9), 0)[0] for number, name in enumerate("ab", 1)}
    only_a = next(token_id for token_id in tokens["a"][2:] if token_id not in tokens["b"])
    outcomes = run_all(
        engine,
        request("a", [1], max_tokens=9),
        request("b", [2], max_tokens=9, stop_token_ids=[only_a]),
    )
    assert [tokens["a"], tokens["b"]] == [outcomes.tokens["a", 0], outcomes.tokens["b", 0]]


@pytest.mark.parametrize("delay", [0.0, 0.2 * STEP_SECONDS])
def test_a_row_that_is_waited_for_makes_no_other_step(delay):
    engine = make_engine(FakeMemory(5, delay=delay), defer_after=math.inf)
    for name in "abcd":
        engine.add(request(name, prompt_of(1, ord(name)), max_tokens=30))
    steps(engine, 6)
    before = engine.stats().memory["major_faults"]
    with mock.patch.object(Scheduler, "_choose", side_effect=AssertionError("all can run")):
        steps(engine, 10)
    assert before < engine.stats().memory["major_faults"]
    assert {("a", "b", "c", "d")} == {tuple(names_of(step)) for step in engine.runner.steps[-10:]}


def test_a_busy_engine_repeats_its_steps():
    engine = make_engine(FakeMemory(24).warm())
    for name in "ab":
        engine.add(request(name, [1], max_tokens=9))
    steps(engine, 2)
    with mock.patch.object(Scheduler, "_choose", side_effect=AssertionError("nothing has changed")):
        steps(engine, 6)  # blocks are filled meanwhile
