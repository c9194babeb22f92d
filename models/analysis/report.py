"""What was found out about a model's memory as one page of HTML that needs nothing from elsewhere, and as JSON beside it.

Knows how findings look. Charts are SVG made here; lists and tables are made in the page, from the findings that it carries.
"""

import html
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from models.analysis.charts import Series, heat_map, line_chart
from models.analysis.definitions import DEFINITIONS
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
    _write(json_path, json.dumps(report, indent=1) + "\n")
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
<nav><div>{links}<span class="gap"></span><button class="ghost" id="theme" type="button">light / dark</button></div></nav>
<main>
<section id="layers"><h2>Layers</h2>
<p class="lead">What each layer's memory is worth, and what it looks like from outside.</p>
{_layers(report)}</section>
<section id="alpha"><h2>Alpha</h2>
<p class="lead">The same models with the memory scaled down in all layers at once: what is recalled and what is read from the context.</p>
{_alpha(report)}</section>
<section id="clusters"><h2>Clusters</h2>
<p class="lead">Tokens that read the same cells, by k-means; a rule gave each its name, or none.</p>
<div class="bar">{picker}<div class="pick" id="cluster-filter"><button type="button" data-show="all" aria-pressed="true">all</button>\
<button type="button" data-show="named" aria-pressed="false">named</button>\
<button type="button" data-show="unnamed" aria-pressed="false">unnamed</button></div>
<input id="cluster-search" type="search" placeholder="name or token" aria-label="Search clusters"></div>
<p class="note" id="clusters-of"></p><br><div class="cards" id="cluster-cards"></div></section>
<section id="map"><h2>Map</h2>
<p class="lead">The commonest tokens by t-SNE of their coefficients; colours are clusters. Point at a token to see its cluster.</p>
<div class="bar">{picker}</div><div class="panel" id="map-plot"></div></section>
<section id="tokens"><h2>Tokens</h2>
<p class="lead">Which cells a token reads, and which other tokens read the same ones.</p>
<div class="bar">{picker}<input id="token-search" type="search" placeholder="token, or #id" aria-label="Search tokens"></div>
<div class="panel" id="token" hidden></div>
<p class="note" id="tokens-of"></p><br><div class="panel scroll"><table class="rows" id="tokens-table"><thead><tr>
<th data-sort="text">token</th><th data-sort="id" class="num">id</th><th data-sort="count" class="num">in training</th>
<th data-sort="outliers" class="num">outliers</th><th>cluster</th><th data-sort="strongest">strongest cells</th><th>nearest tokens</th>
</tr></thead><tbody id="token-rows"></tbody></table></div></section>
<section id="cells"><h2>Cells</h2>
<p class="lead">Which tokens read a cell, and what its value promotes in the vocabulary where the coefficient is above 0.</p>
<div class="bar">{picker}<input id="cell-search" type="search" placeholder="token, or #cell" aria-label="Search cells"></div>
<p class="note" id="cells-of"></p><br><div class="panel scroll"><table class="rows" id="cells-table"><thead><tr>
<th data-sort="id" class="num">cell</th><th data-sort="magnitude" class="num">mean |c|</th><th>read by</th><th>promotes</th><th>suppresses</th>
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
        f"Each of its {model['vocab_size']:,} tokens reads {model['cells']:,} cells in each of {model['layers']} layers: "
        "the keys are rows of W_up, the values rows of W_down transposed, and the gate reweights. What a token reads does "
        "not depend on its context, so all of it can be looked at."
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


def _layers(report: Mapping[str, Any]) -> str:
    importance = report["importance"]
    layers = report["memory"]["layers"]
    numbers = [str(layer["layer"]) for layer in layers]
    rises = [
        Series(_label(each), [(index, _rise(each, without)) for index, without in enumerate(each["without"])])
        for each in importance
    ]
    table = _table(
        ["model", "part left out", "perplexity", *(f"without {index}" for index in range(_most_layers(importance)))],
        [
            [
                each["model"],
                each["part"],
                f"{each['whole']:.2f}",
                *(f"{without:.2f} ({_rise(each, without):+.1f}%)" for without in each["without"]),
            ]
            for each in importance
        ],
    )
    spectra = [
        Series(f"layer {layer['layer']}", list(enumerate(layer["singular_values"], start=1))) for layer in layers
    ]
    shape = _table(
        ["layer", "outliers / token", "tokens with any", "clustering", "chance", "explained", "named", "rank 90%", "rank 99%"],
        [
            [
                str(layer["layer"]),
                f"{layer['outliers']['mean']:.2f}",
                f"{100 * layer['outliers']['share_of_tokens']:.1f}%",
                *(f"{layer['clustering'][key]:.3f}" for key in ("coefficient", "chance", "explained")),
                f"{sum(cluster['named'] for cluster in layer['clusters'])} of {len(layer['clusters'])}",
                str(layer["rank_90"]),
                str(layer["rank_99"]),
            ]
            for layer in layers
        ],
    )
    charts = [
        ("Perplexity without one layer", line_chart(rises, x_label="layer left out", y_label="perplexity, % more", title="Importance of layers")),
        (
            "Singular values of a layer's slice of the table",
            line_chart(spectra, x_label="index", y_label="value", log_x=True, log_y=True, title="Singular values"),
        ),
        (
            "Clustering coefficient, and outliers",
            line_chart(
                [
                    Series("clustering coefficient", [(each["layer"], each["clustering"]["coefficient"]) for each in layers]),
                    Series("outliers per token", [(each["layer"], each["outliers"]["mean"]) for each in layers]),
                ],
                x_label="layer",
                y_label="",
                title="Clustering coefficient and outliers by layer",
            ),
        ),
        (
            "Do two layers group the tokens alike? (adjusted Rand index)",
            heat_map([f"layer {number}" for number in numbers], numbers, report["memory"]["cluster_agreement"]),
        ),
    ]
    panels = "".join(f'<div class="panel"><h3>{title}</h3>{chart}</div>' for title, chart in charts)
    return (
        f'<div class="grid2">{panels}</div><br><div class="panel">{table}<p class="note">{html.escape(_text(report))}</p></div>'
        f'<br><div class="panel">{shape}</div>'
    )


