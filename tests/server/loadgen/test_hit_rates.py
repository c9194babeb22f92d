import asyncio

import pytest

from server.loadgen.hit_rates import hit_rates, read_totals

PAGE = """\
# TYPE tolbooth_tol_row_requests_total counter
tolbooth_tol_row_requests_total {requests}
# TYPE tolbooth_tol_row_hits_total counter
tolbooth_tol_row_hits_total{{tier="device"}} {device}
tolbooth_tol_row_hits_total{{tier="host"}} {host}
# TYPE tolbooth_tol_major_faults_total counter
tolbooth_tol_major_faults_total {faults}
# TYPE tolbooth_tol_read_bytes_total counter
tolbooth_tol_read_bytes_total{{tier="storage"}} {bytes}
tolbooth_tol_read_bytes_total{{tier="host"}} 5
# TYPE other gauge
other 1
"""


def page(requests=0, device=0, host=0, faults=0, num_bytes=0):
    return PAGE.format(requests=requests, device=device, host=host, faults=faults, bytes=num_bytes)


def read(server):
    return asyncio.run(read_totals(server.url))


def test_rates_are_of_what_happened_between(server):
    server.metrics = [page(10, 5, 3, 2, 200), page(110, 85, 13, 12, 1200)]
    rates = hit_rates(read(server), read(server))
    assert (100, 1000) == (rates.row_requests, rates.bytes_read)
    assert (0.8, 0.1, 0.1) == pytest.approx((rates.device, rates.host, rates.storage))


def test_no_requests_have_no_rates(server):
    server.metrics = [page(10, 10), page(10, 10)]
    assert hit_rates(read(server), read(server)) is None


@pytest.mark.parametrize("answer", ["# TYPE other gauge\nother 1\n", "no metrics at all {", ""])
def test_another_server_has_no_rows(server, answer):
    server.metrics = [answer]
    assert read(server) is None


def test_a_server_without_metrics_has_no_rows(server):
    assert read(server) is None
