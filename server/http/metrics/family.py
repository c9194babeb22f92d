"""What a metric is: its name, what it means, its labels, and where its values come from.

Knows Prometheus' model of data. Knows no metric.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.utils import floatToGoString

from server.http.metrics.distribution import Distribution
from server.http.metrics.sources import Sources

PREFIX = "tolbooth_"

Labels = tuple[str, ...]
"""One value for each of a family's labels, in their order."""
Values = Mapping[Labels, float]


class Kind(StrEnum):
    """How a family's values behave."""

    COUNTER = "counter"  # never falls
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, kw_only=True)
class Family:
    """A counter or a gauge, for each combination of its labels' values."""

    name: str
    """Without the prefix; a counter's ends in `_total`."""
    kind: Kind
    text: str
    """What it says, in a sentence."""
    unit: str
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Each label's values, all of which are there from the first scrape; none: what there is, the source says."""
    read: Callable[[Sources], Values]

    def metric(self, sources: Sources) -> Metric:
        """Return what stands in a scrape."""
        make = CounterMetricFamily if self.kind is Kind.COUNTER else GaugeMetricFamily
        metric = make(PREFIX + self.name, self.text, labels=[*self.labels])
        for labels, value in self.read(sources).items():
            metric.add_metric(labels, value)
        return metric


@dataclass(frozen=True, kw_only=True)
class HistogramFamily:
    """A histogram, for each combination of its labels' values."""

    name: str
    text: str
    unit: str
    bounds: Sequence[float]
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    read: Callable[[Sources], Mapping[Labels, Distribution]]
    kind: Kind = Kind.HISTOGRAM

    def metric(self, sources: Sources) -> Metric:
        """Return what stands in a scrape."""
        metric = HistogramMetricFamily(PREFIX + self.name, self.text, labels=[*self.labels])
        names = [*map(floatToGoString, self.bounds), "+Inf"]
        for labels, found in self.read(sources).items():
            metric.add_metric(labels, [*zip(names, accumulate(found.counts), strict=True)], found.sum)
        return metric


AnyFamily = Family | HistogramFamily
