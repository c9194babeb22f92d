"""Checksums of rows and digests of files: xxHash3, 64 bits for a row, 128 for a file.

Every row is verified each time it enters memory, so the row checksum must not slow a disk down: at least 5 GB/s per
core is required of it (XXH3 reached about 49 GB/s on the 2-core machine it was chosen on). It guards against damage
and mix-ups, not against an adversary.

A row's checksum is seeded from the table's id and the row's number, so that sound bytes of another row or of another
table fail it as well.
"""

from typing import TypeAlias

import xxhash

ROW_CHECKSUM = "xxh3_64"
"""The row checksum's name in the manifest."""
FILE_DIGEST = "xxh3_128"
"""The file digest's name in the manifest."""

FileDigest = xxhash.xxh3_128
"""Digest of a whole file, fed piece by piece; its `hexdigest()` is what the manifest holds."""

Bytes: TypeAlias = bytes | bytearray | memoryview
"""Contiguous bytes."""


def table_seed(table_id: str) -> int:
    """Return the seed of row 0: the first 8 bytes of the table id (32 hexadecimal digits), little-endian."""
    return int.from_bytes(bytes.fromhex(table_id)[:8], "little")


def row_checksum(payload: Bytes, *, seed: int, row: int) -> int:
    """Return the 64-bit checksum of a row's payload (padding left out), given `table_seed` and the row's number."""
    return xxhash.xxh3_64_intdigest(payload, seed=(seed + row) & 0xFFFF_FFFF_FFFF_FFFF)


def file_digest(content: Bytes) -> str:
    """Return the digest of content that is whole in memory."""
    return xxhash.xxh3_128_hexdigest(content)
