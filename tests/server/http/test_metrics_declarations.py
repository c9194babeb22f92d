"""The families as they are declared: by the rules of naming, as the page on metrics says, and all of them exported."""

import ast
import re
from itertools import product
from pathlib import Path

import pytest

from server.engine.messages import EngineStats
from server.http.errors import CODES
from server.http.metrics.collector import FAMILIES
from server.http.metrics.family import PREFIX, Kind
from server.http.metrics.routes import OTHER, RouteMetrics
from server.process.client import EngineState
from tests.server.http.scrapes import scrape

ROOT = Path(__file__).parents[3]
UNITS = {"seconds": "seconds", "bytes": "bytes", "ratio": "ratio"}
"""What names end in that have these units, but for `_total`."""


def documented():
    """The rows of the page: name, type, labels and unit."""
    text = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    return {tuple(each[:4]) for each in cells if len(each) == 5 and each[0].startswith(f"`{PREFIX}")}


def label_cell(family):
    texts = [f"`{name}`" + (f": {', '.join(values)}" if values else "") for name, values in family.labels.items()]
    return ", ".join(texts)


def test_the_page_lists_all_families_and_no_other():
    declared = {(f"`{PREFIX}{each.name}`", str(each.kind), label_cell(each), each.unit) for each in FAMILIES}
    assert declared == documented()


def test_names_are_told_once():
    assert len(FAMILIES) == len({family.name for family in FAMILIES})


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_name_is_by_the_rules(family):
    assert re.fullmatch(r"[a-z]+(_[a-z0-9]+)*", family.name)
    assert (family.kind is Kind.COUNTER) is family.name.endswith("_total")
    assert not family.name.endswith(("_count", "_sum", "_bucket", "_created"))
    assert re.search("milli|micro|nano|kilo|mega|giga|minutes|hours|percent", family.name) is None
    if family.unit in UNITS:
        assert family.name.removesuffix("_total").endswith(f"_{UNITS[family.unit]}")
    if family.name.endswith("_info"):
        assert family.kind is Kind.GAUGE
    assert all(re.fullmatch("[a-z_]+", label) and label not in {"le", "quantile", "job"} for label in family.labels)
    assert family.text.endswith(".")


def test_bounds_rise():
    for family in FAMILIES:
        if family.kind is Kind.HISTOGRAM:
            assert [*family.bounds] == sorted({*family.bounds})


@pytest.mark.anyio
@pytest.mark.parametrize("is_loading", [True, False])
async def test_every_value_of_every_label_is_there_from_the_first_scrape(client, engine, is_loading):
    if is_loading:
        engine.stats, engine.info, engine.state = None, None, EngineState.STARTING
    else:
        engine.stats = EngineStats()  # nothing is paged
    found = await scrape(client)
    assert {PREFIX + family.name.removesuffix("_total") for family in FAMILIES} == found.keys()
    for family in FAMILIES:
        told = {
            tuple(sample.labels[label] for label in family.labels)
            for sample in found[PREFIX + family.name.removesuffix("_total")].samples
        }
        if is_loading and family.name in {"tol_table_info", "device_memory_bytes"}:
            assert set() == told
        elif all(family.labels.values()):
            assert {*product(*family.labels.values())} == told
        else:
            assert told


@pytest.mark.anyio
async def test_before_anything_happens_every_counter_is_0(client, engine):
    engine.stats, engine.info, engine.state = None, None, EngineState.STARTING
    for name, family in (await scrape(client)).items():
        if family.type in {"counter", "histogram"}:
            assert {0} == {sample.value for sample in family.samples}, name


@pytest.mark.anyio
async def test_types_and_help_are_as_declared(client):
    found = await scrape(client)
    for family in FAMILIES:
        exported = found[PREFIX + family.name.removesuffix("_total")]
        assert (str(family.kind), family.text) == (exported.type, exported.documentation)


def codes_in(tree):
    """The codes that calls give errors, where they are given as plain text."""
    given = [keyword.value for node in ast.walk(tree) if isinstance(node, ast.Call) for keyword in node.keywords]
    names = [keyword.arg for node in ast.walk(tree) if isinstance(node, ast.Call) for keyword in node.keywords]
    return {
        value.value
        for name, value in zip(names, given, strict=True)
        if name == "code" and isinstance(value, ast.Constant) and isinstance(value.value, str)
    }


def test_every_code_of_an_error_is_counted_by_its_name():
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "server/http").rglob("*.py")]
    uncounted = {"invalid_http"}  # what is no HTTP reaches no route
    assert set().union(*map(codes_in, trees)) - uncounted <= CODES


@pytest.mark.anyio
async def test_routes_are_those_of_the_api_and_one_for_all_others(client):
    paths = (await client.get("/openapi.json")).json()["paths"].keys()
    samples = (await scrape(client))["tolbooth_http_requests"].samples
    routes = {sample.labels["route"] for sample in samples}
    assert {*paths, OTHER} <= routes
    assert all(route == OTHER or (route.startswith("/") and ":" not in route) for route in routes)


def test_a_status_that_nobody_foresaw_makes_no_series():
    routes = RouteMetrics()
    routes.declare([])
    before = routes.counts.keys()
    routes.note(OTHER, 418)
    assert (before, 1) == (routes.counts.keys(), routes.counts[OTHER, OTHER])
