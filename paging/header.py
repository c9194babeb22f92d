"""Headers of the safetensors files of a table.

The stock writer neither streams nor aligns, so headers are written here. A header is a function of the manifest:
reading compares bytes, so nothing of a foreign header is ever interpreted but to say what is wrong.

Layout: 8 bytes little-endian header length, JSON, spaces up to a multiple of 4096 bytes, then the tensors.
"""

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from paging.geometry import PAGE_BYTES, TableGeometry, round_up
from paging.layer_encoding import Encoding

FORMAT = "tolbooth-table"
"""The format's name, in the manifest and in every header."""
VERSIONS = (1, 2)
"""The versions of the format that this release writes and reads; which one a table has follows from its geometry."""

_ROW_DTYPES = {Encoding.BF16: "BF16", Encoding.FP16: "F16", Encoding.FP32: "F32"}
_ITEM_BYTES = {"U8": 1, "BF16": 2, "F16": 2, "F32": 4, "I64": 8, "U64": 8}


@dataclass(frozen=True, kw_only=True)
class TensorEntry:
    """Name, safetensors dtype and shape of one tensor."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of the tensor's values."""
        return _ITEM_BYTES[self.dtype] * math.prod(self.shape)


def safetensors_header(tensors: Sequence[TensorEntry], metadata: Mapping[str, str]) -> bytes:
    """Return the header of a file that holds `tensors` one after another, padded to whole pages."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for tensor in tensors:
        start, end = end, end + tensor.num_bytes
        header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    padded = round_up(8 + len(text), PAGE_BYTES) - 8
    return struct.pack("<Q", padded) + text.ljust(padded)


def shard_header(
    geometry: TableGeometry, *, table_id: str, index: int, num_shards: int, first_row: int, num_rows: int
) -> bytes:
    """Return the header of one shard, which holds `num_rows` rows from `first_row` on as one tensor `rows`."""
    dtype = "U8" if geometry.encoding is None else _ROW_DTYPES.get(geometry.encoding, "U8")
    rows = TensorEntry(name="rows", dtype=dtype, shape=(num_rows, geometry.row_stride // _ITEM_BYTES[dtype]))
    return safetensors_header(
        [rows],
        {
            "format": FORMAT,
            "version": str(geometry.format_version),
            "table_id": table_id,
            "shard": str(index),
            "num_shards": str(num_shards),
            "first_row": str(first_row),
            "row_bytes": str(geometry.row_bytes),
        },
    )


def auxiliary_header(tensors: Sequence[TensorEntry], *, version: int, table_id: str) -> bytes:
    """Return the header of the auxiliary file."""
    return safetensors_header(tensors, {"format": FORMAT, "version": str(version), "table_id": table_id})


def explain_difference(found: bytes, *, table_id: str, index: int) -> str:
    """Say why a shard's header is not the expected one; for messages only."""
    try:
        metadata = json.loads(found[8:])["__metadata__"]
        found_id, found_index = metadata["table_id"], metadata["shard"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return "its header is damaged"
    if found_id != table_id:
        return "it belongs to another table"
    if found_index != str(index):
        return f"it is shard {found_index!s:.20} of this table, not shard {index}"
    return "its header is damaged"
