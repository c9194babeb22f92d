"""The row memory as clients see it, and what they may ask of it."""

from base64 import b64decode

import msgspec
import pytest

from server.engine.messages import EngineStats
from server.process.client import EngineState
from server.process.errors import BrokenQuestionError, NoAnswerError
from server.process.recent_stats import Before
from tests.server.http.conftest import error_of
from tests.server.http.memory_engine import MIN_LEASABLE, NUM_SLOTS, VOCAB_SIZE, MemoryEngine

pytestmark = pytest.mark.anyio

READING = ["", "/map", "/curve", "/pins"]
MOST_PINS = NUM_SLOTS - MIN_LEASABLE


@pytest.fixture
def engine():
    return MemoryEngine()


@pytest.fixture
async def look(client):
    """Reads what is below /v1/memory."""

    async def get(path=""):
        response = await client.get(f"/v1/memory{path}")
        assert 200 == response.status_code, response.text
        return response.json()

    return get


@pytest.fixture
async def change(client):
    """Changes what is below /v1/memory, as a program on the same machine does; returns the answer."""

    async def send(path, method="POST", status=200, **body):
        response = await client.request(method, f"http://localhost/v1/memory{path}", json=body)
        assert status == response.status_code, response.text
        return response.json() if status == 200 else error_of(response, status)

    return send


async def test_the_memory_tells_what_it_is(look):
    told = await look()
    assert ("toy", "cpu", "paged", "lru", "direct") == tuple(
        told[name] for name in ("model", "device", "memory", "policy", "storage")
    )
    facts = {"encoding": "int8", "layers": 2, "vocab_size": 300, "row_bytes": 4096, "bytes": 300 * 4096}
    assert facts == told["table"]


async def test_what_is_kept_off_the_device_is_the_table_less_what_is_set_aside_for_it(look):
    told = await look()
    assert (300 * 4096 - 300, 300) == (told["kept_off_device_bytes"], told["device_bytes"]["tol_cache"])


async def test_the_tiers_tell_how_full_they_are(look, engine):
    sizes = {"device_rows": 7, "device_slots": 40, "device_bytes": 40960, "device_leased_rows": 3}
    engine.stats = msgspec.structs.replace(engine.stats, memory=sizes)
    device, host, storage = (await look())["tiers"]
    assert {"tier": "device", "rows": 7, "capacity_rows": 40, "bytes": 40960, "leased_rows": 3} == device
    assert ("host", 0, "storage", 300) == (host["tier"], host["capacity_rows"], storage["tier"], storage["rows"])


async def test_totals_add_up(look):
    totals = (await look())["totals"]
    assert (9, 5, 3, 1) == tuple(totals[name] for name in ("row_requests", "device_hits", "host_hits", "major_faults"))
    assert (4096, 2) == (totals["read_bytes"], totals["read_errors"])


async def test_rates_are_those_of_the_last_seconds(look, engine):
    before = msgspec.structs.replace(engine.stats, row_major_faults=0, row_host_hits=1, generation_tokens=67)
    engine.stats_before = Before(5.0, before)
    rates = (await look())["rates"]
    assert (5.0, 2 / 3, 0.0, 0.2, 2.0) == tuple(
        rates[name] for name in ("seconds", "hit_rate", "device_hit_rate", "major_faults", "generation_tokens")
    )


async def test_rates_of_nothing_are_none(look, engine):
    engine.stats_before = Before(5.0, engine.stats)
    rates = (await look())["rates"]
    assert (None, None, 0) == (rates["hit_rate"], rates["device_hit_rate"], rates["major_faults"])


async def test_rates_before_anything_is_known_are_none(look, engine):
    engine.stats_before = None
    rates = (await look())["rates"]
    assert (0, None) == (rates["seconds"], rates["hit_rate"])


async def test_requests_are_told(look):
    assert {"running": 2, "waiting": 3, "deferred": 1, "most_running": 4} == (await look())["requests"]


async def test_pins_hold_rows_until_they_are_ended(change, look, engine):
    told = await change("/pins", token_ids=[7, 3, 7])
    assert (2, 2) == (told["rows"], told["waiting"])
    engine.bring()
    assert [3, 7] == (await look("/pins"))["token_ids"]
    state = (await look())["pins"]
    assert (2, 0, NUM_SLOTS - 2, None) == tuple(state[name] for name in ("rows", "waiting", "leasable_rows", "failure"))
    assert 1 == (await change("/pins", "DELETE", token_ids=[7, 9]))["rows"]
    assert 0 == (await change("/pins", "DELETE", all=True))["rows"]


async def test_a_text_is_pinned_by_its_tokens(change, look, client):
    await change("/pins", text="Once upon a time")
    ids = (await client.post("/tokenize", json={"prompt": "Once upon a time"})).json()["tokens"]
    assert sorted(set(ids)) == (await look("/pins"))["token_ids"]


async def test_more_pins_than_there_is_room_for_are_refused_with_the_number(change, look):
    error = await change("/pins", status=400, token_ids=list(range(MOST_PINS + 1)))
    assert ("token_ids", True) == (error["param"], f"pin at most {MOST_PINS} more rows" in error["message"])
    assert [] == (await look("/pins"))["token_ids"]


async def test_warming_tells_what_is_there_and_brings_the_rest(change, look, engine):
    first = await change("/warm", token_ids=[1, 2, 2])
    assert 2 == (await look())["pins"]["warming"]
    engine.bring()
    again = await change("/warm", token_ids=[1, 2, 5])
    assert ({"rows": 2, "resident": 0}, {"rows": 3, "resident": 2}) == (first, again)


async def test_a_text_is_warmed_by_its_tokens(change):
    assert (await change("/warm", text="Once upon a time"))["rows"] > 1


