"""`memory` in requests: off unless the operator turns it on, and checked field by field."""

import pytest

from server.engine.memory_options import MemoryOptions
from tests.server.http.conftest import error_of

pytestmark = pytest.mark.anyio


async def ask(client, memory, path="/v1/completions"):
    prompt = {"prompt": "x"} if path == "/v1/completions" else {"messages": [{"role": "user", "content": "x"}]}
    return await client.post(path, json={**prompt, "memory": memory})


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
async def test_what_is_asked_for_reaches_the_engine(connect, engine, path):
    client = await connect(enable_memory_options=True)
    assert 200 == (await ask(client, {"alpha": 0.8, "drop_layers": [1]}, path)).status_code
    assert MemoryOptions(alpha=0.8, drop_layers=[1]) == engine.requests[-1].memory


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        ({}, MemoryOptions()),
        ({"alpha": None, "drop_layers": None}, MemoryOptions()),
        ({"alpha": 1}, MemoryOptions(alpha=1.0)),
        ({"alpha": [0.5, 1]}, MemoryOptions(alpha=[0.5, 1.0])),
        (None, None),
    ],
)
async def test_forms_of_options(connect, engine, memory, expected):
    client = await connect(enable_memory_options=True)
    assert 200 == (await ask(client, memory)).status_code
    assert expected == engine.requests[-1].memory


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
async def test_where_they_are_off_they_are_refused(client, engine, path):
    error = error_of(await ask(client, {"alpha": 0.8}, path), 400)
    assert "memory" == error["param"]
    assert "--enable-memory-options" in error["message"]
    assert [] == engine.requests


@pytest.mark.parametrize("memory", [None])
async def test_nothing_asked_for_is_nothing_wrong(client, memory):
    assert 200 == (await ask(client, memory)).status_code


@pytest.mark.parametrize(
    ("memory", "param"),
    [
        (7, "memory"),
        ({"alpha": "half"}, "memory"),
        ({"alpha": [0.5, None]}, "memory"),
        ({"alpha": True}, "memory"),
        ({"drop_layers": 3}, "memory"),
        ({"drop_layers": [0.5]}, "memory"),
        ({"drop_layers": ["first"]}, "memory"),
        ({"beta": 1}, "memory.beta"),
    ],
)
async def test_other_shapes_are_mistakes(connect, memory, param):
    client = await connect(enable_memory_options=True)
    assert param == error_of(await ask(client, memory), 400)["param"]
