"""What clients may ask of the row memory, and what they get: the bodies and answers of `/v1/memory` and below."""

from typing import Annotated, Literal

import msgspec

from server.http.requests import TokenId

MOST_IDS = 65_536
"""Token ids in one body."""
MOST_CHARS = 1 << 20
"""Characters in one text: far more than there are ids for."""

TokenIds = Annotated[list[TokenId], msgspec.Meta(min_length=1, max_length=MOST_IDS)]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=MOST_CHARS)]


class WarmRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /v1/memory/warm`: a text or token ids."""

    text: Text | None = None
    token_ids: TokenIds | None = None


class PinRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST` and `DELETE /v1/memory/pins`: a text or token ids; to end all pins, `all`."""

    text: Text | None = None
    token_ids: TokenIds | None = None
    all: bool | None = None
    """Only to end pins."""


class PackRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /v1/memory/packs`."""

    name: Annotated[str, msgspec.Meta(max_length=64)]
    """By which clients choose it, behind the model's name and a colon."""
    path: Annotated[str, msgspec.Meta(max_length=1024)]
    """Below the server's folder of packs."""


class PackCard(msgspec.Struct, frozen=True, kw_only=True):
    """One memory pack that is loaded."""

    id: str
    """What clients give as `model`."""
    object: Literal["memory_pack"] = "memory_pack"
    name: str
    version: int
    table_id: str
    """Of its rows: another one for every version."""
    description: str
    rows: int
    bytes: int
    requests: int
    """Requests under way that chose it."""
    is_leaving: bool
    """Whether it takes no more requests, and goes when those under way have ended."""


class PackCards(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `GET /v1/memory/packs`."""

    object: Literal["list"] = "list"
    data: list[PackCard]


class UnloadedPack(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `DELETE /v1/memory/packs/{name}`: the pack is gone."""

    name: str
    ended_requests: int
    """Requests that still ran with it when their time was up, and ended with an error."""


class Warmed(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `POST /v1/memory/warm`: the rows that are not there yet are brought in the background."""

    rows: int
    """Different rows that were asked for."""
    resident: int
    """How many of them were on the device already."""


class PinState(msgspec.Struct, frozen=True, kw_only=True):
    """Rows that are held, or brought, because somebody asked for it."""

    rows: int
    """Rows that are pinned, those on their way included."""
    waiting: int
    """Pinned rows that are on their way, or wait for room."""
    warming: int
    """Rows to be warmed that are not there yet."""
    leasable_rows: int
    """Rows on the device that are left to requests."""
    failure: str | None
    """Why the last pin or warming that failed did."""


class PinList(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `GET /v1/memory/pins`."""

    token_ids: list[int]
    """Ascending."""


class TableFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The table behind the memory."""

    encoding: str
    layers: int
    vocab_size: int
    row_bytes: int
    bytes: int


class TierState(msgspec.Struct, frozen=True, kw_only=True):
    """How full a tier is."""

    tier: str
    """`device`, `host` or `storage`."""
    rows: int
    """Rows ready there."""
    capacity_rows: int
    bytes: int
    """Set aside, full or not."""
    leased_rows: int = 0
    """Rows that running requests hold, or pins."""


class MemoryRates(msgspec.Struct, frozen=True, kw_only=True):
    """The last seconds; each per second, but for the shares, which are None where there was nothing to share."""

    seconds: float
    """How many these are."""
    hit_rate: float | None
    """Share of rows that needed no read from storage."""
    device_hit_rate: float | None
    """Share of rows that were on the device."""
    row_requests: float
    major_faults: float
    read_bytes: float
    evictions: float
    prompt_tokens: float
    generation_tokens: float
    stall_share: float
    """Share of the time during which nothing could run for want of rows."""


class MemoryTotals(msgspec.Struct, frozen=True, kw_only=True):
    """Counted since the server's start; `row_requests = device_hits + host_hits + major_faults`."""

    row_requests: int
    device_hits: int
    host_hits: int
    major_faults: int
    read_bytes: int
    device_evictions: int
    host_evictions: int
    prefetched_rows: int
    prefetched_rows_used: int
    read_errors: int
    stall_seconds: float
    prompt_tokens: int
    generation_tokens: int


class RequestState(msgspec.Struct, frozen=True, kw_only=True):
    """Requests of this moment."""

    running: int
    waiting: int
    deferred: int
    """Running ones that sat out the last step for a row on its way."""
    most_running: int
    """Sequences that may run at once."""


class MemoryState(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `GET /v1/memory`."""

    model: str
    device: str
    memory: str
    """`paged`; else what there is instead: all rows in memory, or computed, or none."""
    policy: str | None
    """Which rows leave the device for others, and how rows are read: None where nothing is paged."""
    storage: str | None
    table: TableFacts | None
    kept_off_device_bytes: int | None
    """The table's bytes less those that are set aside for its rows on the device; None without a table."""
    device_bytes: dict[str, int]
    """What is set aside on the device, by use."""
    tiers: list[TierState]
    """None where nothing is paged."""
    pins: PinState | None
    rates: MemoryRates
    totals: MemoryTotals
    requests: RequestState


class SizedHitRate(msgspec.Struct, frozen=True, kw_only=True):
    """What a device tier of one size would do for the ids seen lately, from an empty start."""

    fraction: float
    """Share of the vocabulary's rows."""
    rows: int
    hit_rate: float
    """Under the default policy."""
    lru: float
    optimal: float
    """Of Belady's optimum, which knows the future."""
    is_present: bool
    """Whether this is the size that the device tier has."""


class HitRateCurve(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `GET /v1/memory/curve`."""

    ids: int
    """Token positions, the latest, that it is computed from."""
    distinct_ids: int
    """Different ones among them: the most rows that they could make use of."""
    points: list[SizedHitRate]
    """By size, the smallest first; none before any row was asked for."""


class MemoryMap(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `GET /v1/memory/map`: cells of consecutive token ids, each a byte of base64 texts."""

    vocab_size: int
    cells: int
    ids_per_cell: int
    """The last cell may have fewer."""
    device: str
    """Share of the cell's rows that are on the device, 0 to 255."""
    host: str
    """Share that is in the host tier."""
    heat: str
    """Place of the cell's hottest row among all that are on the device: 255 the hottest, 0 where there is none."""
