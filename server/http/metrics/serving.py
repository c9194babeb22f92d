"""The families about requests, the engine and HTTP."""

import importlib.metadata
from collections.abc import Callable

from server.engine.messages import BATCH_SIZES, StartupPhase
from server.http.errors import CODES
from server.http.metrics.distribution import Distribution
from server.http.metrics.family import AnyFamily, Family, HistogramFamily, Kind, Values
from server.http.metrics.requests import FINISH_REASONS, OTHER, SECONDS, TOKEN_SECONDS, TOKENS, RequestMetrics
from server.http.metrics.routes import STATUSES
from server.http.metrics.sources import Sources
from server.process.client import EngineState


def _of_engine(name: str) -> Callable[[Sources], Values]:
    """Return what reads one figure of the engine's snapshot."""
    return lambda sources: {(): getattr(sources.stats, name)}


def _kv_usage(sources: Sources) -> Values:
    stats = sources.stats
    return {(): stats.kv_blocks_used / stats.kv_blocks if stats.kv_blocks else 0}


def _startup_seconds(sources: Sources) -> Values:
    spent = {} if sources.info is None else sources.info.startup_seconds
    return {(phase,): spent.get(phase, 0) for phase in StartupPhase}


def _requests_histogram(
    name: str,
    text: str,
    read: Callable[[RequestMetrics], Distribution],
    *,
    unit: str = "seconds",
    bounds: tuple[float, ...] = SECONDS,
) -> HistogramFamily:
    return HistogramFamily(
        name=name,
        unit=unit,
        text=text,
        bounds=bounds,
        read=lambda sources: {(): read(sources.counted.requests)},
    )


