"""What goes into the engine and what comes out of it, as typed messages that can cross a socket.

Token ids only: text becomes ids before a request reaches the engine, and ids become text after its outputs have left
it (`server/engine/text/`), in whichever process that is. Knows no tensors.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum

import msgspec

from paging.stats import Level
from server.engine.memory_options import MemoryOptions
from server.engine.params import SamplingParams

BATCH_SIZES = tuple(2**power for power in range(11))
"""Upper bounds by which steps are counted: 1, 2, 4, ... 1024 sequences."""


class FinishReason(StrEnum):
    """Why an output ended."""

    STOP = "stop"  # the model ended the text, or a stop token or stop string came
    LENGTH = "length"  # `max_tokens`, or the model's context, is used up
    ABORT = "abort"  # the caller did not want more
    ERROR = "error"  # something broke; the request's other outputs may go on


class Tier(StrEnum):
    """Where a token's row was when it was first asked for."""

    DEVICE = "device"
    HOST = "host"
    STORAGE = "storage"


class Request(msgspec.Struct, frozen=True, kw_only=True, tag="request", omit_defaults=True):
    """One prompt to continue `params.n` times."""

    request_id: str
    """Unique among the requests that have not ended."""
    prompt_ids: Sequence[int]
    """At least one token."""
    params: SamplingParams = SamplingParams()
    bad_word_ids: Sequence[Sequence[int]] = ()
    """`params.bad_words` as tokens: no output ever completes one of these sequences."""
    priority: int = 0
    """Lower goes first; equals go in order of arrival."""
    cache_salt: str | None = None
    """Only requests with the same salt share cached prefixes."""
    pack: str | None = None
    """The name of the memory pack that lies over the table for it."""
    memory: MemoryOptions | None = None
    """What it changes of the memory's part in the model."""
    return_tiers: bool = False
    """Whether outputs say which tier each token's row came from."""


class Abort(msgspec.Struct, frozen=True, kw_only=True, tag="abort"):
    """Ends a request, or one of its choices, at once. Nothing more is said of what was aborted."""

    request_id: str
    choice: int | None = None
    """None: all that is left of the request."""


class Candidate(msgspec.Struct, frozen=True, array_like=True):
    """A token that could stand at some position."""

    token_id: int
    logprob: float
    rank: int
    """1 is the likeliest."""


class PositionLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """Log probabilities at one position."""

    actual: Candidate
    """The token that stands there."""
    top: Sequence[Candidate]
    """As many of the likeliest as were asked for, the likeliest first."""


