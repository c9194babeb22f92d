"""The engine's process is killed: whoever waits hears of it at once, and the next engine serves as the first did.

One server goes through all of it, since starting engines is what takes time: each fixture is a part of its life.
"""

import signal
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from paging.storage.faulty import RowFault
from tests.server.http.conftest import error_of
from tests.server.serving.server_process import LONGEST, PATIENCE, eventually, is_running, state_of
from tests.server.serving.streams import Stream

pytestmark = pytest.mark.timeout(LONGEST)

LATE = 200
"""A row that does not come while a test lasts."""
TO_LATE = {"logit_bias": {str(LATE): 100}, "max_tokens": 40}
"""The first token generated is the one whose row does not come."""

NUM_BLOCKS, BLOCK_BYTES = 4, 4096
"""Keys and values for so many requests at once."""


def counters(server):
    return {name: value for name, value in server.figures().items() if name.endswith("_total")}


def num_restarts(server):
    return server.figures()["tolbooth_engine_restarts_total"]


def num_open(server):
    figures = server.figures()
    return figures["tolbooth_requests_running"] + figures["tolbooth_requests_waiting"]


def num_served(server):
    """Return the tokens that a request gets once there is an engine again and nothing is left of those before."""
    server.faults.go_on()
    server.await_health(200)
    server.await_idle()
    answer = server.post(prompt=[1, 2, 3], max_tokens=5, ignore_eos=True, allowed_token_ids=[1, 2, 3])
    return answer.json()["usage"]["completion_tokens"]


@pytest.fixture(scope="module")
def first_loading(start):
    """Killed while it loads for the first time."""
    options = ("--tol-device-rows", "40", "--kv-cache-bytes", str(NUM_BLOCKS * BLOCK_BYTES), "--log-format", "json")
    server = start(*options, faulty=True)
    server.faults.write(rows={LATE: RowFault(latency=2 * PATIENCE)})
    server.faults.hold_loading()
    server.listen()
    eventually(lambda: server.faults.is_holding, "the engine loads")
    health, refusal = server.get("/health"), server.post(prompt="x")
    server.kill_engine()
    eventually(lambda: num_restarts(server) == 1, "another engine is started")
    return SimpleNamespace(server=server, health=health, refusal=refusal, num_served=num_served(server))


@pytest.fixture(scope="module")
def under_load(first_loading):
    """Killed while it works on requests in every phase."""
    server, seen = first_loading.server, SimpleNamespace()
    seen.files = server.num_files
    with ThreadPoolExecutor(6) as pool:
        streams = [Stream(server, **TO_LATE) for _ in range(2)]
        firsts = [stream.frame() for stream in streams]
        prefills = [pool.submit(server.post, prompt=[1, LATE, 3], stream=stream) for stream in (False, True)]
        eventually(lambda: num_open(server) == 4, "all of these run or wait")
        queued = [pool.submit(server.post, prompt=[5, LATE, 6], stream=stream) for stream in (False, True)]
        eventually(lambda: num_open(server) == 6, "all of these run or wait")
        seen.num_waiting = server.figures()["tolbooth_requests_waiting"]
        seen.was_idle, seen.before = server.is_idle(), counters(server)
        server.faults.hold_loading()
        seen.engine = server.kill_engine()
        seen.frames = [[first, *stream.rest()] for first, stream in zip(firsts, streams, strict=True)]
        seen.answers = [answer.result(PATIENCE) for answer in (*prefills, *queued)]
        for stream in streams:
            stream.close()
    server.await_health(503)
    eventually(lambda: server.faults.is_holding, "the next engine loads")
    seen.health, seen.figures, seen.is_idle = server.get("/health"), server.figures(), server.is_idle()
    seen.refusals = [server.post(prompt="x", stream=stream) for stream in (False, True)]
    return seen


