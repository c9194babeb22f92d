"""Takes the pictures of the status page: the bundled demo with a tenth of its rows in memory, under load.

    .venv/bin/python docs/screenshots/take.py [FOLDER]

Needs Debian's `chromium` (or another, named by CHROMIUM) and the Python package `playwright`.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import httpx
from playwright.sync_api import Page, sync_playwright

FOLDER = Path(__file__).parent
PATIENCE = 600.0
"""Seconds for anything that must happen."""
PROMPTS = (
    "Once upon a time there was a little dragon who",
    "The old miller went to the market because",
    "Tom and Lily found a key under the tree and",
    "In the morning the sea was grey, so the captain",
    "My grandmother always said that a good soup",
    "The robot had never seen snow before, but",
)
PICTURES = {
    "status-light": {"viewport": {"width": 1160, "height": 900}, "color_scheme": "light"},
    "status-dark": {"viewport": {"width": 1160, "height": 900}, "color_scheme": "dark"},
    "status-phone": {"viewport": {"width": 360, "height": 740}, "color_scheme": "light", "is_mobile": True},
}


def keep_asking(url: str, prompt: str, is_over: threading.Event) -> None:
    """Ask for one completion after another."""
    body = {"prompt": prompt, "max_tokens": 80, "temperature": 1.0, "ignore_eos": True}
    with httpx.Client(timeout=PATIENCE) as client:
        while not is_over.is_set():
            client.post(f"{url}/v1/completions", json=body).raise_for_status()


def prepare(page: Page, url: str) -> None:
    """Open the page and wait until all of it shows something."""
    page.set_default_timeout(1000 * PATIENCE)
    page.goto(f"{url}/")
    page.fill("#max", "60")
    page.wait_for_function("() => document.querySelectorAll('#curve .line').length === 3")
    page.click("#go")
    page.wait_for_function("() => /tokens.*[.]$/.test(document.querySelector('#result').textContent)")


def main(folder: Path) -> None:
    """Start a server, load it, take the pictures."""
    with tempfile.TemporaryDirectory() as home:
        server = subprocess.Popen(  # noqa: S603 our own command
            [Path(sys.executable).with_name("tolbooth"), "serve", "--port", "0", "--tol-device-fraction", "0.1"],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "XDG_CACHE_HOME": home},
        )
        is_over = threading.Event()
        threads: list[threading.Thread] = []
        try:
            assert server.stdout is not None
            url = next(line.split()[1] for line in server.stdout if line.startswith("serving")).removesuffix("/v1")
            threads += [
                threading.Thread(target=keep_asking, args=(url, prompt, is_over), daemon=True) for prompt in PROMPTS
            ]
            for thread in threads:
                thread.start()
            take(url, folder)
        finally:
            is_over.set()
            for thread in threads:
                thread.join(PATIENCE)
            server.terminate()
            server.wait(PATIENCE)


def take(url: str, folder: Path) -> None:
    """Take every picture."""
    browser_path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        pages = {name: browser.new_context(**options).new_page() for name, options in PICTURES.items()}
        for page in pages.values():
            prepare(page, url)
        first = next(iter(pages.values()))
        first.wait_for_function("() => past.length >= 60")  # a minute of history at least
        for name, page in pages.items():
            page.bring_to_front()
            page.wait_for_timeout(2500)
            page.screenshot(path=folder / f"{name}.png", full_page=True)
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
