import pytest

from server.loadgen.client import Record
from server.loadgen.summary import Goal, summarise


def answered(sent=0.0, arrivals=(0.5, 0.6, 0.8), ended=0.9, tokens=3):
    return Record(sent, list(arrivals), ended, prompt_tokens=10, completion_tokens=tokens)


def test_times_are_those_of_the_records():
    summary = summarise([answered()], 2.0)
    assert (0.5, 0.5) == (summary.ttft.mean, summary.ttft.p99)
    assert 0.15 == pytest.approx(summary.itl.mean)
    assert 0.15 == pytest.approx(summary.tpot.p50)
    assert 0.9 == summary.e2e.p50


def test_a_piece_of_several_tokens_counts_as_several():
    summary = summarise([answered(tokens=7)], 1.0)
    assert 0.05 == pytest.approx(summary.tpot.mean)


def test_rates_are_over_the_whole_time():
    summary = summarise([answered(), answered()], 4.0)
    assert (0.5, 1.5, 20, 6) == (
        summary.requests_per_second,
        summary.tokens_per_second,
        summary.prompt_tokens,
        summary.completion_tokens,
    )


def test_failures_count_for_nothing_but_themselves():
    failed = [Record(0.0, [0.1], None, error="late") for _ in range(2)] + [Record(0.0, error="gone")]
    summary = summarise([answered(), *failed], 1.0)
    assert (4, 3, {"late": 2, "gone": 1}) == (summary.requests, summary.failed, summary.errors)
    assert 1.0 == summary.requests_per_second
    assert 0.5 == summary.ttft.mean


def test_nothing_answered_has_no_times():
    summary = summarise([Record(0.0, error="gone")], 1.0)
    assert [None] * 4 == [summary.ttft, summary.itl, summary.tpot, summary.e2e]


def test_percentiles_are_in_order_of_size():
    records = [answered(arrivals=(number / 100,), ended=number / 100) for number in range(101)]
    ttft = summarise(records, 1.0).ttft
    assert (0.5, 0.9, 0.99) == pytest.approx((ttft.p50, ttft.p90, ttft.p99))


def test_goodput_counts_what_meets_every_goal():
    slow = answered(arrivals=(2.0, 2.1), ended=2.2)
    records = [answered(), slow, Record(0.0, error="gone")]
    assert 1.0 == summarise(records, 1.0, Goal(ttft=1.0)).goodput
    assert 2.0 == summarise(records, 1.0, Goal(e2e=3.0)).goodput
    assert 0.0 == summarise(records, 1.0, Goal(ttft=1.0, tpot=0.1)).goodput
    assert summarise(records, 1.0).goodput is None


def test_a_single_piece_has_no_time_per_token():
    assert answered(arrivals=(0.5,), tokens=1).per_token is None
