"""Who may change how the server works."""

import pytest

from tests.server.http.conftest import error_of
from tests.server.http.memory_engine import MemoryEngine

pytestmark = pytest.mark.anyio

CHANGES = [("POST", "pins"), ("DELETE", "pins"), ("POST", "warm")]
LOCAL = "http://localhost"


@pytest.fixture
def engine():
    return MemoryEngine()


def bearer(key):
    return {"authorization": f"Bearer {key}"}


async def pin(client, *, base=LOCAL, method="POST", path="pins", **headers):
    return await client.request(method, f"{base}/v1/memory/{path}", json={"token_ids": [1]}, headers=headers)


@pytest.mark.parametrize(("method", "path"), CHANGES)
async def test_an_admin_key_may_change(connect, method, path):
    client = await connect(api_key=("first",), admin_key=("boss",))
    assert 200 == (await pin(client, method=method, path=path, **bearer("boss"))).status_code


@pytest.mark.parametrize(("method", "path"), CHANGES)
@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({}, 401, "missing_api_key"),
        (bearer("other"), 401, "invalid_api_key"),
        (bearer("first"), 403, "admin_key_needed"),
    ],
)
async def test_no_other_key_may(connect, method, path, headers, status, code):
    client = await connect(api_key=("first",), admin_key=("boss",))
    assert code == error_of(await pin(client, method=method, path=path, **headers), status)["code"]


async def test_an_admin_key_alone_is_asked_for_too(connect):
    client = await connect(admin_key=("boss",))
    error_of(await pin(client), 401)
    assert 200 == (await pin(client, **bearer("boss"))).status_code


async def test_an_admin_key_may_change_from_anywhere(connect):
    client = await connect(admin_key=("boss",), host="0.0.0.0")  # noqa: S104 nothing listens
    assert 200 == (await pin(client, base="http://elsewhere", origin="http://page", **bearer("boss"))).status_code


async def test_with_api_keys_alone_nobody_may(connect):
    client = await connect(api_key=("first",))
    error_of(await pin(client), 401)
    error = error_of(await pin(client, **bearer("first")), 403)
    assert ("admin_key_needed", True) == (error["code"], "--admin-key" in error["message"])


@pytest.mark.parametrize(
    "base", ["http://localhost:8000", "http://127.0.0.1:8000", "http://[::1]:8000", "http://127.9.9.9"]
)
async def test_without_keys_programs_of_the_same_machine_may(connect, base):
    client = await connect()
    assert 200 == (await pin(client, base=base)).status_code


async def test_the_servers_own_pages_may(connect):
    client = await connect()
    assert 200 == (await pin(client, base="http://localhost:8000", origin="http://localhost:8000")).status_code


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "example.org"])  # noqa: S104 nothing listens
async def test_without_keys_nobody_may_where_other_machines_are_listened_to(connect, host):
    client = await connect(host=host)
    assert "--admin-key" in error_of(await pin(client), 403)["message"]


async def test_without_keys_nobody_may_at_a_unix_socket(connect, tmp_path):
    client = await connect(uds=str(tmp_path / "socket"))
    assert "admin_key_needed" == error_of(await pin(client), 403)["code"]


@pytest.mark.parametrize(
    ("base", "headers"),
    [
        ("http://localhost:8000", {"origin": "http://page.example"}),
        ("http://localhost:8000", {"origin": "http://localhost:9000"}),
        ("http://localhost:8000", {"origin": "https://localhost:8000"}),
        ("http://localhost:8000", {"origin": "null"}),
        ("http://page.example", {}),  # a name that leads here
        ("http://localhost.page.example", {}),
        ("http://localhost:8000", {"x-forwarded-for": "192.168.1.5"}),
        ("http://localhost:8000", {"forwarded": "for=192.168.1.5"}),
    ],
)
async def test_without_keys_neither_pages_of_others_nor_proxies_may(connect, base, headers):
    client = await connect()
    assert "admin_key_needed" == error_of(await pin(client, base=base, **headers), 403)["code"]


@pytest.mark.parametrize("path", ["", "/pins", "/map", "/curve"])
async def test_looking_needs_the_key_of_any_client(connect, path):
    client = await connect(api_key=("first",), admin_key=("boss",))
    error_of(await client.get(f"/v1/memory{path}"), 401)
    assert 200 == (await client.get(f"/v1/memory{path}", headers=bearer("first"))).status_code


async def test_changes_are_refused_below_a_root_path_too(connect):
    client = await connect(api_key=("first",), root_path="/llm")
    response = await client.post(f"{LOCAL}/llm/v1/memory/pins", json={"token_ids": [1]}, headers=bearer("first"))
    error_of(response, 403)
