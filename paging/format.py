"""The on-disk format of a ToL table: the names of its files, and what must agree with what.

Knows nothing of JSON (`paging/manifest.py`) or of reading rows (`paging/table.py`). `docs/formats.md` is its prose.
"""

import re
from dataclasses import dataclass

from paging.errors import TableFormatError
from paging.geometry import TableGeometry
from paging.header import TensorEntry, auxiliary_header, shard_header

MANIFEST_FILE = "manifest.json"
AUXILIARY_FILE = "auxiliary.safetensors"
SHARD_PATTERN = re.compile(r"rows-[0-9]{5,}-of-[0-9]{5,}\.safetensors")
CHECKSUMS = "checksums"
IDS = "ids"

_FINGERPRINT = re.compile(r"[0-9A-Za-z][0-9A-Za-z:._+-]{0,255}")
_HEX_128 = re.compile(r"[0-9a-f]{32}")


def shard_file(index: int, num_shards: int) -> str:
    """Return the file name of one shard."""
    return f"rows-{index:05d}-of-{num_shards:05d}.safetensors"


def auxiliary_tensors(geometry: TableGeometry, *, num_rows: int, sparse: bool) -> tuple[TensorEntry, ...]:
    """Return what the auxiliary file holds, in order."""
    tensors = [TensorEntry(name=CHECKSUMS, dtype="U64", shape=(num_rows,))]
    if sparse:
        tensors.append(TensorEntry(name=IDS, dtype="I64", shape=(num_rows,)))
    for layer, rank in geometry.ranks.items():
        tensors.append(TensorEntry(name=f"basis.{layer}", dtype="BF16", shape=(rank, geometry.hidden_size)))
    return tuple(tensors)


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """One shard file as the manifest lists it."""

    file: str
    first_row: int
    num_rows: int
    num_bytes: int
    digest: str


@dataclass(frozen=True, kw_only=True)
class AuxiliaryEntry:
    """The auxiliary file as the manifest lists it."""

    file: str
    num_bytes: int
    digest: str
    tensors: tuple[TensorEntry, ...]

    @property
    def is_sparse(self) -> bool:
        """Whether the table lists the ids of its rows."""
        return any(tensor.name == IDS for tensor in self.tensors)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything about a table but its rows; validated once, never changed."""

    table_id: str
    """128 random bits, 32 hexadecimal digits."""
    fingerprint: str
    """Of the weights that determine the table's values, as the exporting model states it."""
    num_rows: int
    """Rows on disk: `vocab_size`, or fewer in a sparse table."""
    geometry: TableGeometry
    """Sizes and the layout of a row."""
    auxiliary: AuxiliaryEntry
    """Row checksums, the ids of a sparse table, the bases of layers with a rank."""
    shards: tuple[ShardEntry, ...]
    """Files of rows, in row order, without gap or overlap."""

    def __post_init__(self) -> None:
        if not _HEX_128.fullmatch(self.table_id):
            raise TableFormatError(f"table_id is {self.table_id!r:.50}; it must be 32 hexadecimal digits")
        check_fingerprint(self.fingerprint)
        check_num_rows(self.num_rows, self.geometry, sparse=self.auxiliary.is_sparse)
        self._check_auxiliary()
        first_row = 0
        for index, shard in enumerate(self.shards):
            # Names are fixed rather than free: no manifest can point outside its directory or at one file twice.
            if shard.file != shard_file(index, len(self.shards)):
                raise TableFormatError(
                    f"shard {index} is called {shard.file!r:.100}; it must be {shard_file(index, len(self.shards))}"
                )
            if shard.first_row != first_row or shard.num_rows < 1:
                raise TableFormatError(f"shard {index} does not start at row {first_row} or is empty")
            num_bytes = len(self.shard_header(index)) + shard.num_rows * self.geometry.row_stride
            if shard.num_bytes != num_bytes:
                raise TableFormatError(f"shard {index} has {shard.num_bytes} bytes; its rows take {num_bytes}")
            if not _HEX_128.fullmatch(shard.digest):
                raise TableFormatError(f"the digest of shard {index} is not 32 hexadecimal digits")
            first_row += shard.num_rows
        if first_row != self.num_rows:
            raise TableFormatError(f"the shards hold {first_row} rows; there must be {self.num_rows}")

    def _check_auxiliary(self) -> None:
        auxiliary = self.auxiliary
        if auxiliary.file != AUXILIARY_FILE:
            raise TableFormatError(f"the auxiliary file is called {auxiliary.file!r:.100}; it must be {AUXILIARY_FILE}")
        expected = auxiliary_tensors(self.geometry, num_rows=self.num_rows, sparse=auxiliary.is_sparse)
        if auxiliary.tensors != expected:
            raise TableFormatError("the auxiliary file lists other tensors than this table's checksums, ids and bases")
        num_bytes = len(self.auxiliary_header()) + sum(tensor.num_bytes for tensor in auxiliary.tensors)
        if auxiliary.num_bytes != num_bytes:
            raise TableFormatError(f"the auxiliary file has {auxiliary.num_bytes} bytes; its tensors take {num_bytes}")
        if not _HEX_128.fullmatch(auxiliary.digest):
            raise TableFormatError("the digest of the auxiliary file is not 32 hexadecimal digits")

    def shard_header(self, index: int) -> bytes:
        """Return the first bytes of a shard's file; the rows follow at once."""
        shard = self.shards[index]
        return shard_header(
            self.geometry,
            table_id=self.table_id,
            index=index,
            num_shards=len(self.shards),
            first_row=shard.first_row,
            num_rows=shard.num_rows,
        )

    def auxiliary_header(self) -> bytes:
        """Return the first bytes of the auxiliary file; its tensors follow at once."""
        return auxiliary_header(self.auxiliary.tensors, version=self.geometry.format_version, table_id=self.table_id)

    @property
    def num_bytes(self) -> int:
        """Bytes of all files but the manifest's own."""
        return self.auxiliary.num_bytes + sum(shard.num_bytes for shard in self.shards)


def check_num_rows(num_rows: int, geometry: TableGeometry, *, sparse: bool) -> None:
    """Raise unless a table of this geometry can have so many rows; a sparse one lists the ids of its rows."""
    if not 1 <= num_rows <= geometry.vocab_size:
        raise TableFormatError(f"num_rows is {num_rows}; it must be 1 to vocab_size, {geometry.vocab_size}")
    if not sparse and num_rows != geometry.vocab_size:
        raise TableFormatError(f"there are {num_rows} rows for {geometry.vocab_size} ids, and no list of ids")


def check_fingerprint(fingerprint: str) -> None:
    """Raise unless a fingerprint is 1 to 256 letters, digits and `:._+-`, fit for a message's one line."""
    if not _FINGERPRINT.fullmatch(fingerprint):
        raise TableFormatError(f"the fingerprint {fingerprint!r:.50} is not 1 to 256 letters, digits and :._+-")