def _alpha(report: Mapping[str, Any]) -> str:
    sweeps = report["alpha"]
    names = list(dict.fromkeys(name for each in sweeps for name in each["points"][0]["accuracy"]))
    perplexity = [
        Series(_label(each), [(point["alpha"], point["perplexity"]) for point in each["points"]]) for each in sweeps
    ]
    charts = [("Perplexity", line_chart(perplexity, x_label="alpha", y_label="perplexity", title="Perplexity by alpha"))]
    for name in names:
        lines = [
            Series(_label(each), [(point["alpha"], 100 * point["accuracy"][name]) for point in each["points"]])
            for each in sweeps
            if name in each["points"][0]["accuracy"]
        ]
        chance = Series("chance", [(point["alpha"], 100 * report["chance"]) for point in sweeps[0]["points"]])
        drawn = line_chart([*lines, chance], x_label="alpha", y_label="right answers, %", title=f"Probe {name} by alpha")
        charts.append((f"Probe: {name}", drawn))
    rows = [
        [
            each["model"],
            each["part"],
            measure,
            *(_point(point, measure) for point in each["points"]),
        ]
        for measure in ("perplexity", *names)
        for each in sweeps
        if measure == "perplexity" or measure in each["points"][0]["accuracy"]
    ]
    table = _table(["model", "part", "measure", *(f"{point['alpha']:.1f}" for point in sweeps[0]["points"])], rows)
    panels = "".join(f'<div class="panel"><h3>{title}</h3>{chart}</div>' for title, chart in charts)
    return (
        f'<div class="grid2">{panels}</div><br><div class="panel">{table}'
        f'<p class="note">{html.escape(_weak_probes(report))}</p></div><br>{_examples(report)}'
    )


def _weak_probes(report: Mapping[str, Any]) -> str:
    """Say which probes are, for which models, not well above chance with all of the memory: those decide little."""
    weak = [
        f"{each['model']} on {name} ({100 * accuracy:.1f}%)"
        for each in report["alpha"]
        for name, accuracy in each["points"][0]["accuracy"].items()
        if accuracy < report["chance"] + 0.1
    ]
    if not weak:
        return "At alpha 1 every model is at least 10 points above chance on every probe."
    return f"Less than 10 points above chance at alpha 1, so that a fall says little: {'; '.join(weak)}."


def _examples(report: Mapping[str, Any]) -> str:
    parts = []
    for probe in report["probes"]:
        questions = "".join(
            f'<p><span class="note">…</span>{html.escape(each["context"])} <b>{html.escape(each["answer"])}</b>'
            f' <span class="note">not {html.escape(", ".join(each["wrong"]))}</span></p>'
            for each in probe["examples"]
        )
        parts.append(
            f'<div class="panel"><h3>{html.escape(probe["name"])}</h3><p class="note">{probe["questions"]} questions, for '
            f"{html.escape(probe['stands_for'])}; three of them:</p>{questions}</div>"
        )
    return f'<div class="grid2">{"".join(parts)}</div>'


def _point(point: Mapping[str, Any], measure: str) -> str:
    return f"{point['perplexity']:.2f}" if measure == "perplexity" else f"{100 * point['accuracy'][measure]:.1f}%"


def _rise(each: Mapping[str, Any], without: float) -> float:
    rise: float = 100 * (without / each["whole"] - 1)
    return rise


def _label(each: Mapping[str, Any]) -> str:
    return f"{each['model']}, {each['part']}"


def _most_layers(importance: Sequence[Mapping[str, Any]]) -> int:
    return max(len(each["without"]) for each in importance)


def _text(report: Mapping[str, Any]) -> str:
    text = report["text"]
    return f"Measured on {text['bytes']:,} bytes, spread evenly over {', '.join(text['files'])}."


def _definitions() -> str:
    return "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>" for name, text in DEFINITIONS.items())


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; columns whose first entry begins with a digit are numbers."""
    is_number = [bool(rows) and index < len(rows[0]) and rows[0][index][:1].isdigit() for index in range(len(headers))]
    kinds = [" class=num" if each else "" for each in is_number]
    head = "".join(f"<th{kind}>{html.escape(header)}</th>" for header, kind in zip(headers, kinds, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{html.escape(cell)}</td>" for cell, kind in zip(row, kinds, strict=False)) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


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
