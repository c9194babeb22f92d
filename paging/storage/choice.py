"""Which storage serves a table: the one asked for, or the faster one that works there.

Knows nothing of how they read.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from paging.errors import StorageError
from paging.format import Manifest
from paging.manifest import load_manifest
from paging.opening import read_auxiliary
from paging.rowfiles import RowFiles
from paging.storage.direct import DirectStorage
from paging.storage.files import FileStorage
from paging.storage.mapped import MappedStorage

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from paging.table import Table

StorageKind: TypeAlias = Literal["direct", "mapped"]


def open_storage(
    table: "Table | Path | str", kind: StorageKind | None = None, *, drop_pages: bool = False
) -> FileStorage:
    """Open a table's rows for reading many at once, with files of its own; `description` says what was chosen and why.

    Where `kind` is None, `direct` is taken where the file system allows it: it was the faster one wherever both were
    measured, and leaves the page cache alone. `drop_pages` makes `mapped` leave the page cache as small.

    Raises `StorageError` where `direct` is asked for and does not work, `TableFormatError` where a directory is no
    sound table or is not the given one any more.
    """
    if isinstance(table, str | Path):
        directory = Path(table)
        manifest = load_manifest(directory)
        checksums = read_auxiliary(directory, manifest).checksums
    else:
        directory, manifest, checksums = table.directory, table.manifest, table.checksums
    if kind == "mapped":
        return _open_mapped(directory, manifest, checksums, reason="asked for", drop_pages=drop_pages)
    files = RowFiles.open(directory, manifest, checksums)
    try:
        return DirectStorage(files, description=f"direct ({'default' if kind is None else 'asked for'})")
    except OSError as error:
        files.close()
        refusal = f"{directory} allows no direct reads: {error.strerror}"
        if kind == "direct":
            raise StorageError(
                f"the file system of {refusal}; choose mapped storage, or move the table to a local disk"
            ) from error
        return _open_mapped(directory, manifest, checksums, reason=f"default; {refusal}", drop_pages=drop_pages)
    except BaseException:
        files.close()
        raise


def _open_mapped(
    directory: Path, manifest: Manifest, checksums: "npt.NDArray[np.uint64]", *, reason: str, drop_pages: bool
) -> MappedStorage:
    files = RowFiles.open(directory, manifest, checksums)
    try:
        return MappedStorage(files, description=f"mapped ({reason})", drop_pages=drop_pages)
    except BaseException:
        files.close()
        raise
