"""Small tables for the tests of `paging`."""

import json
from pathlib import Path

import numpy as np

from paging import Encoding, TableGeometry, TableWriter
from paging.manifest import manifest_digest

FINGERPRINT = "weights-1"
FLOATS = [encoding for encoding in Encoding if encoding.is_float]


def small_geometry(vocab_size=10, hidden_size=64, num_layers=3, encoding=Encoding.BF16):
    return TableGeometry.uniform(
        hidden_size=hidden_size, num_layers=num_layers, vocab_size=vocab_size, encoding=encoding
    )


def random_rows(num_rows, row_bytes, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num_rows, row_bytes), dtype=np.uint8)


def write_table(directory, geometry=None, *, rows=None, ids=None, rows_per_shard=None, **options):
    """Write a table of random payloads and return them."""
    geometry = geometry or small_geometry()
    if rows is None:
        rows = random_rows(geometry.vocab_size if ids is None else len(ids), geometry.row_bytes)
    if rows_per_shard is not None:
        options["shard_bytes"] = 4096 + rows_per_shard * geometry.row_stride
    options.setdefault("fingerprint", FINGERPRINT)
    with TableWriter(directory, geometry=geometry, num_rows=len(rows), ids=ids, **options) as writer:
        writer.write(rows)
    return rows


def edit_manifest(directory: Path, edit):
    """Apply `edit` to the manifest's values and make its digest right again."""
    path = directory / "manifest.json"
    values = json.loads(path.read_text())
    edit(values)
    values["manifest_digest"] = manifest_digest(values)
    path.write_text(json.dumps(values))


def flip_byte(path: Path, offset: int):
    content = bytearray(path.read_bytes())
    content[offset] ^= 0xFF
    path.write_bytes(content)


def shard_paths(directory: Path):
    return sorted(directory.glob("rows-*.safetensors"))


def entries(directory: Path):
    return sorted(path.name for path in directory.iterdir())
