"""What a scrape says of requests, of the engine and of rows."""

import asyncio

import pytest

from server.engine.errors import QueueFullError
from server.engine.messages import EngineStats
from server.process.client import EngineState
from tests.server.http.scrapes import values

pytestmark = pytest.mark.anyio


def told(found, *names):
    return [found[f"tolbooth_{name}"] for name in names]


async def test_figures_are_those_of_the_engines_snapshot(client):
    found = await values(client)
    expected = {
        "requests_running": 2,
        "requests_waiting": 3,
        "requests_running_limit": 32,
        "requests_waiting_limit": 1024,
        "generation_tokens_total": 77,
        "prompt_tokens_total": 10,
        "prompt_tokens_cached_total": 4,
        "kv_cache_usage_ratio": 0.25,
        "engine_up": 1,
        "engine_restarts_total": 0,
        "engine_resident_memory_bytes": 1 << 20,
        'startup_seconds{phase="weights"}': 0.5,
        'tol_read_bytes_total{tier="storage"}': 4096,
        'tol_resident_rows{tier="device"}': 7,
        'tol_read_errors_total{cause="checksum"}': 2,
        'device_memory_bytes{use="tol_cache"}': 300,
        "tol_table_bytes": 300 * 4096,
    }
    assert expected == {name: found[f"tolbooth_{name}"] for name in expected}


async def test_hits_and_faults_are_all_requests_for_rows(client):
    found = await values(client)
    parts = told(found, 'tol_row_hits_total{tier="device"}', 'tol_row_hits_total{tier="host"}')
    assert [5, 3, 1] == [*parts, *told(found, "tol_major_faults_total")]
    assert [9] == told(found, "tol_row_requests_total")


async def test_the_table_is_described(client):
    found = await values(client)
    labels = 'encoding="int8",layers="2",policy="lru",storage="direct",vocab_size="300"'
    assert [1] == told(found, f"tol_table_info{{{labels}}}")


async def test_histograms_of_the_engine_are_cumulative(client):
    found = await values(client)
    bounds = ["1.0", "2.0", "4.0", "+Inf"]
    assert [12, 20, 20, 20] == told(found, *(f'step_batch_size_bucket{{le="{bound}"}}' for bound in bounds))
    assert [20, 28] == told(found, "step_batch_size_count", "step_batch_size_sum")
    bounds = ["1e-05", "2e-05", "4e-05", "+Inf"]
    assert [0, 1, 3, 3] == told(found, *(f'tol_fetch_seconds_bucket{{le="{le}",tier="storage"}}' for le in bounds))
    assert [0.0001] == told(found, 'tol_fetch_seconds_sum{tier="storage"}')


async def test_a_served_request_is_told_once(client, complete):
    await complete(max_tokens=3)
    found = await values(client)
    histograms = ("time_to_first_token", "request_queue", "request_prefill", "request_decode", "request_e2e")
    assert [1] * 5 == told(found, *(f"{name}_seconds_count" for name in histograms))
    ends = [f'request_success_total{{finished_reason="{each}"}}' for each in ("length", "stop")]
    assert [1, 0] == told(found, *ends)
    assert [0.25, 0.5] == told(found, "request_queue_seconds_sum", "request_prefill_seconds_sum")


async def test_lengths_are_those_of_the_requests_usage(client, complete):
    usages = [(await complete(["a b", "c"], max_tokens=3, n=2))["usage"], (await complete(max_tokens=5))["usage"]]
    found = await values(client)
    for name, field in (("request_prompt_tokens", "prompt_tokens"), ("request_generation_tokens", "completion_tokens")):
        assert [2, sum(usage[field] for usage in usages)] == told(found, f"{name}_count", f"{name}_sum")


async def test_every_prompt_has_a_time_in_the_queue(client, complete):
    await complete(["a", "b", "c"], max_tokens=2)
    assert [3] == told(await values(client), "request_queue_seconds_count")


async def test_tokens_after_the_first_of_each_choice_have_a_distance(client, complete):
    await complete(max_tokens=5, n=2)
    assert [2 * 4] == told(await values(client), "inter_token_latency_seconds_count")


async def test_no_part_takes_longer_than_the_whole(client, complete):
    await complete(max_tokens=5)
    found = await values(client)
    first, decode, whole, between = told(
        found,
        "time_to_first_token_seconds_sum",
        "request_decode_seconds_sum",
        "request_e2e_seconds_sum",
        "inter_token_latency_seconds_sum",
    )
    assert first + decode <= whole
    assert decode == pytest.approx(between)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_request_that_stopped_by_itself_is_told_so(client, engine, stream):
    engine.script = [66, 0]
    await client.post("/v1/completions", json={"prompt": "x", "stream": stream})
    assert [1] == told(await values(client), 'request_success_total{finished_reason="stop"}')


