"""The rows that were hot, on disk: saved at shutdown and now and then, restored at the next start.

A safetensors file with two tensors, `rows` (int64 [n], row numbers of the table, the hottest first) and `heat` (float64
[n]), and the table's fingerprint in its metadata. Knows nothing of slots or of when it is saved.
"""

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from paging.errors import HotSetError

_FINGERPRINT = "table_fingerprint"


@dataclass(frozen=True, kw_only=True)
class HotSet:
    """Rows of one table that are worth having before they are asked for."""

    rows: npt.NDArray[np.int64]
    """Row numbers, each once, the hottest first."""
    heat: npt.NDArray[np.float64]
    """How much each was asked for, at least 0; comparable within the set."""


def save_hot_set(path: Path, hot_set: HotSet, *, fingerprint: str) -> None:
    """Write a hot set so that `path` holds the old file or the whole new one; raises `HotSetError`."""
    partial = path.with_name(path.name + ".partial")
    try:
        tensors = {"rows": np.ascontiguousarray(hot_set.rows), "heat": np.ascontiguousarray(hot_set.heat)}
        with partial.open("wb") as file:
            file.write(save(tensors, metadata={_FINGERPRINT: fingerprint}))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise HotSetError(f"cannot write the hot set {path}: {error.strerror or error}") from error


def load_hot_set(path: Path, *, fingerprint: str, num_rows: int) -> HotSet:
    """Read the hot set of a table with this fingerprint and so many rows.

    Raises `HotSetError` where the file is none, or is of another table; it can always be deleted.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            saved_for = (file.metadata() or {}).get(_FINGERPRINT)
            # What is no hot set may be far larger than one: nothing of it is read.
            found = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118  it is no dictionary
            is_small = all(math.prod(shape) <= num_rows for shape in found.values())
            is_ours = saved_for == fingerprint and found.keys() == {"rows", "heat"} and is_small
            tensors = {name: file.get_tensor(name) for name in found} if is_ours else {}
    except OSError as error:
        raise HotSetError(f"cannot read the hot set {path}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise HotSetError(f"{path} is no hot set ({error}); delete it or name another file") from error
    if saved_for is not None and saved_for != fingerprint:
        raise HotSetError(
            f"the hot set {path} is of another table ({saved_for}, not {fingerprint}); delete it", is_replaceable=True
        )
    rows, heat = tensors.get("rows"), tensors.get("heat")
    if rows is None or heat is None or not _is_sound(rows, heat, num_rows):
        raise HotSetError(f"{path} is no hot set of a table of {num_rows} rows; delete it or name another file")
    return HotSet(rows=rows, heat=heat)


def _is_sound(rows: npt.NDArray[np.int64], heat: npt.NDArray[np.float64], num_rows: int) -> bool:
    if rows.dtype != np.int64 or heat.dtype != np.float64 or rows.ndim != 1 or rows.shape != heat.shape:
        return False
    if len(rows) and not 0 <= rows.min() <= rows.max() < num_rows:
        return False
    return len(np.unique(rows)) == len(rows) and bool((np.isfinite(heat) & (heat >= 0)).all())
