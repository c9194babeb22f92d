"""Signals end a server: open requests may end, a second signal stops at once, and no process is left."""

import signal

import pytest

from paging.storage.faulty import RowFault
from tests.server.http.conftest import error_of
from tests.server.serving.server_process import LONGEST, PATIENCE, eventually

pytestmark = pytest.mark.timeout(LONGEST)

LATE = 200
"""A row that does not come before it is let go."""
TO_LATE = {"logit_bias": {str(LATE): 100}, "max_tokens": 20}
"""The first token generated is the one whose row does not come."""
STOPPED_EARLY = 1


@pytest.fixture
def begin(start, open_stream):
    """Starts a server and streams of it that have begun and do not go on before they are let go."""

    def begin(num_streams):
        server = start("--tol-device-rows", "60", faulty=True)
        server.faults.write(rows={LATE: RowFault(latency=2 * PATIENCE)})
        server.ready()
        streams = [open_stream(server, **TO_LATE) for _ in range(num_streams)]
        assert [1] * num_streams == [len(stream.frame()["choices"]) for stream in streams]
        return server, streams

    return begin


@pytest.mark.parametrize(("number", "to_all"), [(signal.SIGTERM, False), (signal.SIGINT, True)])
def test_open_streams_end_well_and_new_requests_are_turned_away(begin, number, to_all):
    server, streams = begin(2)
    server.signal(number, to_all=to_all)
    server.await_health(503)
    assert "draining" == server.get("/health").json()["status"]
    for stream in (False, True):
        refused = server.post(prompt="x", stream=stream)
        assert "draining" == error_of(refused, 503)["code"]
        assert int(refused.headers["retry-after"]) >= 1
    server.faults.release()
    for stream in streams:
        assert "length" == stream.rest()[-1]["choices"][0]["finish_reason"]
    assert 0 == server.await_exit(), server.output
    assert "2 open requests may end" in server.output


def test_a_second_signal_stops_at_once(begin):
    server, streams = begin(2)
    server.signal(signal.SIGTERM)
    server.await_health(503)
    server.signal(signal.SIGTERM)
    for stream in streams:
        assert "engine_died" == stream.rest()[-1]["error"]["code"]
    assert STOPPED_EARLY == server.await_exit(), server.output


def test_an_engine_killed_while_its_server_ends_ends_what_is_open(begin):
    server, (stream,) = begin(1)
    server.signal(signal.SIGTERM)
    server.await_health(503)
    server.kill_engine()
    assert "engine_died" == stream.rest()[-1]["error"]["code"]
    server.await_exit()


@pytest.mark.parametrize(("number", "to_all"), [(signal.SIGTERM, False), (signal.SIGINT, True)])
def test_a_server_that_loads_ends_at_once(start, number, to_all):
    server = start(faulty=True)
    server.faults.hold_loading()
    server.listen()
    eventually(lambda: server.faults.is_holding, "the engine loads")
    server.signal(number, to_all=to_all)
    assert 0 == server.await_exit(), server.output
