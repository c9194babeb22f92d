"""The status page as a file that is served; what it does in a browser is in `tests/server/serving`."""

import hashlib
import re
from base64 import b64encode

import pytest

from tests.server.http.conftest import error_of

pytestmark = pytest.mark.anyio


async def test_the_page_is_there(client):
    response = await client.get("/")
    assert (200, "text/html; charset=utf-8") == (response.status_code, response.headers["content-type"])
    assert "<title>Tolbooth</title>" in response.text


async def test_the_page_can_be_switched_off(connect):
    client = await connect(status_page=False)
    error_of(await client.get("/"), 404)


async def test_the_page_needs_no_key_and_what_it_shows_does(connect):
    client = await connect(api_key=("first",))
    assert (200, 401) == ((await client.get("/")).status_code, (await client.get("/v1/memory")).status_code)


async def test_the_page_is_there_while_the_server_drains(client, lifecycle):
    lifecycle.drain()
    assert 200 == (await client.get("/")).status_code


async def test_the_page_is_there_below_a_root_path(connect):
    client = await connect(root_path="/llm")
    assert 200 == (await client.get("/llm/")).status_code


async def test_the_page_asks_for_nothing_by_a_path_from_the_root(client):
    page = (await client.get("/")).text
    assert [] == re.findall(r"""(?:fetch|call|getJson)\(["'`]/""", page)


@pytest.mark.parametrize("element", ["script", "style"])
async def test_the_policy_lets_the_pages_own_script_and_style_run(client, element):
    response = await client.get("/")
    (content,) = re.findall(f"<{element}>(.*?)</{element}>", response.text, flags=re.DOTALL)
    digest = b64encode(hashlib.sha256(content.encode()).digest()).decode()
    assert f"{element}-src 'sha256-{digest}'" in response.headers["content-security-policy"]


async def test_the_policy_lets_nothing_else_in(client):
    response = await client.get("/")
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert [] == re.findall(r"\son\w+=|\sstyle=|javascript:", response.text)


async def test_the_page_loads_nothing_from_elsewhere(client):
    page = (await client.get("/")).text
    addresses = set(re.findall(r"https?://[\w./]+", page))
    assert {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xhtml"} == addresses
