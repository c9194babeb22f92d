"""The parts of a Grafana dashboard, as the JSON that Grafana reads: panels, rows, variables.

Knows Grafana's forms and where a panel goes. Knows nothing of what is shown (`tol_cache.py`, `serving.py`).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

Json = dict[str, Any]

_WIDTH = 24
_SCHEMA_VERSION = 39
"""Of Grafana 11; later ones bring it up to date when they load it."""
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
_GREEN, _YELLOW, _RED = "green", "yellow", "red"


class Query(NamedTuple):
    """An expression, and the legend of what it gives."""

    expression: str
    legend: str = ""


class Steps(NamedTuple):
    """Where a value becomes noteworthy, and where bad; bad is below where `bad` is the smaller."""

    noteworthy: float
    bad: float


def timeseries(
    title: str,
    text: str,
    queries: Sequence[Query],
    *,
    unit: str,
    width: int = 8,
    stacked: bool = False,
    top: float | None = None,
) -> Json:
    """Return a panel of lines over time; stacked: as areas on top of one another; top: where the axis ends."""
    custom: Json = {"lineWidth": 1, "fillOpacity": 30 if stacked else 8, "showPoints": "never", "spanNulls": False}
    custom["stacking"] = {"mode": "normal" if stacked else "none", "group": "A"}
    defaults: Json = {"unit": unit, "min": 0, "custom": custom}
    if top is not None:
        defaults["max"] = top
    options = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return _panel("timeseries", title, text, queries, defaults=defaults, options=options, size=(width, 8))


def stat(
    title: str,
    text: str,
    query: Query,
    *,
    unit: str,
    width: int = 4,
    steps: Steps | None = None,
    decimals: int | None = None,
) -> Json:
    """Return a panel of one number, coloured by its steps."""
    defaults: Json = {"unit": unit, "thresholds": _thresholds(steps), "color": {"mode": "thresholds"}}
    if decimals is not None:
        defaults["decimals"] = decimals
    options = {
        "colorMode": "none" if steps is None else "value",
        "graphMode": "area",
        "justifyMode": "auto",
        "orientation": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "textMode": "auto",
    }
    return _panel("stat", title, text, [query], defaults=defaults, options=options, size=(width, 4))


def facts(title: str, text: str, query: Query, *, labels: Sequence[str], width: int = 24) -> Json:
    """Return a table of the labels that the newest series of an expression bear."""
    options = {"showHeader": True, "cellHeight": "sm"}
    panel = _panel("table", title, text, [query], defaults={}, options=options, size=(width, 4))
    panel["targets"][0] |= {"format": "table", "instant": True, "range": False}
    shown = {label: index for index, label in enumerate(labels)}
    panel["transformations"] = [
        {"id": "filterFieldsByName", "options": {"include": {"names": list(labels)}}},
        {"id": "organize", "options": {"indexByName": shown, "excludeByName": {}, "renameByName": {}}},
    ]
    return panel


def heatmap(title: str, text: str, query: Query, *, unit: str, width: int = 12) -> Json:
    """Return a heat map of a histogram's buckets over time; the expression gives them by `le`."""
    options = {
        "calculate": False,
        "cellGap": 1,
        "color": {"mode": "scheme", "scheme": "Turbo", "scale": "exponential", "exponent": 0.5, "steps": 64},
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "tooltip": {"mode": "single", "yHistogram": True},
        "yAxis": {"axisPlacement": "left", "unit": unit},
    }
    panel = _panel("heatmap", title, text, [query], defaults={}, options=options, size=(width, 8))
    panel["targets"][0] |= {"format": "heatmap", "legendFormat": "{{le}}"}
    return panel


def note(title: str, markdown: str, *, width: int) -> Json:
    """Return a panel of text."""
    options = {"mode": "markdown", "content": markdown, "code": {"language": "plaintext"}}
    return {"type": "text", "title": title, "gridPos": {"w": width, "h": 8}, "options": options}


def section(title: str) -> Json:
    """Return the heading of the panels that follow."""
    return {"type": "row", "title": title, "collapsed": False, "gridPos": {"w": _WIDTH, "h": 1}, "panels": []}


def dashboard(*, uid: str, title: str, text: str, panels: Sequence[Json], links: Sequence[Json] = ()) -> Json:
    """Return a dashboard of panels laid out from left to right, top to bottom, in their order."""
    return {
        "uid": uid,
        "title": title,
        "description": text,
        "tags": ["tolbooth"],
        "schemaVersion": _SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timepicker": {},
        "timezone": "browser",
        "annotations": {"list": []},
        "links": list(links),
        "templating": {"list": [_datasource_variable(), _instance_variable()]},
        "panels": _laid_out(panels),
    }


def link(title: str, uid: str) -> Json:
    """Return a link to another dashboard, which shows the same servers and times."""
    return {
        "type": "link",
        "title": title,
        "url": f"/d/{uid}",
        "icon": "dashboard",
        "includeVars": True,
        "keepTime": True,
        "targetBlank": False,
        "tags": [],
        "asDropdown": False,
        "tooltip": "",
    }


def _panel(
    kind: str,
    title: str,
    text: str,
    queries: Sequence[Query],
    *,
    defaults: Json,
    options: Json,
    size: tuple[int, int],
) -> Json:
    targets = [
        {
            "refId": chr(ord("A") + index),
            "datasource": _DATASOURCE,
            "editorMode": "code",
            "expr": query.expression,
            "legendFormat": query.legend or "__auto",
            "range": True,
        }
        for index, query in enumerate(queries)
    ]
    return {
        "type": kind,
        "title": title,
        "description": text,
        "datasource": _DATASOURCE,
        "gridPos": {"w": size[0], "h": size[1]},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": targets,
    }


def _thresholds(steps: Steps | None) -> Json:
    found: list[Json] = [{"color": _GREEN, "value": None}]
    if steps is not None and steps.bad >= steps.noteworthy:
        found += [{"color": _YELLOW, "value": steps.noteworthy}, {"color": _RED, "value": steps.bad}]
    elif steps is not None:
        found = [
            {"color": _RED, "value": None},
            {"color": _YELLOW, "value": steps.bad},
            {"color": _GREEN, "value": steps.noteworthy},
        ]
    return {"mode": "absolute", "steps": found}


def _datasource_variable() -> Json:
    return {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "current": {},
        "hide": 0,
        "includeAll": False,
        "multi": False,
        "options": [],
        "refresh": 1,
        "regex": "",
    }


def _instance_variable() -> Json:
    expression = "label_values(tolbooth_engine_up, instance)"
    return {
        "name": "instance",
        "label": "Server",
        "type": "query",
        "datasource": _DATASOURCE,
        "definition": expression,
        "query": {"query": expression, "refId": "instance"},
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
        "hide": 0,
        "includeAll": True,
        "multi": True,
        "options": [],
        "refresh": 2,
        "regex": "",
        "sort": 1,
    }


def _laid_out(panels: Sequence[Json]) -> list[Json]:
    """Give each panel its number and its place: beside the last where there is room, else below all so far."""
    placed: list[Json] = []
    left, top, height = 0, 0, 0
    for number, panel in enumerate(panels, start=1):
        size = panel["gridPos"]
        if left + size["w"] > _WIDTH:
            left, top, height = 0, top + height, 0
        placed.append({"id": number, **panel, "gridPos": {"x": left, "y": top, **size}})
        left, height = left + size["w"], max(height, size["h"])
    return placed
