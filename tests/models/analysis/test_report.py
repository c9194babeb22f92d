import html.parser
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from models.analysis import findings as findings_module
from models.analysis.cells import CellMemory
from models.analysis.findings import Vocabulary, memory_findings, mentioned_tokens
from models.analysis.report import check_page, count_named, render, write_report
from models.analysis.traits import shown, spelling_traits
from models.errors import ConfigError
from tests.models.analysis.analysis_samples import CONFIG, store

pytest.importorskip("sklearn")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
TOKENS = [f" word{chr(97 + index % 26)}".encode() for index in range(57)] + [b"</script>", b"<!--", b"\xff"]
VOID = {"meta", "link", "input", "br"}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    directory = tmp_path_factory.mktemp("report") / "model"
    store(directory)
    vocabulary = Vocabulary(traits=spelling_traits(TOKENS), counts_V=np.arange(60))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(findings_module, "_MAP_TOKENS", 30)
        memory = memory_findings(CellMemory(directory), vocabulary, num_clusters=4, on_progress=lambda *_: None)
    return {
        "made": "2026-01-01",
        "model": {"name": "<toy>", "kind": "memoryllm", "vocab_size": 60, "hidden_size": 24, "layers": 2, "cells": 40}
        | {"parameters": CONFIG.total_params},
        "text": {"files": ["a<b.txt"], "bytes": 100},
        "memory": memory,
        "importance": [
            {"model": "<toy>", "kind": "memoryllm", "part": "memory", "whole": 50.0, "without": [60.0, 51.0]},
            {"model": "dense", "kind": "dense", "part": "ffn", "whole": 40.0, "without": [80.0, 41.0, 70.0]},
        ],
        "alpha": [
            {
                "model": "<toy>",
                "part": "memory",
                "points": [
                    {"alpha": 1.0, "perplexity": 50.0, "accuracy": {"recall": 0.6, "copy": 0.3}},
                    {"alpha": 0.5, "perplexity": 90.0, "accuracy": {"recall": 0.4, "copy": 0.28}},
                ],
            }
        ],
        "probes": [
            {
                "name": "recall",
                "stands_for": "recall",
                "questions": 300,
                "examples": [{"context": "at <b>", "answer": '" least"', "wrong": ['" most"']}],
            }
        ],
        "chance": 0.25,
        "vocabulary": {str(token): shown(TOKENS[token]) for token in mentioned_tokens(memory)},
    }


@pytest.fixture(scope="module")
def page(report):
    return render(report)


class Elements(html.parser.HTMLParser):
    """Checks that elements are closed in order; gathers their attributes."""

    def __init__(self):
        super().__init__()
        self.open, self.attributes, self.ids = [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def elements_of(page):
    elements = Elements()
    elements.feed(page)
    elements.close()
    return elements


def test_elements_are_closed_and_ids_are_there_once(page):
    elements = elements_of(page)
    assert [] == elements.open
    assert len(set(elements.ids)) == len(elements.ids)


def test_nothing_comes_from_elsewhere(page):
    elements = elements_of(page)
    links = [value for name, value in elements.attributes if name in {"src", "href", "action", "data"}]
    assert all(link.startswith(("#", "data:")) for link in links)
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest", page)


def test_what_the_script_asks_for_is_on_the_page(page):
    script = page.rpartition("<script>")[2]
    ids = set(re.findall(r'byId\("([\w-]+)"\)', script))
    assert ids
    assert ids <= set(elements_of(page).ids)


def test_the_script_can_read_its_findings(page, report):
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    carried = json.loads(data)
    assert report["vocabulary"] == carried["vocabulary"]
    assert [0, 1] == [layer["layer"] for layer in carried["memory"]["layers"]]


def test_no_name_becomes_markup(page):
    assert "<toy>" not in page
    assert "a<b.txt" not in page
    assert 2 == page.count("</script>")


def test_weak_probes_are_named(page):
    assert "Less than 10 points above chance at alpha 1" in page
    assert "&lt;toy&gt; on copy (30.0%)" in page


def test_json_lies_beside_the_page(report, tmp_path):
    assert tmp_path / "page.json" == write_report(report, tmp_path / "page.html")
    assert report == json.loads((tmp_path / "page.json").read_text())
    assert (tmp_path / "page.html").read_text().startswith("<!DOCTYPE html>")
    assert {"page.html", "page.json"} == {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize(
    ("name", "message"),
    [("page.json", "the JSON beside it is"), ("none/page.html", "no directory"), (".", "is a directory")],
)
def test_a_place_where_no_page_can_be_is_a_mistake(tmp_path, name, message):
    with pytest.raises(ConfigError, match=message):
        check_page(tmp_path / name)


def test_clusters_are_counted_over_all_layers(report):
    named, clusters = count_named(report)
    assert sum(len(layer["clusters"]) for layer in report["memory"]["layers"]) == clusters
    assert 0 <= named <= clusters


def test_every_token_is_in_one_cluster_of_each_layer(report):
    for layer in report["memory"]["layers"]:
        assert 60 == sum(cluster["size"] for cluster in layer["clusters"])
        known = {cluster["cluster"] for cluster in layer["clusters"]}
        assert set(layer["of_tokens"]["cluster"]) <= known


def test_every_token_that_is_spoken_of_has_its_word(report):
    assert mentioned_tokens(report["memory"]) == {int(token) for token in report["vocabulary"]}


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium, in whose eyes the page is free of errors")
def test_a_browser_runs_the_page_without_errors(page, tmp_path):
    path = tmp_path / "page.html"
    # What goes wrong is written where the browser's dump of the page shows it.
    watch = (
        "<script>addEventListener('error', (event) => console.error(event.message));"
        "console.error = console.warn = (what) => { document.title = 'ERROR ' + what; };</script>"
    )
    path.write_text(page.replace("<head>", f"<head>{watch}", 1), encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [*command, "--virtual-time-budget=5000", "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    (title,) = re.findall(r"<title>(.*?)</title>", done.stdout, re.DOTALL)[:1]
    assert "The memory of &lt;toy&gt;" == title
    assert 4 == done.stdout.count('<article class="card')
    assert 60 == done.stdout.count('<tr tabindex="0">')
