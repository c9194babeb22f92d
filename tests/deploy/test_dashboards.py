"""What Grafana is given: panels that ask for what there is, and files that are as they were written."""

import itertools
import json

import pytest

from deploy.checks.expressions import DASHBOARDS, panel_expressions, panels, substituted, variable_expressions
from deploy.checks.promql import selectors
from deploy.grafana.build_dashboards import FOLDER, written
from tests.deploy.known_metrics import known, unknown

_FORMS = {"timeseries", "stat", "table", "heatmap", "text", "row"}


def of_each_panel():
    return [pytest.param(panel, id=f"{path.stem}-{panel['title']}") for path in DASHBOARDS for panel in panels(path)]


def test_the_files_are_what_their_descriptions_make():
    assert written() == {path.name: path.read_text(encoding="utf-8") for path in FOLDER.iterdir()}


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_metric_and_label_asked_for_exists(path):
    expressions = [*panel_expressions(path), *variable_expressions(path)]
    assert expressions
    assert [] == [f"{each.where}: {fault}" for each in expressions for fault in unknown(each.text)]


@pytest.mark.parametrize("panel", of_each_panel())
def test_a_panel_says_what_it_shows_and_in_which_unit(panel):
    if panel["type"] in {"row", "text"}:
        return
    assert panel["description"].endswith(".")
    options = panel["options"].get("yAxis", panel["fieldConfig"]["defaults"])
    assert panel["type"] == "table" or options["unit"]


@pytest.mark.parametrize("panel", of_each_panel())
def test_a_panel_asks_the_chosen_data_source_for_the_chosen_servers(panel):
    assert panel["type"] in _FORMS
    for target in panel.get("targets", ()):
        assert "${datasource}" == target["datasource"]["uid"]
        assert target["expr"].count("tolbooth_") == target["expr"].count('instance=~"$instance"')


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_are_numbered_and_do_not_overlap(path):
    found = panels(path)
    assert [*range(1, len(found) + 1)] == [panel["id"] for panel in found]
    taken = [
        (x, y)
        for place in (panel["gridPos"] for panel in found)
        for x, y in itertools.product(
            range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        )
    ]
    assert len(set(taken)) == len(taken)
    assert max(x for x, _ in taken) < 24


def test_a_table_shows_labels_that_there_are():
    tables = [panel for path in DASHBOARDS for panel in panels(path) if panel["type"] == "table"]
    assert tables
    for panel in tables:
        (selector,) = selectors(substituted(panel["targets"][0]["expr"], window="5m"))
        shown = panel["transformations"][0]["options"]["include"]["names"]
        assert set() == set(shown) - known()[selector.metric].keys()


def test_dashboards_link_to_one_another():
    found = [json.loads(text) for text in written().values()]
    assert {f"/d/{each['uid']}" for each in found} == {link["url"] for each in found for link in each["links"]}


def test_the_headline_is_the_memory_kept_off_the_device():
    first, *_ = panels(FOLDER / "tol-cache.json")
    assert "Memory kept off the device" == first["title"]
