import asyncio
import threading

import pytest

from server.loadgen.load import Load, arrivals, send


def run(load, **options):
    return asyncio.run(send(load, **options))


def make_load(server, count=3, **options):
    options = {"concurrency": 2} | options
    return Load(url=server.url, body={"model": "fake", "max_tokens": 3}, prompts=["a"] * count, **options)


def test_every_prompt_is_sent_once_as_a_stream(server):
    load = Load(url=server.url, body={"model": "fake"}, prompts=["a", [1, 2], "c"], concurrency=1)
    run(load)
    assert ["a", [1, 2], "c"] == [body["prompt"] for body in server.bodies]
    assert all(body["stream"] and body["stream_options"] == {"include_usage": True} for body in server.bodies)


def test_a_record_has_what_the_stream_said(server):
    (record,) = run(make_load(server, 1))
    assert record.is_ok
    assert 3 == len(record.arrivals)
    assert (7, 3) == (record.prompt_tokens, record.completion_tokens)
    assert record.sent <= record.arrivals[0] <= record.arrivals[-1] <= record.ended
    assert record.whole >= record.first_token > 0


def test_no_more_requests_run_at_once_than_asked_for(server):
    server.gate = threading.Barrier(2)
    assert all(record.is_ok for record in run(make_load(server, 8, concurrency=2)))
    assert 2 == server.most_running


def test_the_key_is_sent(server):
    run(make_load(server, 1, api_key="secret"))
    assert "Bearer secret" == server.headers[0]["authorization"]


def test_progress_is_told_for_each_request(server):
    told = []
    run(make_load(server, 3), on_progress=lambda done, total: told.append((done, total)))
    assert [(1, 3), (2, 3), (3, 3)] == told


def test_a_refusal_is_in_the_record(server):
    server.status = 429
    records = run(make_load(server))
    assert ["HTTP 429: no room"] * 3 == [record.error for record in records]
    assert [None] * 3 == [record.whole for record in records]


def test_an_error_event_is_in_the_record(server):
    server.last_event = {"error": {"message": "a row could not be read"}}
    (record,) = run(make_load(server, 1))
    assert "a row could not be read" == record.error


def test_an_event_that_is_no_object_is_in_the_record(server):
    server.last_event = [1]
    (record,) = run(make_load(server, 1))
    assert "an event is no JSON object: [1]" == record.error


def test_a_stream_without_its_end_is_an_error(server):
    server.ends_early = True
    (record,) = run(make_load(server, 1))
    assert "the stream ended before its end" == record.error


def test_a_server_that_is_not_there_is_in_the_record(server):
    load = make_load(server, 1)
    server.server_close()
    (record,) = run(load)
    assert record.error.startswith("ConnectError")


def test_a_rate_sends_whether_or_not_answers_come(server):
    server.gate = threading.Barrier(5)  # opens when all five are there at once
    records = run(make_load(server, 5, concurrency=None, rate=500.0))
    assert all(record.is_ok for record in records)


def test_a_request_of_a_rate_is_timed_from_when_it_was_due(server):
    records = run(make_load(server, 4, concurrency=None, rate=1000.0, seed=3))
    first = records[0].sent
    assert arrivals(4, 1000.0, 3) == pytest.approx([record.sent - first for record in records])


def test_arrivals_have_the_rate_and_are_reproducible():
    due = arrivals(20_000, 50.0, 1)
    assert 0 == due[0]
    assert 50.0 == pytest.approx(len(due) / due[-1], rel=0.03)
    assert due == arrivals(20_000, 50.0, 1) != arrivals(20_000, 50.0, 2)


@pytest.mark.parametrize("options", [{}, {"concurrency": 1, "rate": 1.0}])
def test_a_load_has_a_concurrency_or_a_rate(options):
    with pytest.raises(ValueError, match="either a concurrency or a rate"):
        Load(url="", body={}, prompts=[], **options)
