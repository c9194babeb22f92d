"""Metrics of a server whose engine dies: no counter falls, and nothing is told of an engine that is gone."""

from itertools import pairwise

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from server.config import ServerConfig
from server.engine.config import EngineConfig
from server.http.metrics.collector import MetricsCollector
from server.http.metrics.sources import ServerMetrics
from server.process.client import Backoff
from server.process.errors import EngineDiedError
from tests.server.process.conftest import PATIENCE
from tests.server.process.counting_worker import DIE, HOLD
from tests.server.process.samples import request, tokens_of

pytestmark = pytest.mark.anyio


def figures(client):
    registry = CollectorRegistry()
    config = ServerConfig(engine=EngineConfig(model="counting"))
    registry.register(MetricsCollector(config, client, ServerMetrics()))
    families = text_string_to_metric_families(generate_latest(registry).decode())
    samples = [(family.type, sample) for family in families for sample in family.samples]
    return {(kind, sample.name, *sample.labels.items()): sample.value for kind, sample in samples}


def counters(found):
    return {name: value for name, value in found.items() if name[0] != "gauge"}


def named(found, name):
    return [value for key, value in found.items() if key[1] == f"tolbooth_{name}"]


async def test_no_counter_falls_when_the_engine_dies(client):
    seen = [figures(client)]
    for max_tokens in (7, 3, 5):
        await tokens_of(client.submit(request(max_tokens=max_tokens)))
        await client.refresh_stats(PATIENCE)
        seen.append(figures(client))
        with pytest.raises(EngineDiedError):
            await tokens_of(client.submit(request(kind=DIE)))
        seen.append(figures(client))
        await client.wait_ready(PATIENCE)
        seen.append(figures(client))
    for before, after in pairwise(seen):
        assert before.keys() <= after.keys()
        assert all(value <= after[name] for name, value in counters(before).items())
    assert [[15], [15], [3]] == [
        named(seen[-1], name) for name in ("generation_tokens_total", "tol_row_requests_total", "engine_restarts_total")
    ]


async def test_the_identity_of_rows_holds_while_an_engine_runs_and_dies(client):
    async with client.submit(request("held", HOLD, max_tokens=9)) as held:
        await anext(held)
        for _ in range(20):
            await client.refresh_stats(PATIENCE)
            found = figures(client)
            parts = [*named(found, "tol_row_hits_total"), *named(found, "tol_major_faults_total")]
            assert named(found, "tol_row_requests_total") == [sum(parts)]
            assert 3 == len(parts)


async def test_a_dead_engine_has_nothing_that_runs(clients):
    client = clients(backoff=Backoff(first=1000, longest=1000))
    await client.start()
    await client.wait_ready(PATIENCE)
    async with client.submit(request("held", HOLD)) as held:
        await anext(held)
        assert 1 == (await client.refresh_stats(PATIENCE)).requests_running
        assert [[1], [1]] == [named(figures(client), name) for name in ("requests_running", "engine_up")]
        with pytest.raises(EngineDiedError):
            await tokens_of(client.submit(request(kind=DIE)))
        assert [[0], [0]] == [named(figures(client), name) for name in ("requests_running", "engine_up")]
