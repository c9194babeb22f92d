"""What was found out about a model's memory, as one page of HTML that needs nothing from elsewhere and as JSON.

Knows how findings look. Charts are SVG made here; long lists are made in the page, from the findings that it carries.
"""

import html
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.analysis.definitions import DEFINITIONS
from models.analysis.report_sections import alpha_section, layers_section
from models.errors import ConfigError

_ASSETS = Path(__file__).parent
_SECTIONS = {
    "layers": "Layers",
    "alpha": "Alpha",
    "clusters": "Clusters",
    "map": "Map",
    "tokens": "Tokens",
    "cells": "Cells",
    "method": "Method",
}


def check_page(path: Path) -> None:
    """Raise `ConfigError` where a page cannot go there, before it is made."""
    if path.suffix == ".json":
        raise ConfigError(f"the page cannot be called {path.name}: the JSON beside it is; name it {path.stem}.html")
    if not path.parent.is_dir():
        raise ConfigError(f"cannot write {path}: there is no directory {path.parent}; make it first")
    if path.is_dir():
        raise ConfigError(f"cannot write {path}: it is a directory; name a file in it")


def write_report(report: Mapping[str, Any], path: Path) -> Path:
    """Write the page, and the same findings as JSON beside it; return the JSON's path. Raises `ConfigError`."""
    check_page(path)
    json_path = path.with_suffix(".json")
    _write(json_path, json.dumps(report) + "\n")
    _write(path, render(report))
    return json_path


def render(report: Mapping[str, Any]) -> str:
    """Return the page."""
    name = html.escape(report["model"]["name"])
    links = "".join(f'<a href="#{anchor}">{label}</a>' for anchor, label in _SECTIONS.items())
    picker = '<div class="pick layers" role="group" aria-label="Layer"></div>'
    # Inside a script element only `<` could end it or begin a comment.
    data = json.dumps(_for_page(report), separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>The memory of {name}</title>
<link rel="icon" href="data:,">
<style>
{_asset("report.css")}</style>
</head>
<body>
<header>
<h1>The memory of {name}</h1>
<p>{html.escape(_lead(report))}</p>
{_facts(report)}
</header>
<nav><div>{links}<span class="gap"></span>\
<button class="ghost" id="theme" type="button">light / dark</button></div></nav>
<main>
<section id="layers"><h2>Layers</h2>
<p class="lead">What each layer's memory is worth, and what it looks like from outside.</p>
{layers_section(report)}</section>
<section id="alpha"><h2>Alpha</h2>
<p class="lead">The same models with the memory scaled down in all layers at once: recalling, and reading context.</p>
{alpha_section(report)}</section>
<section id="clusters"><h2>Clusters</h2>
<p class="lead">Tokens that read the same cells, by k-means; a rule gave each its name, or none.</p>
<div class="bar">{picker}<div class="pick" id="cluster-filter">\
<button type="button" data-show="all" aria-pressed="true">all</button>\
<button type="button" data-show="named" aria-pressed="false">named</button>\
<button type="button" data-show="unnamed" aria-pressed="false">unnamed</button></div>
<input id="cluster-search" type="search" placeholder="name or token" aria-label="Search clusters"></div>
<p class="note" id="clusters-of"></p><br><div class="cards" id="cluster-cards"></div></section>
<section id="map"><h2>Map</h2>
<p class="lead">The commonest tokens by t-SNE of their coefficients; colours are clusters. Point at one to see it.</p>
<div class="bar">{picker}</div><div class="panel" id="map-plot"></div></section>
<section id="tokens"><h2>Tokens</h2>
<p class="lead">Which cells a token reads, and which other tokens read the same ones.</p>
<div class="bar">{picker}
<input id="token-search" type="search" placeholder="token, or #id" aria-label="Search tokens"></div>
<div class="panel" id="token" hidden></div>
<p class="note" id="tokens-of"></p><br><div class="panel scroll"><table class="rows" id="tokens-table"><thead><tr>
<th data-sort="text">token</th><th data-sort="id" class="num">id</th><th data-sort="count" class="num">in training</th>
<th data-sort="outliers" class="num">outliers</th><th>cluster</th><th data-sort="strongest">strongest cells</th>
<th>nearest tokens</th></tr></thead><tbody id="token-rows"></tbody></table></div></section>
<section id="cells"><h2>Cells</h2>
<p class="lead">Which tokens read a cell, and what its value promotes where the coefficient is above 0.</p>
<div class="bar">{picker}
<input id="cell-search" type="search" placeholder="token, or #cell" aria-label="Search cells"></div>
<p class="note" id="cells-of"></p><br><div class="panel scroll"><table class="rows" id="cells-table"><thead><tr>
<th data-sort="id" class="num">cell</th><th data-sort="magnitude" class="num">mean |c|</th><th>read by</th>
<th>promotes</th><th>suppresses</th>
</tr></thead><tbody id="cell-rows"></tbody></table></div></section>
<section id="method"><h2>Method</h2>
<p class="lead">How each figure on this page was come by.</p>
<div class="panel"><dl>{_definitions()}</dl></div></section>
</main>
<footer>Made by <code>tolbooth inspect report</code> on {html.escape(report["made"])}.</footer>
<div id="tip" role="status"></div>
<script type="application/json" id="data">{data}</script>
<script>
{_asset("report.js")}</script>
</body>
</html>
"""


def count_named(report: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many clusters have a name, and how many there are, in all layers."""
    clusters = [cluster for layer in report["memory"]["layers"] for cluster in layer["clusters"]]
    return sum(cluster["named"] for cluster in clusters), len(clusters)


def _for_page(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the page's script reads; the rest is in the page already."""
    keys = ("layer", "clusters", "cells", "map", "of_tokens")
    memory = report["memory"]
    layers = [{key: layer[key] for key in keys} for layer in memory["layers"]]
    return {
        "memory": {"tokens": memory["tokens"], "counts": memory["counts"], "layers": layers},
        "vocabulary": report["vocabulary"],
    }


def _lead(report: Mapping[str, Any]) -> str:
    model = report["model"]
    return (
        f"Each of its {model['vocab_size']:,} tokens reads {model['cells']:,} cells in each of {model['layers']} "
        "layers: the keys are rows of W_up, the values rows of W_down transposed, and the gate reweights. What a token "
        "reads does not depend on its context, so all of it can be looked at."
    )


def _facts(report: Mapping[str, Any]) -> str:
    named, clusters = count_named(report)
    whole = report["importance"][0]["whole"]
    facts = {
        "kind": report["model"]["kind"],
        "tokens": f"{report['model']['vocab_size']:,}",
        "layers x cells": f"{report['model']['layers']} x {report['model']['cells']:,}",
        "parameters": f"{report['model']['parameters'] / 1e6:,.1f}M",
        "clusters named": f"{named} of {clusters}",
        "perplexity of the text": f"{whole:.2f}",
    }
    tiles = "".join(f"<div><b>{html.escape(value)}</b><span>{name}</span></div>" for name, value in facts.items())
    return f'<div class="facts">{tiles}</div>'


def _definitions() -> str:
    return "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>" for name, text in DEFINITIONS.items())


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def _write(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from error