class MemoryUse(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """What a request's tokens asked of the row memory; `rows = device_hits + host_hits + major_faults`."""

    rows: int = 0
    """Token positions computed; cached ones ask for no row."""
    device_hits: int = 0
    host_hits: int = 0
    """Minor faults."""
    major_faults: int = 0
    bytes_read: int = 0
    """Payload bytes read from storage for its major faults."""
    stall_seconds: float = 0.0
    """Time that it sat out, or held up, for rows on their way."""


class ChoiceOutput(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """What one choice gained in a step."""

    choice: int
    """Counted from 0."""
    token_ids: Sequence[int] = ()
    """The new tokens; a stop token or end of text is the last of them where one ended the output."""
    logprobs: Sequence[PositionLogprobs] | None = None
    """Of each new token, where the request asked."""
    finish_reason: FinishReason | None = None
    """Set once, on the choice's last output."""
    stop_token_id: int | None = None
    """The token of `stop_token_ids` that ended the output; None where the end of text did."""
    tiers: Sequence[Tier] | None = None
    """Where the row came from with which each new token was computed, that of the token before it; where the request
    asked."""


class RequestTiming(msgspec.Struct, frozen=True, kw_only=True):
    """How long a request's prompt took, by the clock of the engine's process."""

    queue_seconds: float
    """From the request's arrival at the engine to the first time that it held keys and values."""
    prefill_seconds: float
    """From then until its prompt was computed and its first token drawn; waits for rows and preemption included."""


class RequestOutput(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag="output", omit_defaults=True):
    """What one request gained in a step; the last one has `is_finished`."""

    request_id: str
    choices: Sequence[ChoiceOutput] = ()
    prompt_logprobs: Sequence[PositionLogprobs | None] | None = None
    """Of each prompt token, None for the first; once, before or with the first token."""
    num_cached_tokens: int | None = None
    """Prompt tokens whose keys and values were there already; said with the first output."""
    timing: RequestTiming | None = None
    """Said with the first output."""
    is_finished: bool = False
    """Every choice has ended; nothing more comes."""
    error: str | None = None
    """What broke, for a person to read; only where a choice's `finish_reason` is `error`."""
    memory: MemoryUse | None = None
    """Of all choices so far, together."""


class EngineStats(msgspec.Struct, frozen=True, kw_only=True, tag="stats"):
    """One consistent snapshot of the engine: how things stand (`Level`), all else is counted since its start."""

    requests_running: Level = 0
    """Requests that hold a lane or sit out the step."""
    requests_waiting: Level = 0
    """Requests that hold no keys and values: not begun, or preempted."""
    requests_deferred: Level = 0
    """Running ones that sat out the last step for a row on its way."""
    prompt_tokens: int = 0
    """Prompt tokens of begun requests, cached ones included."""
    cached_prompt_tokens: int = 0
    """Those of them that were found in the prefix cache."""
    prefix_cache_queries: int = 0
    """Tokens looked up in the prefix cache: those of every sequence that begins, also of one that begins again."""
    prefix_cache_hits: int = 0
    """Those of them that were found."""
    generation_tokens: int = 0
    preemptions: int = 0
    steps: int = 0
    deferred_steps: int = 0
    """Times that a sequence sat out a step."""
    stall_seconds: float = 0.0
    """Time during which nothing could run for want of rows."""
    kv_blocks: Level = 0
    kv_blocks_used: Level = 0
    """Held by sequences; cached blocks that nobody holds are free."""
    resident_bytes: Level = 0
    """Host memory that the engine's process has, mapped files included as far as they are in memory."""
    batch_sizes: Sequence[int] = ()
    """Steps by the number of their sequences: one count for each of `BATCH_SIZES` and one above."""
    batch_sizes_sum: int = 0
    """The sequences of all steps together."""
    row_device_hits: int = 0
    """Token positions of steps that have run whose row was on the device; 0 where nothing is paged, as the next two."""
    row_host_hits: int = 0
    """Those whose row was in the host tier."""
    row_major_faults: int = 0
    """Those whose row was in storage only."""
    memory: Mapping[str, float | Sequence[int] | Mapping[str, int]] = {}
    """The pager's counters and sizes by the names of `paging.stats.PagerStats`; empty where nothing is paged."""


class DeviceUse(StrEnum):
    """What memory of the device is for."""

    WEIGHTS = "weights"
    KV_CACHE = "kv_cache"
    TOL_CACHE = "tol_cache"


class StartupPhase(StrEnum):
    """What an engine does until it is ready; some of it beside the other."""

    LIBRARIES = "libraries"
    TABLE = "table"
    WEIGHTS = "weights"
    LAYOUT = "layout"
    KV_CACHE = "keys and values"
    ROWS = "rows"
    CAPTURE = "captured steps"


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True, tag="info"):
    """What an engine turned out to be, told once it is ready."""

    max_model_len: int
    """Most tokens of a sequence, prompt and output."""
    vocab_size: int
    eos_token_id: int | None
    bos_token_id: int | None
    max_num_seqs: int
    max_num_batched_tokens: int
    kv_blocks: int
    block_size: int
    num_parameters: int
    """Of the backbone."""
    device: str
    """`cpu`, or the GPU's name."""
    dtype: str
    granted: Mapping[str, str]
    """For people: what was asked and what was granted, one line each (tiers, storage, policy, keys and values)."""
    table: Mapping[str, str | int] = {}
    """`encoding`, `layers`, `vocab_size`, `row_bytes`, `table_bytes`, `storage`, `policy`; empty without a table."""
    device_memory: Mapping[DeviceUse, int] = {}
    """Bytes that were set aside on the device (in host memory where there is no GPU)."""
    startup_seconds: Mapping[StartupPhase, float] = {}
    """Seconds of each phase of loading."""


class Progress(msgspec.Struct, frozen=True, kw_only=True, tag="progress"):
    """How far loading is."""

    phase: str
    done: int
    total: int


class Fatal(msgspec.Struct, frozen=True, kw_only=True, tag="fatal"):
    """The engine ends: an error that a person must see to, such as a table of another model."""

    message: str
