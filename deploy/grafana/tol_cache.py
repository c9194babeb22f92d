"""The dashboard "ToL cache": how much memory stays off the device, and what that costs."""

from deploy.grafana.expressions import buckets, metric, quantile, rate, ratio, total, total_rate
from deploy.grafana.panels import (
    Json,
    Query,
    Steps,
    dashboard,
    facts,
    heatmap,
    link,
    note,
    section,
    stat,
    timeseries,
)

UID = "tolbooth-tol-cache"

_REQUESTS = total_rate("tol_row_requests_total")
_HITS = total_rate("tol_row_hits_total")
_FAULTS = total_rate("tol_major_faults_total")
_TABLE_BYTES = total(metric("tol_table_bytes"))
_CACHE_BYTES = total(metric("device_memory_bytes", use="tol_cache"))
_DEVICE_ROWS = total(metric("tol_capacity_rows", tier="device"))

_WORKING_SET = """
**Is the device tier large enough?** Three signs that it is not:

- *turnover* is short: rows leave within seconds, before they are asked for again;
- *hit rate* is well below what `tolbooth size` told for this size and your text;
- *stall share* is above a few percent.

`GET /v1/memory/curve` of each server replays the ids that it saw lately through caches of other sizes: the hit rate
that more, or less, memory would have had. `tolbooth size MODEL --text FILE` does the same before anything is served.
"""


def build() -> Json:
    """Return the dashboard."""
    return dashboard(
        uid=UID,
        title="ToL cache",
        text="Rows of the ToL table: where they are found, how long they take, what room they have.",
        links=[link("Serving", "tolbooth-serving")],
        panels=[*_headline(), *_rows(), *_waiting(), *_room()],
    )


def _headline() -> list[Json]:
    table = ["instance", "encoding", "layers", "vocab_size", "storage", "policy"]
    return [
        stat(
            "Memory kept off the device",
            "Bytes of the ToL tables less what the device tiers hold of them: what would be in the device's memory "
            "without paging.",
            Query(f"{_TABLE_BYTES} - {_CACHE_BYTES}"),
            unit="bytes",
            width=6,
        ),
        stat(
            "Device tier, share of the table",
            "How much of the tables the device tiers have room for.",
            Query(f"{_CACHE_BYTES} / {_TABLE_BYTES}"),
            unit="percentunit",
            width=3,
        ),
        stat(
            "Hit rate",
            "Share of row requests that needed no read from storage.",
            Query(ratio(_HITS, _REQUESTS)),
            unit="percentunit",
            steps=Steps(0.9, 0.7),
            width=3,
        ),
        stat(
            "Major faults",
            "Rows that had to be read from storage, per second.",
            Query(_FAULTS),
            unit="rowsps",
            width=3,
        ),
        stat(
            "Stall share",
            "Share of time during which nothing could run for want of rows; the worst server.",
            Query(f"max({rate('tol_stall_seconds_total')})"),
            unit="percentunit",
            steps=Steps(0.05, 0.3),
            width=3,
        ),
        stat(
            "Rows that could not be read",
            "Within the time shown. Each failed, twice in a row, and with it the requests that needed it.",
            Query(total(f"increase({metric('tol_read_errors_total', cause='~io|short|checksum')}[$__range])")),
            unit="none",
            steps=Steps(1, 1),
            decimals=0,
            width=3,
        ),
        stat(
            "Read from storage",
            "Payload bytes per second.",
            Query(total_rate("tol_read_bytes_total", tier="storage")),
            unit="binBps",
            width=3,
        ),
        facts(
            "Tables",
            "What each server's table is, how it is read, and which policy makes room in the device tier.",
            Query(metric("tol_table_info")),
            labels=table,
        ),
    ]


