import hmac

import pytest

from models.errors import ConfigError
from server.http.auth import Keys
from tests.server.http.conftest import error_of

pytestmark = pytest.mark.anyio
WATCHING = ["/health", "/version", "/metrics"]


def bearer(key):
    return {"authorization": f"Bearer {key}"}


async def test_without_keys_anyone_is_served(client):
    assert 200 == (await client.get("/v1/models", headers=bearer("whatever"))).status_code


@pytest.mark.parametrize("key", ["first", "second"])
async def test_each_key_opens(connect, key):
    client = await connect(api_key=("first", "second"))
    assert 200 == (await client.get("/v1/models", headers=bearer(key))).status_code


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "missing_api_key"),
        ({"authorization": "Bearer"}, "missing_api_key"),
        ({"authorization": "Basic first"}, "missing_api_key"),
        (bearer("third"), "invalid_api_key"),
        (bearer("firs"), "invalid_api_key"),
        (bearer("first "), None),
        ({"authorization": b"Bearer \xff\xfe"}, "invalid_api_key"),
    ],
)
async def test_other_keys_do_not(connect, headers, code):
    client = await connect(api_key=("first",))
    response = await client.get("/v1/models", headers=headers)
    if code is None:
        assert 200 == response.status_code
        return
    assert code == error_of(response, 401)["code"]
    assert "Bearer" == response.headers["www-authenticate"]


@pytest.mark.parametrize(
    "path", ["/v1/completions", "/v1/other", "/tokenize", "/openapi.json", "/health/", "http://toy//health"]
)
async def test_every_other_route_needs_a_key(connect, path):
    client = await connect(api_key=("first",))
    error_of(await client.post(path, json={}), 401)


@pytest.mark.parametrize("path", WATCHING)
async def test_those_who_watch_need_none(connect, path):
    client = await connect(api_key=("first",))
    assert 200 == (await client.get(path)).status_code


async def test_metrics_can_be_protected(connect):
    client = await connect(api_key=("first",), protect_metrics=True)
    error_of(await client.get("/metrics"), 401)
    assert 200 == (await client.get("/metrics", headers=bearer("first"))).status_code
    assert 200 == (await client.get("/health")).status_code


async def test_protected_metrics_are_for_admins_where_there_are_any(connect):
    client = await connect(api_key=("first",), admin_key=("boss",), protect_metrics=True)
    error_of(await client.get("/metrics", headers=bearer("first")), 401)
    assert 200 == (await client.get("/metrics", headers=bearer("boss"))).status_code


async def test_an_admin_key_opens_everything(connect):
    client = await connect(api_key=("first",), admin_key=("boss",))
    assert 200 == (await client.get("/v1/models", headers=bearer("boss"))).status_code


async def test_keys_come_from_a_file_too(connect, tmp_path):
    (tmp_path / "keys").write_text("# ours\nsecond\n\n  third  \n")
    client = await connect(api_key=("first",), api_key_file=str(tmp_path / "keys"))
    statuses = [
        (await client.get("/v1/models", headers=bearer(key))).status_code for key in ("first", "second", "third")
    ]
    assert [200, 200, 200] == statuses


@pytest.mark.parametrize("content", [None, b"", b"# nothing\n", b"\xff"])
def test_a_file_without_keys_is_a_mistake(make_app, tmp_path, content):
    if content is not None:
        (tmp_path / "keys").write_bytes(content)
    with pytest.raises(ConfigError, match="keys"):
        make_app(api_key_file=str(tmp_path / "keys"))


def test_metrics_cannot_be_protected_without_a_key(make_app):
    with pytest.raises(ConfigError, match="protect_metrics"):
        make_app(protect_metrics=True)


@pytest.mark.parametrize("key", ["first", "third"])
def test_every_key_is_compared_in_constant_time(monkeypatch, key):
    compared = []
    compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: (compared.append((len(a), len(b))), compare(a, b))[1])
    Keys(["first", "second", "third"]).has(key)
    assert [(32, 32)] * 3 == compared


async def test_keys_are_checked_below_a_root_path(connect):
    client = await connect(api_key=("first",), root_path="/llm")
    assert 200 == (await client.get("/llm/health")).status_code
    error_of(await client.get("/llm/v1/models"), 401)
    assert 200 == (await client.get("/llm/v1/models", headers=bearer("first"))).status_code
