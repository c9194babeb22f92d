"""Reads that fail or are late: a right answer or a clear error, whatever else is read meanwhile."""

import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from paging.storage.faulty import Fault, RowFault
from tests.server.http.conftest import error_of
from tests.server.serving.server_process import LONGEST
from tests.server.serving.streams import text_of

pytestmark = pytest.mark.timeout(LONGEST)

TOKENS = range(1, 80)
"""Far more than the server has room for."""
ON_TOKENS = {"allowed_token_ids": list(TOKENS), "ignore_eos": True, "temperature": 0, "max_tokens": 10}
PROMPTS = [list(TOKENS)[start : start + 16] for start in range(0, 60, 5)]


@pytest.fixture(scope="module")
def faulty_server(start):
    server = start("--max-num-seqs", "4", "--tol-device-rows", "20", faulty=True)
    server.ready()
    return server


@pytest.fixture(scope="module")
def expected(faulty_server):
    """The right answers."""
    return [answer.json()["choices"][0]["text"] for answer in answers(faulty_server)]


@pytest.fixture
def server(faulty_server, expected):
    """The server, whose reads are as they should be again at the end."""
    yield faulty_server
    faulty_server.faults.write()


def answers(server):
    """Return the answers to requests that together need more rows than there is room for, asked for at once."""
    salt = uuid.uuid4().hex  # what was computed before needs no rows any more
    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        return list(pool.map(lambda prompt: server.post(prompt=prompt, cache_salt=salt, **ON_TOKENS), PROMPTS))


@pytest.mark.parametrize("fault", list(Fault))
def test_a_row_that_cannot_be_read_fails_who_needs_it_alone(server, expected, fault):
    server.faults.write(rows={210: RowFault(fault=fault)})
    with ThreadPoolExecutor(1) as pool:
        others = pool.submit(answers, server)
        message = error_of(server.post(prompt=[1, 210, 2]), 500)["message"]
        assert expected == [answer.json()["choices"][0]["text"] for answer in others.result()]
    assert (True, True) == ("row 210" in message, fault.cause in message)
    server.await_idle()


@pytest.mark.parametrize("fault", list(Fault))
def test_where_many_reads_fail_every_answer_is_right_or_an_error(server, expected, fault):
    server.faults.write(rates={fault: 0.1}, latency=(0, 0.002))
    found = answers(server)
    for text, answer in zip(expected, found, strict=True):
        if answer.status_code == 200:
            assert text == answer.json()["choices"][0]["text"]
        else:
            assert "row " in error_of(answer, 500)["message"]
    assert 500 in {answer.status_code for answer in found}
    server.await_idle()


def test_after_faults_requests_are_served_as_before(server, expected):
    server.faults.write(rates={Fault.IO_ERROR: 1})
    assert {500} == {answer.status_code for answer in answers(server)}
    server.faults.write()
    assert expected == [answer.json()["choices"][0]["text"] for answer in answers(server)]


def test_late_reads_change_no_answer(server, expected):
    server.faults.write(latency=(0.02, 0.02))
    assert expected == [answer.json()["choices"][0]["text"] for answer in answers(server)]
    server.await_idle()


def test_late_reads_change_no_stream(server, expected, open_stream):
    server.faults.write(latency=(0.0, 0.02))
    streams = [open_stream(server, prompt=prompt, **ON_TOKENS) for prompt in PROMPTS]
    assert expected == [text_of(stream.rest()) for stream in streams]


def test_a_stream_keeps_what_came_before_the_read_that_failed(server, open_stream):
    server.faults.write(rows={211: RowFault(fault=Fault.IO_ERROR)})
    stream = open_stream(server, prompt=[1, 2, 3], logit_bias={"211": 100}, max_tokens=9)
    first, last = stream.rest()
    assert (1, "engine_error") == (len(first["choices"]), last["error"]["code"])


def test_a_stream_goes_on_while_another_waits_for_its_row(server, open_stream):
    server.faults.write(rows={212: RowFault(latency=30)})
    waiting = open_stream(server, prompt=[1, 2, 3], logit_bias={"212": 100}, max_tokens=9)
    waiting.frame()
    usage = {"include_usage": True}
    other = open_stream(server, max_tokens=40, allowed_token_ids=[5, 6, 7], stream_options=usage)
    assert 40 == other.rest()[-1]["usage"]["completion_tokens"]
    assert 1 == server.figures()["tolbooth_requests_running"]
    waiting.close()
    server.await_idle()
