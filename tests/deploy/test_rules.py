"""What Prometheus is given: rules about what there is, alerts that somebody can act upon."""

import re
from pathlib import Path

import pytest
import yaml

from deploy.checks.expressions import DEPLOY, rule_expressions, rules
from tests.deploy.known_metrics import unknown

ROOT = Path(__file__).parents[2]
ALERTS = [rule for rule in rules() if "alert" in rule]
RECORDED = [rule["record"] for rule in rules() if "record" in rule]
CONFIG = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))


def anchors(document):
    """Return the anchors of a page's headings, as a forge makes them."""
    headings = re.findall(r"^#+ (.+)$", (ROOT / document).read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def of_each_alert():
    return pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])


@pytest.mark.parametrize("expression", [*rule_expressions()], ids=lambda each: each.where)
def test_every_metric_and_label_of_a_rule_exists(expression):
    assert [] == unknown(expression.text)


def test_no_two_rules_bear_one_name():
    names = [rule.get("record") or rule["alert"] for rule in rules()]
    assert sorted(set(names)) == sorted(names)


@of_each_alert()
def test_an_alert_says_how_bad_it_is(alert):
    assert alert["labels"]["severity"] in {"warning", "critical"}


@of_each_alert()
def test_an_alert_says_what_is_wrong_and_where(alert):
    assert "$labels.instance" in alert["annotations"]["summary"]
    assert alert["annotations"]["description"].endswith(".")


@of_each_alert()
def test_an_alert_has_a_section_in_the_runbook(alert):
    document, _, anchor = alert["annotations"]["runbook_url"].partition("#")
    assert alert["alert"].lower() == anchor
    assert anchor in anchors(document)


def test_every_section_of_the_runbook_is_of_an_alert():
    sections = {anchor for anchor in anchors("docs/operating.md") if re.fullmatch(r"tolbooth[a-z]+", anchor)}
    assert {alert["alert"].lower() for alert in ALERTS} == sections


@of_each_alert()
def test_a_ratio_of_a_few_requests_alarms_nobody(alert):
    if "ratio_rate5m" in alert["expr"] or ":p95_" in alert["expr"]:
        assert re.search(r"and instance:tolbooth_\w+:rate5m > [0-9.]+", alert["expr"])


def test_every_recorded_figure_is_used():
    used = " ".join(rule["expr"] for rule in ALERTS)
    assert [] == [name for name in RECORDED if name not in used]


def test_the_configuration_finds_the_rules_and_the_server():
    (rule_files,) = CONFIG["rule_files"]
    assert {path.name for path in (DEPLOY / "prometheus").glob(rule_files)} == {"alerts.yml", "recording.yml"}
    tolbooth = CONFIG["scrape_configs"][0]
    assert "tolbooth" == tolbooth["job_name"]
    (files,) = tolbooth["file_sd_configs"][0]["files"]
    (targets,) = (DEPLOY / "prometheus").glob(files)
    assert [{"targets": ["tolbooth:8000"]}] == yaml.safe_load(targets.read_text(encoding="utf-8"))
