"""A checkpoint's tensors as memory maps, widened to float32 part by part; without torch.

Knows how safetensors lays out a file. What runs a model reads it with `models/weights.py`; this is for looking at
matrices of which a few rows are wanted, in a process that may have no torch.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.errors import CheckpointError

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.integer[Any]]

_WEIGHTS_FILE = "model.safetensors"
_INDEX_FILE = "model.safetensors.index.json"
_MAX_HEADER_BYTES = 100_000_000
_NUMPY_TYPES: Mapping[str, np.dtype[Any]] = {
    "BF16": np.dtype("<u2"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*\.safetensors")


@dataclass(frozen=True)
class StoredMatrix:
    """One tensor, backed by its file."""

    stored: npt.NDArray[Any]
    """As it lies in the file; the upper halves of float32 numbers where it is in bf16."""
    is_bf16: bool

    def whole(self) -> Floats:
        """Return all of it."""
        return self.rows(slice(None))

    def rows(self, which: slice | Ids) -> Floats:
        """Return a copy of some rows, of the values themselves where there is one dimension."""
        stored = self.stored[which]
        if self.is_bf16:
            return (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return stored.astype(np.float32)


class StoredMatrices:
    """The tensors of a checkpoint directory, whose files stay mapped for as long as one of them is used."""

    def __init__(self, directory: Path) -> None:
        """List them; raises `CheckpointError` where there are none, or a file is not whole."""
        self._directory = directory
        self._matrices: dict[str, StoredMatrix] = {}
        index = directory / _INDEX_FILE
        for name in _shards(index) if index.exists() else [_WEIGHTS_FILE]:
            self._matrices |= _read_file(directory / name)

    def __contains__(self, name: str) -> bool:
        return name in self._matrices

    def get(self, name: str, shape: Sequence[int]) -> StoredMatrix:
        """Return one tensor, or raise `CheckpointError` where it is missing or has another shape."""
        matrix = self._matrices.get(name)
        if matrix is None:
            raise CheckpointError(f"the checkpoint {self._directory} has no tensor {name}")
        if matrix.stored.shape != tuple(shape):
            found = list(matrix.stored.shape)
            raise CheckpointError(f"{name} in {self._directory} has shape {found} instead of {list(shape)}")
        return matrix


def _shards(index: Path) -> list[str]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(weight_map.values()))
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"cannot read {index}: {error}") from error
    for name in names:
        if not isinstance(name, str) or not _PLAIN_NAME.fullmatch(name):
            raise CheckpointError(f"{index} names the file {name!r:.200}; only plain names ending in .safetensors do")
    return names


def _read_file(path: Path) -> dict[str, StoredMatrix]:
    try:
        content: npt.NDArray[np.uint8] = np.memmap(path, dtype=np.uint8, mode="r")
        header_bytes = int.from_bytes(content[:8].tobytes(), "little")
        if not 2 <= header_bytes <= min(_MAX_HEADER_BYTES, len(content) - 8):
            raise CheckpointError(f"{path} is not a whole safetensors file: its header has {header_bytes} bytes")
        header = json.loads(content[8 : 8 + header_bytes].tobytes())
        values = content[8 + header_bytes :]
        return {
            name: _matrix(values, entry["dtype"], entry["shape"], *entry["data_offsets"])
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except FileNotFoundError as error:
        raise CheckpointError(f"no weights at {path}: there is no such file") from error
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is not a whole safetensors file: {error}") from error


def _matrix(values: npt.NDArray[np.uint8], dtype: str, shape: Sequence[int], start: int, stop: int) -> StoredMatrix:
    if not 0 <= start <= stop <= len(values):
        raise ValueError("a tensor lies outside the file")
    stored = values[start:stop].view(_NUMPY_TYPES[dtype]).reshape(tuple(shape))
    return StoredMatrix(stored, dtype == "BF16")