async def test_a_request_one_of_whose_choices_was_cut_off_was_cut_off(client, engine, complete):
    engine.script = [66, 67]
    await complete(max_tokens=9, n=2, stop=["never"])
    assert [1] == told(await values(client), 'request_success_total{finished_reason="length"}')


async def errors_told(client):
    found = await values(client)
    name = 'tolbooth_request_errors_total{code="'
    counts = {key.removeprefix(name).rstrip('"}'): value for key, value in found.items() if key.startswith(name)}
    return {code: count for code, count in counts.items() if count}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "missing_field"),
        ({"prompt": "x", "wish": 1}, "unknown_field"),
        ({"prompt": "x", "n": 0}, "invalid_request_error"),
        ({"prompt": "x", "model": "other"}, "model_not_found"),
    ],
)
async def test_mistakes_are_counted_by_their_codes(client, body, code):
    await client.post("/v1/completions", json=body)
    assert {code: 1} == await errors_told(client)


async def test_what_has_no_route_is_an_error_of_no_made_up_route(client):
    await client.get("/wp-admin/1234")
    await client.get("/v1/completions")
    assert {"route_not_found": 1, "method_not_allowed": 1} == await errors_told(client)
    found = await values(client)
    assert [1, 1] == told(
        found,
        'http_requests_total{route="other",status="404"}',
        'http_requests_total{route="/v1/completions",status="405"}',
    )


async def test_a_route_is_counted_by_its_template(client):
    for name in ("toy", "alias", "none"):
        await client.get(f"/v1/models/{name}")
    found = await values(client)
    counts = {key: value for key, value in found.items() if "http_requests" in key and "models/" in key and value}
    assert [2, 1] == [*counts.values()]
    assert all('route="/v1/models/{' in key for key in counts)


async def test_requests_without_a_key_are_counted_by_their_route(connect):
    client = await connect(api_key=("k",))
    await client.post("/v1/completions", json={"prompt": "x"})
    found = await values(client)
    assert [1] == told(found, 'http_requests_total{route="/v1/completions",status="401"}')


async def test_a_stream_that_broke_is_an_error_and_no_success(client, engine):
    engine.dies_after = 1
    response = await client.post("/v1/completions", json={"prompt": "x", "stream": True})
    assert 200 == response.status_code
    assert {"engine_died": 1} == await errors_told(client)
    found = await values(client)
    assert [0, 0, 1] == told(
        found,
        'request_success_total{finished_reason="length"}',
        "request_e2e_seconds_count",
        "time_to_first_token_seconds_count",
    )


async def test_a_full_queue_is_counted(client, engine):
    engine.refusal = QueueFullError("as many wait as may")
    await client.post("/v1/completions", json={"prompt": "x"})
    assert {"queue_full": 1} == await errors_told(client)


async def test_a_client_that_goes_is_neither_a_success_nor_an_error(client, engine):
    engine.holds_after = 1
    asking = asyncio.create_task(client.post("/v1/completions", json={"prompt": "x"}))
    await engine.submitted.wait()
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    found = await values(client)
    ends = [value for key, value in found.items() if "request_success" in key or "request_errors" in key]
    assert 0 == sum(ends)
    assert [1] == told(found, 'http_requests_total{route="/v1/completions",status="none"}')


async def test_an_echo_of_the_prompt_alone_has_no_first_token(client, complete):
    await complete(max_tokens=0, echo=True)
    found = await values(client)
    assert [0, 1] == told(found, "time_to_first_token_seconds_count", "request_e2e_seconds_count")


async def test_the_engine_is_down_while_it_is(client, engine):
    engine.state = EngineState.DOWN
    assert [0] == told(await values(client), "engine_up")


async def test_a_memory_that_is_not_paged_counts_no_rows(client, engine):
    engine.stats = EngineStats(steps=3, generation_tokens=9)
    found = await values(client)
    assert {0} == {value for key, value in found.items() if key.startswith("tolbooth_tol_row")}


async def test_two_servers_have_metrics_of_their_own(connect):
    first, second = await connect(), await connect()
    await first.post("/v1/completions", json={"prompt": "x", "max_tokens": 1})
    name = 'request_success_total{finished_reason="length"}'
    assert [[1], [0]] == [told(await values(each), name) for each in (first, second)]
