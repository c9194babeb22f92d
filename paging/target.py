"""What may be in the way of a table that is to be written."""

import os
from pathlib import Path

from paging.errors import TableWriteError
from paging.format import AUXILIARY_FILE, MANIFEST_FILE, SHARD_PATTERN
from paging.header import FORMAT


def check_replaceable(directory: Path, *, overwrite: bool) -> None:
    """Raise `TableWriteError` unless a table may be put at `directory`: absent, empty, or a table and `overwrite`."""
    if not directory.exists():
        return
    if not directory.is_dir() or os.path.ismount(directory):
        raise TableWriteError(f"{directory} is a file or a mount point; name another directory for the table")
    names = sorted(path.name for path in directory.iterdir())
    if not names:
        return
    foreign = [name for name in names if not _is_table_file(name)]
    if foreign or not _has_manifest(directory):
        found = f"it holds {foreign[0]!r}" if foreign else "it has no manifest of a table"
        raise TableWriteError(
            f"{directory} is not a table alone ({found}) and is left as it is; name another directory"
        )
    if not overwrite:
        raise TableWriteError(
            f"{directory} is a table already; name another directory, or ask for it to be overwritten"
        )


def _is_table_file(name: str) -> bool:
    return name in {MANIFEST_FILE, AUXILIARY_FILE} or SHARD_PATTERN.fullmatch(name) is not None


def _has_manifest(directory: Path) -> bool:
    # A damaged table may be overwritten, so the manifest need not be sound; it must be ours.
    path = directory / MANIFEST_FILE
    return path.is_file() and f'"{FORMAT}"'.encode() in path.read_bytes()