SERVING_FAMILIES: tuple[AnyFamily, ...] = (
    Family(
        name="requests_running",
        kind=Kind.GAUGE,
        unit="requests",
        text="Requests that hold keys and values, one for each prompt; those that sit out the step included.",
        read=_of_engine("requests_running"),
    ),
    Family(
        name="requests_waiting",
        kind=Kind.GAUGE,
        unit="requests",
        text="Requests in the queue: not begun, or preempted.",
        read=_of_engine("requests_waiting"),
    ),
    Family(
        name="requests_deferred",
        kind=Kind.GAUGE,
        unit="sequences",
        text="Running sequences that sat out the last step for a row on its way.",
        read=_of_engine("requests_deferred"),
    ),
    Family(
        name="requests_running_limit",
        kind=Kind.GAUGE,
        unit="sequences",
        text="Sequences in one step at most: max_num_seqs.",
        read=lambda sources: {(): sources.config.engine.max_num_seqs},
    ),
    Family(
        name="requests_waiting_limit",
        kind=Kind.GAUGE,
        unit="sequences",
        text="Sequences that may wait, more are turned away: max_waiting.",
        read=lambda sources: {(): sources.config.engine.max_waiting},
    ),
    Family(
        name="kv_cache_usage_ratio",
        kind=Kind.GAUGE,
        unit="ratio",
        text="Share of the blocks for keys and values that sequences hold; cached blocks that nobody holds are free.",
        read=_kv_usage,
    ),
    Family(
        name="engine_up",
        kind=Kind.GAUGE,
        unit="",
        text="1 while the engine takes requests, else 0.",
        read=lambda sources: {(): int(sources.engine.state is EngineState.READY)},
    ),
    Family(
        name="engine_resident_memory_bytes",
        kind=Kind.GAUGE,
        unit="bytes",
        text="Host memory of the engine's process, mapped files included as far as they are in memory.",
        read=_of_engine("resident_bytes"),
    ),
    Family(
        name="startup_seconds",
        kind=Kind.GAUGE,
        unit="seconds",
        text="Time that each phase of the engine's latest start took.",
        labels={"phase": tuple(StartupPhase)},
        read=_startup_seconds,
    ),
    Family(
        name="build_info",
        kind=Kind.GAUGE,
        unit="",
        text="Always 1; the label says which version this is.",
        labels={"version": ()},
        read=lambda _: {(importlib.metadata.version("tolbooth"),): 1},
    ),
    Family(
        name="request_success_total",
        kind=Kind.COUNTER,
        unit="requests",
        text="Requests of clients served to their end; length where any of a request's choices was cut off.",
        labels={"finished_reason": FINISH_REASONS},
        read=lambda sources: {(reason,): count for reason, count in sources.counted.requests.successes.items()},
    ),
    Family(
        name="request_errors_total",
        kind=Kind.COUNTER,
        unit="requests",
        text="Requests answered with an error, or whose stream ended with one, by the error's code, else its type.",
        labels={"code": (*sorted(CODES), OTHER)},
        read=lambda sources: {(code,): count for code, count in sources.counted.requests.errors.items()},
    ),
    Family(
        name="prompt_tokens_total",
        kind=Kind.COUNTER,
        unit="tokens",
        text="Prompt tokens of requests that have begun, cached ones included.",
        read=_of_engine("prompt_tokens"),
    ),
    Family(
        name="prompt_tokens_cached_total",
        kind=Kind.COUNTER,
        unit="tokens",
        text="Those of them whose keys and values were there already.",
        read=_of_engine("cached_prompt_tokens"),
    ),
    Family(
        name="generation_tokens_total",
        kind=Kind.COUNTER,
        unit="tokens",
        text="Tokens generated, of all choices.",
        read=_of_engine("generation_tokens"),
    ),
    Family(
        name="preemptions_total",
        kind=Kind.COUNTER,
        unit="sequences",
        text="Sequences that gave their keys and values up to others, and began again later.",
        read=_of_engine("preemptions"),
    ),
    Family(
        name="prefix_cache_queries_total",
        kind=Kind.COUNTER,
        unit="tokens",
        text="Tokens looked up in the prefix cache: those of every sequence that begins, or begins again.",
        read=_of_engine("prefix_cache_queries"),
    ),
    Family(
        name="prefix_cache_hits_total",
        kind=Kind.COUNTER,
        unit="tokens",
        text="Those of them that were found.",
        read=_of_engine("prefix_cache_hits"),
    ),
    Family(
        name="engine_steps_total",
        kind=Kind.COUNTER,
        unit="steps",
        text="Steps of the engine.",
        read=_of_engine("steps"),
    ),
    Family(
        name="engine_restarts_total",
        kind=Kind.COUNTER,
        unit="restarts",
        text="Times that the engine was started again.",
        read=lambda sources: {(): sources.engine.num_restarts},
    ),
    Family(
        name="http_requests_total",
        kind=Kind.COUNTER,
        unit="requests",
        text="HTTP requests by the template of their route and the status of the answer; none: the client had gone.",
        labels={"route": (), "status": STATUSES},
        read=lambda sources: sources.counted.routes.counts,
    ),
    _requests_histogram(
        "time_to_first_token_seconds",
        "From a client's request to the first token of any of its choices.",
        lambda requests: requests.first_token_seconds,
    ),
    _requests_histogram(
        "inter_token_latency_seconds",
        "Time between two tokens of one choice; tokens that come together share the time since those before evenly.",
        lambda requests: requests.inter_token_seconds,
        bounds=TOKEN_SECONDS,
    ),
    _requests_histogram(
        "request_queue_seconds",
        "From a prompt's arrival at the engine until it first holds keys and values.",
        lambda requests: requests.queue_seconds,
    ),
    _requests_histogram(
        "request_prefill_seconds",
        "From then until a prompt's first token is drawn; waits for rows and preemption included.",
        lambda requests: requests.prefill_seconds,
    ),
    _requests_histogram(
        "request_decode_seconds",
        "From the first token of a request that was served to its end to its last.",
        lambda requests: requests.decode_seconds,
    ),
    _requests_histogram(
        "request_e2e_seconds",
        "From a client's request to the end of its answer, of requests that were served to their end.",
        lambda requests: requests.e2e_seconds,
    ),
    _requests_histogram(
        "request_prompt_tokens",
        "Prompt tokens of a request that was served to its end, of all its prompts together.",
        lambda requests: requests.prompt_tokens,
        unit="tokens",
        bounds=TOKENS,
    ),
    _requests_histogram(
        "request_generation_tokens",
        "Tokens generated for a request that was served to its end, of all its choices together.",
        lambda requests: requests.generation_tokens,
        unit="tokens",
        bounds=TOKENS,
    ),
    HistogramFamily(
        name="step_batch_size",
        unit="sequences",
        text="Sequences in one step of the engine.",
        bounds=BATCH_SIZES,
        read=lambda sources: {
            (): Distribution(BATCH_SIZES, sources.stats.batch_sizes, sources.stats.batch_sizes_sum),
        },
    ),
)
