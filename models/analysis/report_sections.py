"""The parts of the report that are made of charts and tables: what layers are worth, and what alpha does."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from models.analysis.charts import Series, heat_map, line_chart


def layers_section(report: Mapping[str, Any]) -> str:
    """Return what each layer is worth, and its shape in figures."""
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
        [
            "layer",
            "outliers / token",
            "tokens with any",
            "clustering",
            "chance",
            "explained",
            "named",
            "rank 90%",
            "rank 99%",
        ],
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
    coefficients = [
        Series("clustering coefficient", [(each["layer"], each["clustering"]["coefficient"]) for each in layers]),
        Series("chance", [(each["layer"], each["clustering"]["chance"]) for each in layers], is_reference=True),
    ]
    outliers = [Series("outliers of a token", [(each["layer"], each["outliers"]["mean"]) for each in layers])]
    charts = [
        (
            "Perplexity without one layer",
            line_chart(
                rises,
                x_label="layer left out; where perplexity falls, the point is not shown",
                y_label="perplexity, % more",
                log_y=True,
                title="Importance of layers",
            ),
        ),
        (
            "Singular values of a layer's slice of the table",
            line_chart(spectra, x_label="index", y_label="value", log_x=True, log_y=True, title="Singular values"),
        ),
        (
            "Clustering coefficient",
            line_chart(coefficients, x_label="layer", y_label="share", title="Clustering", y_range=(0, 1)),
        ),
        (
            "Outliers of a token's coefficients",
            line_chart(outliers, x_label="layer", y_label="mean number", title="Outliers", y_range=(0,)),
        ),
    ]
    names = [f"layer {number}" for number in numbers]
    agreement = heat_map(names, numbers, report["memory"]["cluster_agreement"])
    return (
        f'<div class="grid2">{_panels(charts)}</div><div class="stack">'
        f'<div class="panel">{table}<p class="note">{html.escape(_text(report))}</p></div>'
        f'<div class="panel">{shape}</div>'
        f'<div class="panel"><h3>Do two layers group tokens alike? (adjusted Rand index)</h3>{agreement}</div></div>'
    )


def alpha_section(report: Mapping[str, Any]) -> str:
    """Return perplexity and probes by alpha, with examples of the questions."""
    sweeps = report["alpha"]
    names = list(dict.fromkeys(name for each in sweeps for name in each["points"][0]["accuracy"]))
    perplexity = [
        Series(_label(each), [(point["alpha"], point["perplexity"]) for point in each["points"]]) for each in sweeps
    ]
    charts = [
        ("Perplexity", line_chart(perplexity, x_label="alpha", y_label="perplexity", title="Perplexity by alpha"))
    ]
    for name in names:
        lines = [
            Series(_label(each), [(point["alpha"], 100 * point["accuracy"][name]) for point in each["points"]])
            for each in sweeps
            if name in each["points"][0]["accuracy"]
        ]
        points = [(point["alpha"], 100 * report["chance"]) for point in sweeps[0]["points"]]
        chance = Series("chance", points, is_reference=True)
        drawn = line_chart(
            [*lines, chance],
            x_label="alpha",
            y_label="right answers, %",
            title=f"Probe {name} by alpha",
            y_range=(0, 100),
        )
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
    return (
        f'<div class="grid2">{_panels(charts)}</div><div class="stack"><div class="panel">{table}'
        f'<p class="note">{html.escape(_weak_probes(report))}</p></div>{_examples(report)}</div>'
    )


def _panels(charts: Sequence[tuple[str, str]]) -> str:
    return "".join(f'<div class="panel"><h3>{html.escape(title)}</h3>{chart}</div>' for title, chart in charts)


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
            f'<div class="panel"><h3>{html.escape(probe["name"])}</h3>'
            f'<p class="note">{probe["questions"]} questions, for '
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


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; columns whose first entry begins with a digit are numbers."""
    is_number = [bool(rows) and index < len(rows[0]) and rows[0][index][:1].isdigit() for index in range(len(headers))]
    kinds = [' class="num"' if each else "" for each in is_number]
    head = "".join(f"<th{kind}>{html.escape(header)}</th>" for header, kind in zip(headers, kinds, strict=True))
    body = "".join(
        "<tr>"
        + "".join(f"<td{kind}>{html.escape(cell)}</td>" for cell, kind in zip(row, kinds, strict=False))
        + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
