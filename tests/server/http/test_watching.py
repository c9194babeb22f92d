import pytest

from server.engine.messages import Progress
from server.process.client import EngineState
from tests.server.http.conftest import error_of

pytestmark = pytest.mark.anyio


async def test_health_is_well_while_the_engine_is(client):
    response = await client.get("/health")
    assert (200, {"status": "ready", "model": "toy"}) == (response.status_code, response.json())


@pytest.mark.parametrize("state", ["starting", "down", "stopped"])
async def test_health_is_not_well_while_the_engine_is_not(client, engine, state):
    engine.state = EngineState(state)
    response = await client.get("/health")
    assert (503, state) == (response.status_code, response.json()["status"])


async def test_health_says_how_far_loading_is(client, engine):
    engine.state, engine.progress = EngineState.STARTING, Progress(phase="reading the weights", done=1, total=3)
    response = await client.get("/health")
    assert {"phase": "reading the weights", "fraction": 0.333} == response.json()["loading"]


async def test_health_is_not_well_while_draining(client, lifecycle):
    lifecycle.drain()
    response = await client.get("/health")
    assert (503, "draining") == (response.status_code, response.json()["status"])


async def test_a_draining_server_takes_no_requests(client, lifecycle):
    lifecycle.drain()
    response = await client.post("/v1/completions", json={"prompt": "x"})
    assert "draining" == error_of(response, 503)["code"]
    assert ("5", "close") == (response.headers["retry-after"], response.headers["connection"])


async def test_the_version_is_that_of_the_distribution(client):
    from importlib.metadata import version

    assert {"version": version("tolbooth")} == (await client.get("/version")).json()


async def test_models_are_the_served_names(client, engine):
    answer = (await client.get("/v1/models")).json()
    cards = [(card["id"], card["root"], card["max_model_len"], card["object"]) for card in answer["data"]]
    assert ("list", [("toy", "toy", 64, "model"), ("alias", "toy", 64, "model")]) == (answer["object"], cards)


async def test_the_context_is_what_the_engine_granted(client, engine):
    import msgspec

    engine.info = msgspec.structs.replace(engine.info, max_model_len=32)
    assert 32 == (await client.get("/v1/models/toy")).json()["max_model_len"]


async def test_models_are_known_while_the_engine_loads(client, engine):
    engine.info = None
    assert 64 == (await client.get("/v1/models/alias")).json()["max_model_len"]


async def test_a_model_that_is_not_served_is_not_found(client):
    assert "model_not_found" == error_of(await client.get("/v1/models/org/other"), 404)["code"]


async def test_the_api_is_described(client):
    document = (await client.get("/openapi.json")).json()
    schemas = document["components"]["schemas"]
    assert {"CompletionRequest", "ChatRequest", "Completion", "ChatCompletion", "ErrorBody"} <= schemas.keys()
    body = document["paths"]["/v1/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {"$ref": "#/components/schemas/CompletionRequest"} == body
    assert "temperature" in schemas["CompletionRequest"]["properties"]
    assert not any("422" in each["responses"] for path in document["paths"].values() for each in path.values())


async def test_every_reference_of_the_description_leads_somewhere(client):
    import re

    text = (await client.get("/openapi.json")).text
    names = set(re.findall(r'"#/components/schemas/(\w+)"', text))
    assert set() == names - (await client.get("/openapi.json")).json()["components"]["schemas"].keys()


@pytest.mark.parametrize(("origin", "expected"), [("http://here", "http://here"), ("http://there", None)])
async def test_only_pages_of_named_origins_may_call(connect, origin, expected):
    client = await connect(cors_origins=("http://here",), api_key=("first",))
    headers = {"origin": origin, "access-control-request-method": "POST"}
    asked = await client.options("/v1/completions", headers=headers)
    refused = await client.post("/v1/completions", headers={"origin": origin})
    name = "access-control-allow-origin"
    assert [expected, expected] == [asked.headers.get(name), refused.headers.get(name)]


async def test_without_origins_no_page_may_call(client):
    response = await client.get("/health", headers={"origin": "http://here"})
    assert "access-control-allow-origin" not in response.headers
