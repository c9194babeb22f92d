"""The expressions that panels are made of, short enough to be read."""

_SERVERS = 'instance=~"$instance"'


def metric(name: str, **labels: str) -> str:
    """Return a selector of a metric of the chosen servers; a value that begins with ~ is a pattern."""
    given = [f'{key}=~"{value[1:]}"' if value.startswith("~") else f'{key}="{value}"' for key, value in labels.items()]
    return f"tolbooth_{name}{{{','.join([_SERVERS, *given])}}}"


def rate(name: str, **labels: str) -> str:
    """Return a counter's growth per second."""
    return f"rate({metric(name, **labels)}[$__rate_interval])"


def total(expression: str, *, by: str = "") -> str:
    """Return a sum over servers, and over all labels but those named."""
    return f"sum by ({by}) ({expression})" if by else f"sum({expression})"


def total_rate(name: str, *, by: str = "", **labels: str) -> str:
    """Return the growth per second of a counter on all servers together."""
    return total(rate(name, **labels), by=by)


def ratio(part: str, whole: str) -> str:
    """Return a ratio; no value while there is nothing that it could be a ratio of."""
    return f"{part} / ({whole} > 0)"


def quantile(share: float, name: str, *, by: str = "", **labels: str) -> str:
    """Return a quantile of a histogram, over all servers together."""
    groups = f"le, {by}" if by else "le"
    return f"histogram_quantile({share:g}, {total_rate(f'{name}_bucket', by=groups, **labels)})"


def mean(name: str, **labels: str) -> str:
    """Return a histogram's mean."""
    return ratio(total_rate(f"{name}_sum", **labels), total_rate(f"{name}_count", **labels))


def buckets(name: str, **labels: str) -> str:
    """Return how often each bucket of a histogram was hit since the last point, for a heat map."""
    return total(f"increase({metric(f'{name}_bucket', **labels)}[$__rate_interval])", by="le")