async def test_warming_of_more_rows_than_there_is_room_for_is_refused(change):
    error = await change("/warm", status=400, token_ids=list(range(NUM_SLOTS + 1)))
    assert f"the device has room for {NUM_SLOTS}" in error["message"]


async def test_warming_of_many_rows_at_a_time_waits(change):
    await change("/warm", token_ids=list(range(30)))
    assert "queue_full" == (await change("/warm", status=429, token_ids=list(range(30, 60))))["code"]


@pytest.mark.parametrize(("path", "method"), [("/pins", "POST"), ("/pins", "DELETE"), ("/warm", "POST")])
@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "token_ids"),
        ({"token_ids": []}, "token_ids"),
        ({"token_ids": [VOCAB_SIZE]}, "token_ids"),
        ({"token_ids": [-1]}, "token_ids"),
        ({"token_ids": [1] * 65_537}, "token_ids"),
        ({"token_ids": ["one"]}, "token_ids"),
        ({"token_ids": [1], "text": "one"}, "token_ids"),
        ({"text": ""}, "text"),
        ({"text": "a" * (2**20 + 1)}, "text"),
        ({"tokens": [1]}, "tokens"),
    ],
    ids=str,
)
async def test_a_body_that_asks_for_nothing_or_too_much_is_refused(change, path, method, body, param):
    assert param == (await change(path, method, status=400, **body))["param"]


@pytest.mark.parametrize(("method", "body"), [("POST", {"all": True}), ("DELETE", {"all": True, "token_ids": [1]})])
async def test_all_is_for_ending_pins_and_alone(change, method, body):
    assert "all" == (await change("/pins", method, status=400, **body))["param"]


async def test_the_map_shows_the_rows_on_the_device(change, look, engine):
    await change("/pins", token_ids=[7, 3])
    engine.bring()
    drawn = await look("/map")
    assert (300, 300, 1) == (drawn["vocab_size"], drawn["cells"], drawn["ids_per_cell"])
    device, heat = b64decode(drawn["device"]), b64decode(drawn["heat"])
    assert ([3, 7], 300) == ([cell for cell, share in enumerate(device) if share], len(heat))


async def test_the_curve_has_the_present_size_among_others(change, look, engine):
    engine.stats = msgspec.structs.replace(engine.stats, memory={"device_slots": NUM_SLOTS})
    for _ in range(2):
        await change("/warm", token_ids=list(range(20)))
        engine.bring()
    curve = await look("/curve")
    fractions = [point["fraction"] for point in curve["points"]]
    assert (40, 20, sorted(fractions)) == (curve["ids"], curve["distinct_ids"], fractions)
    (present,) = [point for point in curve["points"] if point["is_present"]]
    assert (NUM_SLOTS, 0.5, 0.5) == (present["rows"], present["hit_rate"], present["optimal"])


async def test_there_is_no_curve_before_any_row_was_asked_for(look):
    assert {"ids": 0, "distinct_ids": 0, "points": []} == await look("/curve")


async def test_a_memory_that_is_not_paged_says_what_it_is_instead(look, engine):
    engine.unpage()
    told = await look()
    assert ("computed", None, [], None) == tuple(
        told[name] for name in ("memory", "table", "tiers", "kept_off_device_bytes")
    )


@pytest.mark.parametrize("path", READING[1:])
async def test_a_memory_that_is_not_paged_has_no_rows_to_look_at(client, engine, path):
    engine.unpage()
    error = error_of(await client.get(f"/v1/memory{path}"), 409)
    assert ("memory_not_paged", True) == (error["code"], "computed" in error["message"])


@pytest.mark.parametrize(("path", "method"), [("/pins", "POST"), ("/pins", "DELETE"), ("/warm", "POST")])
async def test_a_memory_that_is_not_paged_has_no_rows_to_change(change, engine, path, method):
    engine.unpage()
    assert "memory_not_paged" == (await change(path, method, status=409, token_ids=[1]))["code"]


@pytest.mark.parametrize("path", READING)
async def test_an_engine_that_is_not_ready_is_told_so(client, engine, path):
    engine.state = EngineState.DOWN
    response = await client.get(f"/v1/memory{path}")
    assert "engine_unavailable" == error_of(response, 503)["code"]
    assert "retry-after" in response.headers


@pytest.mark.parametrize(
    ("trouble", "status", "code"),
    [(NoAnswerError("busy"), 503, "engine_busy"), (BrokenQuestionError("a wheel came off"), 500, "engine_error")],
)
@pytest.mark.parametrize("path", READING)
async def test_an_engine_that_does_not_answer_is_told_so(client, engine, path, trouble, status, code):
    engine.trouble = trouble
    assert code == error_of(await client.get(f"/v1/memory{path}"), status)["code"]


async def test_figures_that_have_not_come_yet_are_told_so(client, engine):
    engine.stats = None
    assert "engine_unavailable" == error_of(await client.get("/v1/memory"), 503)["code"]


async def test_looks_are_not_logged_and_changes_are(change, look, log):
    for path in READING[:-1]:
        await look(path)
    await change("/pins", token_ids=[1])
    (line,) = log
    assert "method=POST path=/v1/memory/pins status=200" in line


@pytest.mark.parametrize("path", ["", "/map", "/curve", "/pins", "/warm"])
async def test_every_route_is_described(client, path):
    document = (await client.get("/openapi.json")).json()
    for operation in document["paths"][f"/v1/memory{path}"].values():
        assert "$ref" in operation["responses"]["200"]["content"]["application/json"]["schema"]


async def test_rates_span_engines_that_died(look, engine):
    engine.stats_before = Before(5.0, EngineStats(row_device_hits=1, row_major_faults=1))
    assert 7 / 7 == (await look())["rates"]["hit_rate"]
