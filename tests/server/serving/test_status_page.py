"""The status page in a real browser, over a server that works.

Needs Debian's `chromium` (or another, named by CHROMIUM) and the Python package `playwright`; skipped without them.
"""

import os
import re
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.server.serving.server_process import LONGEST, NO_TLS, PATIENCE, eventually

sync_api = pytest.importorskip("playwright.sync_api", reason="the Python package playwright is not installed")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
pytestmark = [
    pytest.mark.timeout(LONGEST),
    pytest.mark.skipif(CHROMIUM is None, reason="no browser: install Debian's chromium, or name one in CHROMIUM"),
]

KEY = "a-key-of-the-tests"
BEARER = {"authorization": f"Bearer {KEY}"}
WITH_KEY = f"sessionStorage.setItem('tolbooth-key', '{KEY}')"
DESKTOP = {"width": 1200, "height": 900}
PHONE = {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def server(start):
    server = start("--tol-device-rows", "40", "--max-num-seqs", "4", "--api-key", KEY, faulty=True)
    server.ready()
    return server


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, server):
    """Opens the page; what its console says of errors is kept in `page.errors`."""
    contexts = []

    def visit_page(*, size=DESKTOP, with_key=True, **options):
        context = browser.new_context(viewport=size, **options)
        contexts.append(context)
        if with_key:
            context.add_init_script(WITH_KEY)
        page = context.new_page()
        page.set_default_timeout(1000 * PATIENCE)
        page.errors = []
        page.on("console", lambda said: page.errors.append(said.text) if said.type in {"error", "warning"} else None)
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.goto(f"{server.url}/")
        return page

    yield visit_page
    for context in contexts:
        context.close()


@pytest.fixture
def load(server):
    """Streams that go on for as long as the test does."""
    is_over = threading.Event()

    def stream(number):
        body = {"prompt": [number, 2, 3], "max_tokens": 50, "ignore_eos": True, "temperature": 1.5}
        with httpx.Client(timeout=PATIENCE, verify=NO_TLS, headers=BEARER) as client:
            while not is_over.is_set():
                assert 200 == client.post(f"{server.url}/v1/completions", json=body).status_code

    with ThreadPoolExecutor(2) as pool:
        streams = [pool.submit(stream, number) for number in (1, 4)]
        yield
        is_over.set()
        for each in streams:
            each.result()


def await_text(page, selector, pattern):
    """Wait until an element's text is like this, and return it."""
    script = "([selector, pattern]) => new RegExp(pattern).test(document.querySelector(selector).textContent)"
    page.wait_for_function(script, arg=[selector, pattern])
    return page.inner_text(selector)


def is_too_wide(page):
    return page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")


def background(page):
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


def test_the_numbers_move_under_load(visit, load):
    page = visit()
    await_text(page, "#state", "^ready$")
    await_text(page, "#tokens", "[1-9]")
    await_text(page, "#hitrate", "%")
    first = await_text(page, "#hitnote", "rows since the start")
    page.wait_for_function("before => document.querySelector('#hitnote').textContent !== before", arg=first)
    assert "of 40 rows" in page.inner_text("#tier-device")
    assert re.search(r"\d %", page.inner_text("#keptnote"))
    assert page.locator("#history .line").count() > 0
    assert [] == page.errors


def test_the_pictures_are_drawn(visit, load):
    page = visit()
    await_text(page, "#curvenote", "present size")
    page.wait_for_function("document.querySelector('#map').width > 16")
    box = page.locator("#map").bounding_box()
    page.mouse.move(box["x"] + 3, box["y"] + 3)
    assert await_text(page, "#tip", "Token id 0: ")
    assert page.locator("#curve .line").count() == 3
    assert [] == page.errors


def test_a_completion_streams_and_its_tokens_show_where_their_rows_came_from(visit):
    page = visit()
    page.fill("#max", "25")
    page.click("#go")
    summary = await_text(page, "#result", r"tokens.*\.$")
    counts = [int(number) for number in re.findall(r"(\d+) (?:rows on|from)", summary)]
    tokens = page.evaluate("[...document.querySelectorAll('#output span')].map((span) => span.className)")
    assert ("prompt", set()) == (tokens[0], set(tokens[1:]) - {"device", "host", "storage"})
    assert int(summary.split()[0]) == sum(counts) >= len(tokens[1:]) > 0
    assert page.inner_text("#output").startswith("Once upon a time")
    assert [] == page.errors


