"""Scrapes of a server, as a reader of Prometheus' format sees them."""

from prometheus_client.parser import text_string_to_metric_families


async def scrape(client):
    """Return the families by name; a counter's is without `_total`, as the parser has it."""
    response = await client.get("/metrics")
    assert 200 == response.status_code
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {family.name: family for family in text_string_to_metric_families(response.text)}


async def values(client):
    """Return the value of every sample by name and labels, `name` or `name{label="value",...}`."""
    return {key_of(sample): sample.value for family in (await scrape(client)).values() for sample in family.samples}


def key_of(sample):
    labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
    return sample.name + (f"{{{labels}}}" if labels else "")
