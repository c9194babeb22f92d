"""How many bytes a table takes, file by file, before any of it is written. Arithmetic only."""

from dataclasses import dataclass

from paging.format import auxiliary_tensors
from paging.geometry import PAGE_BYTES, TableGeometry
from paging.header import auxiliary_header, shard_header

DEFAULT_SHARD_BYTES = 4 * 2**30
_ANY_ID = "0" * 32


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """How the rows of a table are divided among shards."""

    geometry: TableGeometry
    num_rows: int
    shard_bytes: int = DEFAULT_SHARD_BYTES
    """What a shard takes at most, unless one row alone takes more."""

    @property
    def rows_per_shard(self) -> int:
        """Rows of every shard but the last."""
        return max(1, (self.shard_bytes - PAGE_BYTES) // self.geometry.row_stride)

    @property
    def num_shards(self) -> int:
        """Shards of the table."""
        return -(-self.num_rows // self.rows_per_shard)

    def rows(self, index: int) -> int:
        """Return the rows of one shard."""
        return min(self.rows_per_shard, self.num_rows - index * self.rows_per_shard)

    def header(self, index: int, *, table_id: str = _ANY_ID) -> bytes:
        """Return the first bytes of one shard; their number does not depend on the table's id."""
        return shard_header(
            self.geometry,
            table_id=table_id,
            index=index,
            num_shards=self.num_shards,
            first_row=index * self.rows_per_shard,
            num_rows=self.rows(index),
        )

    def num_bytes(self, index: int) -> int:
        """Return the bytes of one shard."""
        return len(self.header(index)) + self.rows(index) * self.geometry.row_stride


def auxiliary_bytes(geometry: TableGeometry, *, num_rows: int, sparse: bool = False) -> int:
    """Return the bytes of the auxiliary file."""
    tensors = auxiliary_tensors(geometry, num_rows=num_rows, sparse=sparse)
    header = auxiliary_header(tensors, version=geometry.format_version, table_id=_ANY_ID)
    return len(header) + sum(tensor.num_bytes for tensor in tensors)


def table_bytes(
    geometry: TableGeometry, *, num_rows: int, sparse: bool = False, shard_bytes: int = DEFAULT_SHARD_BYTES
) -> int:
    """Return the bytes of a whole table on disk, bar the manifest."""
    plan = ShardPlan(geometry=geometry, num_rows=num_rows, shard_bytes=shard_bytes)
    shards = sum(plan.num_bytes(index) for index in range(plan.num_shards))
    return auxiliary_bytes(geometry, num_rows=num_rows, sparse=sparse) + shards
