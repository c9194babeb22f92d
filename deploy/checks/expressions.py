"""Every PromQL expression of the dashboards and the rules, with where it stands.

Knows the two forms of file. Knows nothing of what an expression means.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

DEPLOY = Path(__file__).resolve().parents[1]
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
RULES = sorted((DEPLOY / "prometheus" / "rules").glob("*.yml"))

_LABEL_VALUES = "label_values("


class Expression(NamedTuple):
    """One expression as it is written."""

    where: str
    text: str


def panel_expressions(path: Path) -> Iterator[Expression]:
    """Yield those of a dashboard's panels."""
    for panel in panels(path):
        for target in panel.get("targets", ()):
            yield Expression(f"{path.stem}: {panel['title']}, {target['refId']}", target["expr"])


def variable_expressions(path: Path) -> Iterator[Expression]:
    """Yield the selectors by which a dashboard's variables find their values."""
    for variable in _read(path)["templating"]["list"]:
        if variable["type"] == "query":
            text = variable["query"]["query"]
            assert text.startswith(_LABEL_VALUES), text
            metric, _, label = text.removeprefix(_LABEL_VALUES).removesuffix(")").rpartition(",")
            yield Expression(f"{path.stem}: ${variable['name']}", f"count by ({label.strip()}) ({metric})")


def rules() -> Iterator[dict[str, Any]]:
    """Yield every recording and alerting rule."""
    for path in RULES:
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]:
            yield from group["rules"]


def rule_expressions() -> Iterator[Expression]:
    """Yield those of the rules."""
    for rule in rules():
        yield Expression(f"rule: {rule.get('record') or rule['alert']}", rule["expr"])


def panels(path: Path) -> list[dict[str, Any]]:
    """Return a dashboard's panels."""
    found: list[dict[str, Any]] = _read(path)["panels"]
    return found


def substituted(text: str, *, window: str) -> str:
    """Return an expression as Grafana sends it: all servers, rates over `window`."""
    return text.replace("$instance", ".*").replace("$__rate_interval", window).replace("$__range", window)


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
