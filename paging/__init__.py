"""Rows of a ToL table: their format on disk, writing, reading and verifying them.

Knows rows, bytes and tiers; knows nothing of HTTP, tokenizers or model kinds. Names are taken from here.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from paging.budget import Budget
from paging.errors import (
    BudgetError,
    EncodingError,
    HotSetError,
    KeysInUseError,
    LeaseError,
    LeaseTimeoutError,
    LeaseTooLargeError,
    ReadErrorKind,
    RowReadError,
    TableError,
    TableFormatError,
    TableMismatchError,
    TableWriteError,
    TolboothError,
)
from paging.format import Manifest
from paging.geometry import Segment, TableGeometry
from paging.layer_encoding import Encoding, LayerEncoding
from paging.manifest import load_manifest
from paging.rowfiles import RowPlace
from paging.writer import TableWriter

if TYPE_CHECKING:
    from paging.encoding import decode_layer, encode_rows, torch_dtype
    from paging.hot_set_keeper import HotSetKeeper
    from paging.pager import Pager
    from paging.table import Table
    from paging.tiers import open_pager
    from paging.verify import TableReport, verify_table

# Loaded on first use: policies, simulations and small commands use the rest of `paging` without waiting for torch.
_NEED_TORCH = {
    "HotSetKeeper": "paging.hot_set_keeper",
    "Pager": "paging.pager",
    "Table": "paging.table",
    "TableReport": "paging.verify",
    "decode_layer": "paging.encoding",
    "encode_rows": "paging.encoding",
    "open_pager": "paging.tiers",
    "torch_dtype": "paging.encoding",
    "verify_table": "paging.verify",
}

__all__ = [
    "Budget",
    "BudgetError",
    "Encoding",
    "EncodingError",
    "HotSetError",
    "HotSetKeeper",
    "KeysInUseError",
    "LayerEncoding",
    "LeaseError",
    "LeaseTimeoutError",
    "LeaseTooLargeError",
    "Manifest",
    "Pager",
    "ReadErrorKind",
    "RowPlace",
    "RowReadError",
    "Segment",
    "Table",
    "TableError",
    "TableFormatError",
    "TableGeometry",
    "TableMismatchError",
    "TableReport",
    "TableWriteError",
    "TableWriter",
    "TolboothError",
    "decode_layer",
    "encode_rows",
    "load_manifest",
    "open_pager",
    "torch_dtype",
    "verify_table",
]


def __getattr__(name: str) -> Any:
    if name in _NEED_TORCH:
        return getattr(import_module(_NEED_TORCH[name]), name)
    raise AttributeError(f"module 'paging' has no attribute {name!r}")
