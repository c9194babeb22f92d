"""The dashboard "Serving": requests, latencies, queues, keys and values."""

from deploy.grafana.expressions import buckets, mean, metric, quantile, rate, ratio, total, total_rate
from deploy.grafana.panels import Json, Query, Steps, dashboard, heatmap, link, section, stat, timeseries

UID = "tolbooth-serving"

_SHARES = (0.5, 0.95, 0.99)
_API = "~/v1/.*"
_API_REQUESTS = total_rate("http_requests_total", route=_API)
_QUEUE = f"{total(metric('requests_waiting'))} / {total(metric('requests_waiting_limit'))}"


def build() -> Json:
    """Return the dashboard."""
    return dashboard(
        uid=UID,
        title="Serving",
        text="What clients get: requests, tokens, latencies, errors; and what there is room for.",
        links=[link("ToL cache", "tolbooth-tol-cache")],
        panels=[*_goals(), *_traffic(), *_latency(), *_load(), *_lengths(), *_process()],
    )


def _goals() -> list[Json]:
    failed = total_rate("http_requests_total", route=_API, status="~5..")
    return [
        stat(
            "Servers that serve",
            "Servers whose engine takes requests, of all that are scraped.",
            Query(f"sum({metric('engine_up')}) / count({metric('engine_up')})"),
            unit="percentunit",
            steps=Steps(1, 0.99),
            width=4,
        ),
        stat(
            "Answered without an error of ours",
            "Share of the API's requests within the time shown whose status is below 500. Goal: 99.9%.",
            Query(
                f"1 - sum(increase({metric('http_requests_total', route=_API, status='~5..')}[$__range])) "
                f"/ (sum(increase({metric('http_requests_total', route=_API)}[$__range])) > 0)"
            ),
            unit="percentunit",
            steps=Steps(0.999, 0.99),
            decimals=3,
            width=4,
        ),
        stat(
            "First token, p95",
            "95% of the requests have their first token within this time. Goal: 2.5 s.",
            Query(quantile(0.95, "time_to_first_token_seconds")),
            unit="s",
            steps=Steps(1.0, 2.5),
            width=4,
        ),
        stat(
            "Between tokens, p95",
            "95% of the tokens come this soon after the one before. Goal: 0.25 s.",
            Query(quantile(0.95, "inter_token_latency_seconds")),
            unit="s",
            steps=Steps(0.1, 0.25),
            width=4,
        ),
        stat(
            "Queue",
            "Requests that wait, as a share of those that may. At 100% requests are turned away.",
            Query(_QUEUE),
            unit="percentunit",
            steps=Steps(0.5, 0.8),
            width=4,
        ),
        stat(
            "Failing now",
            "Share of the API's requests whose status is 500 or above.",
            Query(ratio(failed, _API_REQUESTS)),
            unit="percentunit",
            steps=Steps(0.001, 0.02),
            decimals=2,
            width=4,
        ),
    ]


def _traffic() -> list[Json]:
    return [
        section("Traffic"),
        timeseries(
            "Requests that ended well",
            "Per second, by why they ended: stop (an end token or a stop string), length (as many tokens as were asked "
            "for).",
            [Query(total_rate("request_success_total", by="finished_reason"), "{{finished_reason}}")],
            unit="reqps",
            stacked=True,
        ),
        timeseries(
            "Requests that ended in an error",
            "Per second, by the code in the error's body.",
            [Query(total_rate("request_errors_total", by="code"), "{{code}}")],
            unit="reqps",
        ),
        timeseries(
            "HTTP answers",
            "Per second, by route and status, those that occur; probes and scrapes included.",
            [Query(f"{total_rate('http_requests_total', by='route, status')} > 0", "{{route}} {{status}}")],
            unit="reqps",
        ),
        timeseries(
            "Tokens",
            "Per second: of prompts that were computed, of prompts that were found in the prefix cache, generated.",
            [
                Query(
                    f"{total_rate('prompt_tokens_total')} - {total_rate('prompt_tokens_cached_total')}",
                    "prompt, computed",
                ),
                Query(total_rate("prompt_tokens_cached_total"), "prompt, cached"),
                Query(total_rate("generation_tokens_total"), "generated"),
            ],
            unit="short",
            width=12,
        ),
        timeseries(
            "Tokens by server",
            "Generated tokens per second and server.",
            [Query(total_rate("generation_tokens_total", by="instance"), "{{instance}}")],
            unit="short",
            width=12,
        ),
    ]


