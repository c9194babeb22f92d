"""Which metrics there are, by the code that exports them and the rules that record them."""

from deploy.checks.expressions import rules, substituted
from deploy.checks.promql import selectors
from server.http.metrics.collector import FAMILIES
from server.http.metrics.family import PREFIX, Kind

_TARGET = {"job": (), "instance": ()}
"""Labels that Prometheus gives to all that it scrapes."""


def known():
    """Return each series' labels with the values that they are known to have; none where they are not known."""
    found = {"up": _TARGET}
    for family in FAMILIES:
        name, labels = PREFIX + family.name, {**_TARGET, **family.labels}
        if family.kind is Kind.HISTOGRAM:
            found |= {f"{name}_sum": labels, f"{name}_count": labels, f"{name}_bucket": {**labels, "le": ()}}
        else:
            found[name] = labels
    return found | {rule["record"]: _TARGET for rule in rules() if "record" in rule}


def unknown(text):
    """Return what an expression asks for that there is not."""
    metrics = known()
    faults = []
    for metric, matchers, kept in selectors(substituted(text, window="5m")):
        labels = metrics.get(metric)
        if labels is None:
            faults.append(f"no metric {metric}")
            continue
        faults += [f"{metric} has no label {label}" for label in sorted(kept - labels.keys())]
        for matcher in matchers:
            if matcher.label not in labels:
                faults.append(f"{metric} has no label {matcher.label}")
            elif values := labels[matcher.label]:
                # Each alternative of a pattern must be there: the others would hide it.
                parts = [matcher._replace(value=part) for part in matcher.value.split("|")]
                faults += [
                    f"{metric} has no {matcher.label} {part.value}"
                    for part in parts
                    if not any(map(part.admits, values))
                ]
    return faults