def _rows() -> list[Json]:
    return [
        section("Rows"),
        timeseries(
            "Row requests by where the row was",
            "One request for each token position. Device: a hit. Host: a minor fault. Storage: a major fault. The "
            "three add up to all requests.",
            [
                Query(total_rate("tol_row_hits_total", by="tier"), "{{tier}}"),
                Query(_FAULTS, "storage"),
            ],
            unit="reqps",
            stacked=True,
        ),
        timeseries(
            "Hit rate by tier",
            "Share of requests answered by the device tier, by the host tier, and by both together.",
            [
                Query(ratio(total_rate("tol_row_hits_total", tier="device"), _REQUESTS), "device"),
                Query(ratio(total_rate("tol_row_hits_total", tier="host"), _REQUESTS), "host"),
                Query(ratio(_HITS, _REQUESTS), "both"),
            ],
            unit="percentunit",
            top=1,
        ),
        timeseries(
            "Major faults",
            "Rows read from storage because somebody needed them, per second and server.",
            [Query(total_rate("tol_major_faults_total", by="instance"), "{{instance}}")],
            unit="rowsps",
        ),
        timeseries(
            "Bytes moved",
            "Payload read from storage, and copied from the host tier to the device, per second.",
            [Query(total_rate("tol_read_bytes_total", by="tier"), "from {{tier}}")],
            unit="binBps",
        ),
        timeseries(
            "Evictions",
            "Rows that made way for others, per second and tier.",
            [Query(total_rate("tol_evictions_total", by="tier"), "{{tier}}")],
            unit="rowsps",
        ),
        timeseries(
            "Prefetch usefulness",
            "Rows that a prefetch asked for first, and how many of them were used before they were evicted. Prefetch "
            "is exact: what is not used belongs to requests that were aborted or preempted, or was evicted too soon.",
            [
                Query(
                    ratio(total_rate("tol_prefetched_rows_used_total"), total_rate("tol_prefetched_rows_total")), "used"
                ),
                Query(ratio(total_rate("tol_prefetched_rows_total"), _FAULTS), "prefetched rows per major fault"),
            ],
            unit="percentunit",
        ),
    ]


def _waiting() -> list[Json]:
    return [
        section("Waiting for rows"),
        timeseries(
            "Stall share",
            "Share of time during which nothing could run for want of rows, by server.",
            [Query(total_rate("tol_stall_seconds_total", by="instance"), "{{instance}}")],
            unit="percentunit",
        ),
        timeseries(
            "Steps sat out",
            "How often a sequence sat out a step because its row was on its way, per second; and the running sequences "
            "that did so in the last step.",
            [
                Query(total_rate("tol_deferred_steps_total"), "per second"),
                Query(total(metric("requests_deferred")), "now"),
            ],
            unit="none",
        ),
        timeseries(
            "In flight",
            "Rows being read now, batches of rows that are waited for, rows that running requests hold.",
            [
                Query(total(metric("tol_reads_in_progress")), "reads"),
                Query(total(metric("tol_waiting_leases")), "waiting leases"),
                Query(total(metric("tol_leased_rows")), "leased rows"),
            ],
            unit="none",
        ),
        heatmap(
            "Fetch latency, storage",
            "Reads from storage by the time from submission to completion.",
            Query(buckets("tol_fetch_seconds", tier="storage")),
            unit="s",
        ),
        heatmap(
            "Fetch latency, host",
            "Copies from the host tier to the device by the time from start to publication. Empty without a host tier.",
            Query(buckets("tol_fetch_seconds", tier="host")),
            unit="s",
        ),
        timeseries(
            "Fetch latency, quantiles",
            "Of reads from storage and copies from the host tier.",
            [
                Query(quantile(share, "tol_fetch_seconds", by="tier"), f"{{{{tier}}}} p{share * 100:g}")
                for share in (0.5, 0.95, 0.99)
            ],
            unit="s",
            width=12,
        ),
        timeseries(
            "Rows that could not be read",
            "Per second, by cause: io (the disk refused), short (the file ends), checksum (the bytes are others than "
            "were written), closed (the server was ending).",
            [Query(total_rate("tol_read_errors_total", by="cause"), "{{cause}}")],
            unit="cps",
            width=12,
        ),
    ]


def _room() -> list[Json]:
    turnover = ratio(_DEVICE_ROWS, total_rate("tol_evictions_total", tier="device"))
    return [
        section("Room"),
        timeseries(
            "Rows resident",
            "Rows ready in each tier, and the rows that it has room for.",
            [
                Query(total(metric("tol_resident_rows"), by="tier"), "{{tier}}"),
                Query(total(metric("tol_capacity_rows"), by="tier"), "{{tier}}, room"),
            ],
            unit="short",
        ),
        timeseries(
            "Device memory",
            "What the device's memory is used for; host memory stands in for it where there is no GPU.",
            [Query(total(metric("device_memory_bytes"), by="use"), "{{use}}")],
            unit="bytes",
            stacked=True,
        ),
        timeseries(
            "Memory set aside for rows",
            "By tier, staging included, beside the whole tables.",
            [
                Query(total(metric("tol_capacity_bytes"), by="tier"), "{{tier}}"),
                Query(_TABLE_BYTES, "tables"),
            ],
            unit="bytes",
        ),
        timeseries(
            "Turnover of the device tier",
            "How long it takes until as many rows have been evicted as the tier holds: about how long a row stays that "
            "is not asked for stays. No value while nothing is evicted: then the working set fits.",
            [Query(turnover, "turnover")],
            unit="s",
        ),
        note("Working set", _WORKING_SET, width=16),
    ]
