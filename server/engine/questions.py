"""What the engine can be asked beside requests, and what it answers: typed messages that can cross a socket.

A question is answered between two steps, by `server/engine/answers.py`, so nothing that takes long is done for one:
what takes long is begun, and further questions tell how far it is. What cannot be done is a `RequestError` or a
`QueueFullError`. A question names the type of its answer; both stand in the unions at the end.
"""

from collections.abc import Sequence
from typing import Generic, TypeVar

import msgspec

AnswerT = TypeVar("AnswerT")


class QuestionFor(msgspec.Struct, Generic[AnswerT], frozen=True, kw_only=True):
    """A question that an `AnswerT` answers."""


class PinnedRows(msgspec.Struct, frozen=True, kw_only=True, tag="pinned_rows"):
    """Which rows are pinned."""

    token_ids: Sequence[int]
    """Ascending."""


class RowWishesState(msgspec.Struct, frozen=True, kw_only=True, tag="row_wishes_state"):
    """How far the rows are that somebody wished to have on the device."""

    num_pinned: int
    """Rows that are pinned, those on their way included."""
    num_pins_waiting: int
    """Pinned rows that are on their way, or wait for room."""
    num_warming: int
    """Rows to be warmed that were not come to yet."""
    leasable_rows: int
    """Rows on the device that are left to requests."""
    failure: str | None = None
    """Why the last pin or warming that failed did."""


class WarmedRows(msgspec.Struct, frozen=True, kw_only=True, tag="warmed_rows"):
    """What became of a wish to have rows on the device."""

    num_rows: int
    """Different rows that were asked for."""
    num_resident: int
    """How many of them were on the device already."""


class RecentRows(msgspec.Struct, frozen=True, kw_only=True, tag="recent_rows"):
    """The row keys that were asked for last."""

    keys: bytes
    """int64, the machine's byte order; the latest at the end."""


class RowMap(msgspec.Struct, frozen=True, kw_only=True, tag="row_map"):
    """Where the vocabulary's rows are, cell by cell; a cell is some consecutive token ids. Each a byte per cell."""

    ids_per_cell: int
    """The last cell may have fewer."""
    device: bytes
    """Share of the cell's rows that are on the device, 0 to 255."""
    host: bytes
    """Share that is in the host tier."""
    heat: bytes
    """Place of the cell's hottest row among all that are on the device: 255 the hottest, 0 where there is none."""


class ListPinnedRows(QuestionFor[PinnedRows], frozen=True, tag="list_pinned_rows"):
    """Asks which rows are pinned."""


class DescribeRowWishes(QuestionFor[RowWishesState], frozen=True, tag="describe_row_wishes"):
    """Asks how far pins and warming are."""


class PinRows(QuestionFor[RowWishesState], frozen=True, kw_only=True, tag="pin_rows"):
    """Holds the rows of some token ids on the device until further notice; refused where too few slots were left."""

    token_ids: Sequence[int]


class UnpinRows(QuestionFor[RowWishesState], frozen=True, kw_only=True, tag="unpin_rows"):
    """Ends the pins of some token ids; of those that are not pinned nothing is said."""

    token_ids: Sequence[int] | None
    """None: of all."""


class WarmRows(QuestionFor[WarmedRows], frozen=True, kw_only=True, tag="warm_rows"):
    """Uses the rows of some token ids once, as a request would, so that they are on the device."""

    token_ids: Sequence[int]


class ListRecentRows(QuestionFor[RecentRows], frozen=True, kw_only=True, tag="list_recent_rows"):
    """Asks for the row keys that were asked for last."""

    most: int
    """At most so many, the latest."""


class MapRows(QuestionFor[RowMap], frozen=True, kw_only=True, tag="map_rows"):
    """Asks where the vocabulary's rows are."""

    most_cells: int


class PackState(msgspec.Struct, frozen=True, kw_only=True, tag="pack_state"):
    """One memory pack that is loaded."""

    name: str
    """By which requests choose it."""
    version: int
    table_id: str
    """Of its rows."""
    description: str
    num_rows: int
    num_bytes: int
    """Of its rows together."""
    num_requests: int
    """Requests under way that chose it."""
    is_leaving: bool
    """Whether it takes no more requests, and goes when those under way have ended."""


class PackList(msgspec.Struct, frozen=True, kw_only=True, tag="pack_list"):
    """The memory packs that are loaded."""

    packs: Sequence[PackState]
    """In the order of their names."""


class ListPacks(QuestionFor[PackList], frozen=True, tag="list_packs"):
    """Asks which memory packs are loaded."""


class LoadPack(QuestionFor[PackState], frozen=True, kw_only=True, tag="load_pack"):
    """Lays a memory pack over the table; refused with `param` "path" where that cannot be done."""

    name: str
    directory: str


class UnloadPack(QuestionFor[PackList], frozen=True, kw_only=True, tag="unload_pack"):
    """Lets a memory pack take no more requests, and go when those under way have ended; refused where there is none."""

    name: str
    at_once: bool = False
    """End those under way with an error."""


RowQuestion = ListPinnedRows | DescribeRowWishes | PinRows | UnpinRows | WarmRows | ListRecentRows | MapRows
RowAnswer = PinnedRows | RowWishesState | WarmedRows | RecentRows | RowMap

PackQuestion = ListPacks | LoadPack | UnloadPack
PackAnswer = PackState | PackList

Question = RowQuestion | PackQuestion
Answer = RowAnswer | PackAnswer
