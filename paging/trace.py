"""Traces: token ids in the order in which a model read them, one row request each, as `.npy` files."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from paging.errors import TraceError

_CHECK_IDS = 1 << 20


def load_trace(path: Path, *, vocab_size: int) -> npt.NDArray[np.integer[Any]]:
    """Open a trace: integers of any type [N], memory-mapped; every id is checked to be in the vocabulary.

    Raises `TraceError` where the file cannot be read, is no `.npy` of integers in one dimension, is empty or has an id
    that is negative or not below `vocab_size`.
    """
    try:
        ids_N = np.lib.format.open_memmap(path, mode="r")  # neither unpickles nor unpacks archives
    except (ValueError, OSError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "it is no .npy file of numbers"
        raise TraceError(f"cannot read the trace {path}: {reason}") from error
    if ids_N.dtype.kind not in "iu" or ids_N.ndim != 1:
        shape = ", ".join(map(str, ids_N.shape))
        raise TraceError(f"the trace {path} is {ids_N.dtype} [{shape}]; it must be integers in one dimension")
    if not len(ids_N):
        raise TraceError(f"the trace {path} is empty; it needs token ids")
    check_ids(ids_N, vocab_size=vocab_size, source=f"the trace {path}")
    return ids_N


def check_ids(ids_N: npt.NDArray[np.integer[Any]], *, vocab_size: int, source: str) -> None:
    """Raise `TraceError` where an id of `ids_N` is negative or not below `vocab_size`."""
    for start in range(0, len(ids_N), _CHECK_IDS):
        part = ids_N[start : start + _CHECK_IDS]
        bad = np.flatnonzero((part < 0) | (part >= vocab_size))
        if len(bad):
            raise TraceError(
                f"{source} has id {int(part[bad[0]])} at position {start + int(bad[0]):,}, outside the vocabulary of "
                f"{vocab_size:,}; give the vocabulary of the tokenizer that made it"
            )