def test_a_click_on_a_token_shows_what_it_reads(visit):
    page = visit()
    page.fill("#max", "5")
    page.click("#go")
    await_text(page, "#result", r"tokens.*\.$")
    page.locator("#output span:not(.prompt)").first.click()
    await_text(page, "#tokennote", r"id \d+.*: layer 0 of 2, 48 cells\.")
    assert (8, 8) == (page.locator("#tokencells .chips span").count(), page.locator("#tokennear .chips span").count())
    assert [] == page.errors


def test_a_layer_that_is_not_there_is_said_beside_the_token(visit):
    page = visit()
    page.fill("#token", " t")
    page.fill("#layer", "7")
    page.click("#lookup button")
    assert "layers 0 to 1" in await_text(page, "#tokennote", "there is no layer 7")
    assert page.locator("#tokencells").is_hidden()


def test_a_completion_can_be_stopped(visit, server):
    server.faults.write(latency=(2 * PATIENCE, 2 * PATIENCE))  # it would not end before it is stopped
    page = visit()
    page.fill("#prompt", "a")
    page.fill("#max", "60")
    page.click("#go")
    eventually(lambda: not server.is_idle(), "the request runs")
    page.click("#stop")
    await_text(page, "#result", r"; stopped\.$")
    server.await_idle()
    assert page.is_enabled("#go")
    server.faults.release()


def test_what_is_wrong_with_a_request_is_told(visit):
    page = visit()
    page.fill("#max", "4000")
    page.click("#go")
    assert "context is 64 tokens" in await_text(page, "#result", "^Failed")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_need_not_scroll_sideways(visit, load, scheme):
    page = visit(size=PHONE, color_scheme=scheme, is_mobile=True, has_touch=True)
    await_text(page, "#curvenote", "present size")
    page.fill("#max", "20")
    page.click("#go")
    await_text(page, "#result", r"tokens.*\.$")
    assert not is_too_wide(page)


def test_dark_is_dark(visit):
    light, dark = (background(visit(color_scheme=scheme)) for scheme in ("light", "dark"))
    assert ("rgb(246, 247, 246)", "rgb(16, 21, 19)") == (light, dark)


def test_a_key_is_asked_for_once_and_kept_for_the_tab(visit):
    page = visit(with_key=False)
    page.wait_for_selector("#keyform", state="visible")
    page.fill("#key", "another")
    page.click("#keyform button")
    await_text(page, "#keyerror", "does not know")
    page.fill("#key", KEY)
    page.click("#keyform button")
    page.wait_for_selector("#keyform", state="hidden")
    await_text(page, "#kept", "B$")
    page.reload()
    await_text(page, "#kept", "B$")
    assert page.is_hidden("#keyform")


def test_nothing_is_asked_for_while_nobody_looks(visit):
    page = visit()
    page.clock.install()
    await_text(page, "#state", "^ready$")
    page.evaluate("""() => {
        Object.defineProperty(document, "visibilityState", { value: "hidden", configurable: true });
        document.dispatchEvent(new Event("visibilitychange"));
    }""")
    page.wait_for_load_state("networkidle")
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.clock.run_for(30_000)
    assert [] == asked
    page.evaluate("""() => {
        delete document.visibilityState;
        document.dispatchEvent(new Event("visibilitychange"));
    }""")
    eventually(lambda: page.evaluate("1") and asked, "the page asks again")


def test_an_engine_that_is_gone_is_told_and_so_is_its_return(visit, server):
    page = visit()
    await_text(page, "#state", "^ready$")
    server.kill_engine()
    await_text(page, "#state", "^engine restarting$")
    assert "is being started again" in page.inner_text("#notice")
    await_text(page, "#state", "^ready$")
    assert page.is_hidden("#notice")


def test_a_server_that_is_gone_is_told(visit, server):
    page = visit()
    await_text(page, "#state", "^ready$")
    server.close()
    await_text(page, "#state", "^unreachable$")
    assert "does not answer" in page.inner_text("#notice")
