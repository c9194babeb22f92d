"""What clients get of `GET /v1/memory/tokens/{id}`."""

import msgspec


class CellRead(msgspec.Struct, frozen=True, kw_only=True):
    """A cell that a token reads."""

    cell: int
    coefficient: float
    """`c_t` of the cell, with its sign."""


class NearToken(msgspec.Struct, frozen=True, kw_only=True):
    """A token that reads nearly the same cells."""

    token_id: int
    token: str
    cosine: float
    """Of the two tokens' coefficients; what the list is ordered by."""
    row_cosine: float
    """Of the layer's part of the two tokens' rows."""


class TokenMemory(msgspec.Struct, frozen=True, kw_only=True):
    """What a token reads in one layer of the memory, the strongest cells and the nearest tokens first."""

    token_id: int
    token: str
    layer: int
    num_layers: int
    num_cells: int
    """Cells of a layer."""
    outliers: int
    """Coefficients more than 6 standard deviations away from their mean."""
    cells: list[CellRead]
    nearest: list[NearToken]