@pytest.fixture(scope="module")
def loading_again(first_loading, under_load):
    """Killed while it loads after that."""
    server = first_loading.server
    before = num_restarts(server)
    server.faults.hold_loading()
    server.kill_engine()
    eventually(lambda: server.faults.is_holding, "the engine after that loads")
    restarts = num_restarts(server) - before
    served = num_served(server)
    eventually(lambda: server.num_files <= under_load.files, "no more files are open than before")
    states = [state_of(child) for child in server.children]
    return SimpleNamespace(restarts=restarts, num_served=served, states=states, after=counters(server))


@pytest.fixture(scope="module")
def without_work(first_loading, loading_again):
    """Killed while it has nothing to do."""
    server = first_loading.server
    server.faults.hold_loading()
    server.kill_engine()
    server.await_health(503)
    return SimpleNamespace(num_served=num_served(server))


@pytest.fixture(scope="module")
def server_killed(first_loading, without_work):
    """The server's own process is killed in the middle of a stream."""
    server = first_loading.server
    stream = Stream(server, **TO_LATE)
    stream.frame()
    engine = server.engine_pid
    server.signal(signal.SIGKILL)
    code = server.await_exit()
    stream.close()
    return SimpleNamespace(engine=engine, code=code)


def test_while_the_engine_loads_health_says_so(first_loading):
    health = first_loading.health
    assert (503, "starting") == (health.status_code, health.json()["status"])


def test_while_the_engine_loads_requests_are_told_when_to_come_again(first_loading):
    assert "engine_unavailable" == error_of(first_loading.refusal, 503)["code"]
    assert int(first_loading.refusal.headers["retry-after"]) >= 1


def test_an_engine_killed_while_it_loads_for_the_first_time_is_replaced(first_loading):
    assert 5 == first_loading.num_served


def test_streams_end_with_an_error_and_the_last_word(under_load):
    for first, *_, last in under_load.frames:
        assert {"choices", "error"} == {*first, *last} & {"choices", "error"}
        assert ("server_error", "engine_died") == (last["error"]["type"], last["error"]["code"])


def test_what_has_no_answer_yet_gets_a_status_in_prefill_and_in_the_queue(under_load):
    assert 2 <= under_load.num_waiting
    assert ["engine_died"] * 4 == [error_of(answer, 500)["code"] for answer in under_load.answers]


def test_the_error_says_what_happened_to_the_engine(under_load):
    message = error_of(under_load.answers[0], 500)["message"]
    assert f"process {under_load.engine} was ended by signal 9" in message


def test_without_an_engine_health_says_so(under_load):
    assert (503, "down") == (under_load.health.status_code, under_load.health.json()["status"])


def test_without_an_engine_requests_are_told_when_to_come_again(under_load):
    for response in under_load.refusals:
        assert "engine_unavailable" == error_of(response, 503)["code"]
        assert int(response.headers["retry-after"]) >= 1


def test_what_a_dead_engine_held_is_held_no_more(under_load):
    assert (False, True) == (under_load.was_idle, under_load.is_idle)
    assert 0 == under_load.figures["tolbooth_engine_up"]


def test_an_engine_killed_while_it_loads_again_is_replaced(loading_again):
    assert (1, 5) == (loading_again.restarts, loading_again.num_served)


def test_counters_never_go_down(under_load, loading_again):
    before, while_down, after = under_load.before, under_load.figures, loading_again.after
    assert before["tolbooth_generation_tokens_total"] >= 5 + 2
    assert [] == [name for name, value in before.items() if not value <= while_down[name] <= after[name]]


def test_dead_engines_are_waited_for(under_load, loading_again):
    assert not is_running(under_load.engine)
    assert (1, False) == (len(loading_again.states), "Z" in loading_again.states)


def test_an_engine_killed_while_idle_is_replaced(without_work):
    assert 5 == without_work.num_served


def test_a_killed_server_takes_its_engine_along(server_killed):
    assert -signal.SIGKILL == server_killed.code
    assert not is_running(server_killed.engine)