def _latency() -> list[Json]:
    return [
        section("Latency"),
        _quantiles(
            "Time to first token",
            "From the arrival of a request to its first token, waiting and prompt included.",
            "time_to_first_token_seconds",
        ),
        _quantiles("Between tokens", "From one token of a choice to the next.", "inter_token_latency_seconds"),
        _quantiles("Whole request", "From arrival to the last token.", "request_e2e_seconds"),
        _quantiles("In the queue", "From arrival until the engine begins with the request.", "request_queue_seconds"),
        _quantiles("Prompt", "From there to the first token.", "request_prefill_seconds"),
        _quantiles("Output", "From the first token to the last.", "request_decode_seconds"),
        heatmap(
            "Time to first token",
            "Requests by the time to their first token.",
            Query(buckets("time_to_first_token_seconds")),
            unit="s",
        ),
        heatmap(
            "Between tokens",
            "Tokens by the time since the one before.",
            Query(buckets("inter_token_latency_seconds")),
            unit="s",
        ),
    ]


def _load() -> list[Json]:
    return [
        section("Load"),
        timeseries(
            "Requests",
            "Running: in the engine's lanes. Waiting: in the queue. Sitting out: running, without a row for this step.",
            [
                Query(total(metric("requests_running")), "running"),
                Query(total(metric("requests_waiting")), "waiting"),
                Query(total(metric("requests_deferred")), "sitting out"),
                Query(total(metric("requests_running_limit")), "lanes"),
            ],
            unit="none",
        ),
        timeseries(
            "Queue",
            "Requests that wait, as a share of those that may; by server.",
            [
                Query(
                    f"{total(metric('requests_waiting'), by='instance')} "
                    f"/ {total(metric('requests_waiting_limit'), by='instance')}",
                    "{{instance}}",
                )
            ],
            unit="percentunit",
            top=1,
        ),
        timeseries(
            "Keys and values",
            "Share of the KV cache's blocks that sequences hold, by server. Full: sequences give way to others.",
            [Query(total(metric("kv_cache_usage_ratio"), by="instance"), "{{instance}}")],
            unit="percentunit",
            top=1,
        ),
        timeseries(
            "Prefix cache",
            "Share of prompt tokens whose keys and values were there already.",
            [
                Query(
                    ratio(total_rate("prefix_cache_hits_total"), total_rate("prefix_cache_queries_total")), "hit rate"
                ),
            ],
            unit="percentunit",
            top=1,
        ),
        timeseries(
            "Preemptions",
            "Sequences that gave way to others, per second. They begin again later.",
            [Query(total_rate("preemptions_total", by="instance"), "{{instance}}")],
            unit="cps",
        ),
        timeseries(
            "Steps",
            "Steps of the engine per second, and the sequences in one on average.",
            [
                Query(total_rate("engine_steps_total"), "steps per second"),
                Query(mean("step_batch_size"), "sequences in a step"),
            ],
            unit="none",
        ),
    ]


def _lengths() -> list[Json]:
    return [
        section("Lengths"),
        timeseries(
            "Prompts",
            "Tokens of a prompt.",
            [
                *(Query(quantile(share, "request_prompt_tokens"), f"p{share * 100:g}") for share in (0.5, 0.95)),
                Query(mean("request_prompt_tokens"), "mean"),
            ],
            unit="none",
        ),
        timeseries(
            "Outputs",
            "Tokens of an output.",
            [
                *(Query(quantile(share, "request_generation_tokens"), f"p{share * 100:g}") for share in (0.5, 0.95)),
                Query(mean("request_generation_tokens"), "mean"),
            ],
            unit="none",
        ),
        heatmap(
            "Sequences in a step",
            "Steps of the engine by the number of their sequences.",
            Query(buckets("step_batch_size")),
            unit="none",
            width=8,
        ),
    ]


def _process() -> list[Json]:
    return [
        section("Process"),
        timeseries(
            "Engine up",
            "1 while the engine takes requests, 0 while it loads or is down; and how often it was started again within "
            "five minutes.",
            [
                Query(total(metric("engine_up"), by="instance"), "{{instance}}"),
                Query(f"increase({metric('engine_restarts_total')}[5m])", "{{instance}}, restarts"),
            ],
            unit="none",
        ),
        timeseries(
            "Host memory of the engine",
            "Resident memory of the engine's process, mapped files included as far as they are in memory.",
            [Query(total(metric("engine_resident_memory_bytes"), by="instance"), "{{instance}}")],
            unit="bytes",
        ),
        timeseries(
            "Last start",
            "Seconds that each phase of loading took.",
            [Query(f"max by (phase) ({metric('startup_seconds')})", "{{phase}}")],
            unit="s",
            stacked=True,
        ),
        timeseries(
            "Versions",
            "Servers by version.",
            [Query(total(metric("build_info"), by="version"), "{{version}}")],
            unit="none",
            width=12,
        ),
        timeseries(
            "Share of waiting in the queue",
            "Of the time that requests take, the part before the engine begins with them.",
            [Query(ratio(total(rate("request_queue_seconds_sum")), total(rate("request_e2e_seconds_sum"))), "queue")],
            unit="percentunit",
            width=12,
            top=1,
        ),
    ]


def _quantiles(title: str, text: str, name: str) -> Json:
    return timeseries(title, text, [Query(quantile(share, name), f"p{share * 100:g}") for share in _SHARES], unit="s")
