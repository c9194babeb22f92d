"""Which ToL table belongs to a model, and where it lies; a bundled model's is made when it is first needed.

Knows nothing of what a table is made of.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

from models.bundled import bundled_models, resolve_model
from models.checkpoint import read_fingerprints
from models.config import ModelConfig
from models.errors import CheckpointError
from models.export import export_table
from models.table_rows import open_table
from paging import Encoding, Table, TableError, TableWriteError
from server.directories import cache_directory

TABLE_DIRECTORY = "table"
"""The name of a model's table inside its checkpoint directory."""

PhaseProgress = Callable[[str, int, int], None]
"""Called with (what is being done, done, total)."""


def open_model_table(
    directory: Path, config: ModelConfig, table: Path | None, on_progress: PhaseProgress | None
) -> Table:
    """Open the table that was named, or the model's own; see `load` for errors."""
    fingerprint = read_fingerprints(directory).table
    if fingerprint is None:
        raise CheckpointError(f"{directory} does not say which ToL table goes with it; `tolbooth import` repairs that")
    if table is not None:
        return open_table(table, config, fingerprint)
    own, cached = directory / TABLE_DIRECTORY, cached_table(fingerprint)
    if own.exists():
        return open_table(own, config, fingerprint)
    if is_bundled(directory):
        return _open_cached(cached, directory, config, fingerprint, phase(on_progress, "building the table"))
    if cached.exists():
        return open_table(cached, config, fingerprint)
    raise CheckpointError(
        f"{directory} has no ToL table; `tolbooth export-tol {directory}` makes it, or compute its memory"
    )


def is_bundled(directory: Path) -> bool:
    """Whether a checkpoint directory is one that comes with the package, and so may be read-only."""
    return directory.resolve() in {resolve_model(name).resolve() for name in bundled_models()}


def cached_table(fingerprint: str, encoding: Encoding = Encoding.BF16) -> Path:
    """Return where the user's cache has the table with this fingerprint."""
    return cache_directory() / "tables" / f"{fingerprint}-{encoding}"


def own_table(directory: Path, encoding: Encoding = Encoding.BF16) -> Path:
    """Return where `tolbooth export-tol` puts a model's table: inside the checkpoint; in the cache if it is bundled."""
    if not is_bundled(directory):
        return directory / TABLE_DIRECTORY
    fingerprint = read_fingerprints(directory).table
    if fingerprint is None:
        raise CheckpointError(f"{directory} is a dense model; it has no memory to export")
    return cached_table(fingerprint, encoding)


def phase(on_progress: PhaseProgress | None, what: str) -> Callable[[int, int], None] | None:
    """Return a callback (done, total) for one phase."""
    if on_progress is None:
        return None
    return lambda done, total: on_progress(what, done, total)


def _open_cached(
    cached: Path,
    directory: Path,
    config: ModelConfig,
    fingerprint: str,
    on_progress: Callable[[int, int], None] | None,
) -> Table:
    """Open a bundled model's table in the cache; it is made where it is not there or, having been there, broken."""
    existed = cached.exists()
    try:
        return open_table(cached, config, fingerprint)
    except TableError:
        if existed:  # what cleans caches removes single files
            shutil.rmtree(cached, ignore_errors=True)
    try:
        export_table(directory, cached, on_progress=on_progress)
    except TableWriteError:
        # Another process may have made it meanwhile; if not, opening would only hide what went wrong.
        if not cached.exists():
            raise
    return open_table(cached, config, fingerprint)
