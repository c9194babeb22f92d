"""Frequency lists: how often each row key was used, gathered in training or from traces, to seed a cache with.

On disk a list is a safetensors file with one int64 tensor, `token_counts` [number of keys]; training writes one.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from paging.errors import FrequencyError

COUNTS_FILE = "token_counts.safetensors"
_TENSOR = "token_counts"


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
