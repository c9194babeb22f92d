"""Frequency lists: how often each row key was used, gathered in training or from traces, to seed a cache with.

On disk a list is a safetensors file with one int64 tensor, `token_counts` [number of keys]; training writes one.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from paging.errors import FrequencyError

COUNTS_FILE = "token_counts.safetensors"
_TENSOR = "token_counts"
_CHUNK = 1 << 22


def count_keys(ids_N: npt.NDArray[np.integer[Any]], num_keys: int) -> npt.NDArray[np.int64]:
    """Return how often each key of 0 to `num_keys` - 1 occurs, int64 [num_keys]; streams, so a memory map will do."""
    counts_V = np.zeros(num_keys, dtype=np.int64)
    for start in range(0, len(ids_N), _CHUNK):
        counts_V += np.bincount(ids_N[start : start + _CHUNK].astype(np.int64), minlength=num_keys)
    return counts_V


def hottest_keys(counts_V: npt.NDArray[np.int64], num_keys: int) -> npt.NDArray[np.int64]:
    """Return the `num_keys` keys of highest count, hottest first, ties by key; keys that were never used are left out.

    counts_V: int64 [V], how often each of the keys 0 to V - 1 was used.
    """
    keys = np.flatnonzero(counts_V)
    return keys[np.argsort(-counts_V[keys], kind="stable")[:num_keys]]


def save_counts(path: Path, counts_V: npt.NDArray[np.int64]) -> None:
    """Write a frequency list so that `path` holds the old file or the whole new one; raises `FrequencyError`."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(save({_TENSOR: np.ascontiguousarray(counts_V, dtype=np.int64)}))
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise FrequencyError(f"cannot write the frequency list {path}: {error.strerror or error}") from error


def load_counts(path: Path, *, num_keys: int | None = None) -> npt.NDArray[np.int64]:
    """Read a frequency list, int64 [V]; raises `FrequencyError` where it is none or has not `num_keys` keys."""
    try:
        tensors = load(path.read_bytes())
    except OSError as error:
        raise FrequencyError(f"cannot read the frequency list {path}: {error.strerror or error}") from error
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise FrequencyError(f"{path} is no frequency list, not even a safetensors file: {error}") from error
    counts_V = tensors.get(_TENSOR)
    if counts_V is None or counts_V.dtype != np.int64 or counts_V.ndim != 1 or (counts_V < 0).any():
        raise FrequencyError(
            f"{path} is no frequency list; it needs `{_TENSOR}`, int64, one dimension, nothing below 0"
        )
    if num_keys is not None and len(counts_V) != num_keys:
        raise FrequencyError(f"{path} is of a vocabulary of {len(counts_V):,} ids, not {num_keys:,}; name another list")
    return counts_V
