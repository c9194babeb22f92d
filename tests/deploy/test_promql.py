import pytest

from deploy.checks.promql import Matcher, Selector, selectors


def test_a_selector_has_its_matchers():
    expected = [Selector("a_total", (Matcher("tier", "=", "host"), Matcher("status", "=~", "5..")), frozenset())]
    assert expected == selectors('rate(a_total{tier="host",status=~"5.."}[5m])')


def test_labels_of_aggregations_belong_to_what_is_inside_them():
    found = selectors("sum by (job, tier) (rate(a[5m])) / (sum by (job) (b) > 0)")
    assert [("a", {"job", "tier"}), ("b", {"job"})] == [(each.metric, each.kept) for each in found]


def test_every_metric_of_a_long_expression_is_found():
    found = selectors(
        "instance:a:ratio < avg_over_time(instance:a:ratio[1d]) - 0.2 and b > 50 or min_over_time(c[5m]) > 1"
    )
    assert ["instance:a:ratio", "instance:a:ratio", "b", "c"] == [each.metric for each in found]


@pytest.mark.parametrize(
    ("operator", "value", "admitted"),
    [("=", "a", True), ("!=", "a", False), ("=~", "a|b", True), ("=~", "b.*", False), ("!~", "b", True)],
)
def test_a_matcher_admits_what_prometheus_would(operator, value, admitted):
    assert admitted == Matcher("label", operator, value).admits("a")


@pytest.mark.parametrize("text", ["sum(a) by (b)", "deriv(a[5m])", "a[5 m]", "sum(a", "a ? b"])
def test_what_it_does_not_know_is_an_error(text):
    with pytest.raises(ValueError, match=r"."):
        selectors(text)
