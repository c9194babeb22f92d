import json
import re

import pytest

from server.config import LogFormat

pytestmark = pytest.mark.anyio


async def line_of(client, log, **fields):
    await client.post("/v1/completions", json={"prompt": "secret words", **fields})
    (line,) = log
    assert "\n" == line[-1]
    assert 1 == line.count("\n")
    return line


async def test_a_request_is_one_line(client, log, engine):
    line = await line_of(client, log, max_tokens=3)
    assert re.search(r" method=POST path=/v1/completions status=200 seconds=[\d.]+ id=cmpl-\w+ ", line)
    assert " completion_tokens=3 " in line
    assert " rows=9 minor_faults=3 major_faults=1 stall_seconds=0.25" in line


async def test_a_line_can_be_json(connect, log):
    found = json.loads(await line_of(await connect(log_format=LogFormat.JSON), log, max_tokens=3))
    expected = {"status": 200, "completion_tokens": 3, "cached_tokens": 0, "rows": 9, "method": "POST"}
    assert expected == {name: found[name] for name in expected}
    assert found["first_token_seconds"] <= found["seconds"]


async def test_prompts_are_not_logged(client, log):
    assert "secret" not in await line_of(client, log)


async def test_prompts_are_logged_where_asked_for(connect, log):
    assert "secret words" in await line_of(await connect(log_prompts=True), log)


async def test_messages_are_logged_where_asked_for(connect, log):
    client = await connect(log_prompts=True)
    await client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "secret"}]})
    assert "secret" in log[0]


async def test_mistakes_are_logged_too(client, log):
    assert " status=400 " in await line_of(client, log, n=0)


async def test_a_broken_stream_is_told(client, log, engine):
    engine.dies_after = 1
    assert " outcome=engine_died" in await line_of(client, log, stream=True)


async def test_probes_and_scrapes_are_not_logged(client, log):
    for path in ("/health", "/version", "/metrics"):
        await client.get(path)
    assert [] == log


async def test_a_path_cannot_forge_a_line(client, log):
    await client.get("/x%0astatus=200%20id=forged")
    (line,) = log
    assert 1 == line.count("\n")
    assert ' path="/x\\nstatus=200 id=forged" ' in line


@pytest.mark.parametrize("given", ["abc-1", "A.b_c:9", "x" * 128])
async def test_a_request_id_is_taken_over(client, log, given):
    response = await client.get("/v1/models", headers={"x-request-id": given})
    assert given == response.headers["x-request-id"]
    assert f" request_id={given} " in log[0]


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "<script>", "a=b"])
async def test_another_is_given_in_place_of_an_odd_one(client, log, given):
    response = await client.get("/v1/models", headers={"x-request-id": given})
    assert re.fullmatch(r"[0-9a-f]{32}", response.headers["x-request-id"])


async def test_errors_have_a_request_id_too(client):
    response = await client.get("/nowhere", headers={"x-request-id": "abc"})
    assert "abc" == response.headers["x-request-id"]


async def test_two_requests_may_have_the_same_id(client, engine):
    for _ in range(2):
        await client.post("/v1/completions", json={"prompt": "x"}, headers={"x-request-id": "same"})
    assert 2 == len({request.request_id for request in engine.requests})
