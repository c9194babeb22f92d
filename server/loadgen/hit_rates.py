"""What a load asked of a Tolbooth server's row memory, by its `/metrics` before and after."""

from collections.abc import Mapping
from dataclasses import dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families

_REQUESTS = "tolbooth_tol_row_requests_total"
_HITS = "tolbooth_tol_row_hits_total"
_FAULTS = "tolbooth_tol_major_faults_total"
_BYTES = "tolbooth_tol_read_bytes_total"

Totals = Mapping[tuple[str, str], float]
"""Counters by name and tier (empty where there is none)."""


@dataclass(frozen=True, kw_only=True)
class HitRates:
    """Of the row requests that were made while a load ran."""

    row_requests: int
    device: float
    """Share found on the device."""
    host: float
    """Share found in the host tier: minor faults."""
    storage: float
    """Share read from storage: major faults."""
    bytes_read: int
    """From storage."""


async def read_totals(url: str, *, api_key: str | None = None, timeout: float = 10.0) -> Totals | None:  # noqa: ASYNC109 httpx keeps it
    """Return a server's counters of rows; None where it has no such metrics (another server, or no paged memory)."""
    headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
    try:
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=timeout, trust_env=False) as http:
            answer = await http.get("metrics")
            answer.raise_for_status()
        families = list(text_string_to_metric_families(answer.text))
    except (httpx.HTTPError, ValueError):
        return None
    totals = {
        (sample.name, sample.labels.get("tier", "")): sample.value
        for family in families
        for sample in family.samples
        if sample.name in {_REQUESTS, _HITS, _FAULTS, _BYTES}
    }
    return totals if (_REQUESTS, "") in totals else None


def hit_rates(before: Totals, after: Totals) -> HitRates | None:
    """Return what happened between two readings; None where no row was asked for."""

    def gained(name: str, tier: str = "") -> float:
        return after.get((name, tier), 0.0) - before.get((name, tier), 0.0)

    requests = gained(_REQUESTS)
    if requests <= 0:
        return None
    return HitRates(
        row_requests=int(requests),
        device=gained(_HITS, "device") / requests,
        host=gained(_HITS, "host") / requests,
        storage=gained(_FAULTS) / requests,
        bytes_read=int(gained(_BYTES, "storage")),
    )
