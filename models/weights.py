"""The tensors of a checkpoint directory: one safetensors file, or shards with an index, as `transformers` lays out.

Knows files, headers and bytes. Knows nothing of models: names and shapes are checked in `models/checkpoint.py`.
Tensors are read and written one at a time; a read tensor is backed by the mapped file, copied by nobody.
"""

import json
import os
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from models.config import ModelConfig
from models.errors import CheckpointError
from models.fingerprint import FingerprintHasher, Fingerprints

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
SHARD_BYTES = 5_000_000_000

FLOAT_DTYPES: Mapping[str, torch.dtype] = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
}
"""Safetensors' words for what a weight can be stored as."""
_DTYPE_WORDS = {dtype: word for word, dtype in FLOAT_DTYPES.items()}

_BACKBONE_KEY = "backbone_fingerprint"
_TABLE_KEY = "table_fingerprint"
_NO_DIGEST = "0" * 32  # stands in a header until the tensors behind it are written
_HEADER_ALIGNMENT = 8


class TensorSpec(NamedTuple):
    """What a safetensors header says of one tensor."""

    dtype: str
    shape: tuple[int, ...]


class StoredWeights:
    """A checkpoint directory's tensors, listed at once and read one at a time."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.metadata: dict[str, str] = {}
        self.specs: dict[str, TensorSpec] = {}
        self._files: dict[str, Any] = {}
        if not directory.is_dir():
            raise CheckpointError(f"no checkpoint at {directory}: there is no such directory")
        single, index = directory / WEIGHTS_FILE, directory / INDEX_FILE
        if single.exists() and index.exists():
            raise CheckpointError(f"{directory} has both {WEIGHTS_FILE} and {INDEX_FILE}; remove the one that is stale")
        if index.exists():
            self._open_shards(index)
        elif single.exists():
            self.metadata = self._open_file(single)
        else:
            raise CheckpointError(f"no weights in {directory}: it has neither {WEIGHTS_FILE} nor {INDEX_FILE}")

    def read(self, name: str) -> Tensor:
        """Return one tensor as it is stored, backed by the mapped file; writing to it changes no file."""
        try:
            tensor: Tensor = self._files[name].get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"cannot read {name} in {self.directory}: {error}") from error
        return tensor

    @property
    def fingerprints(self) -> Fingerprints | None:
        """The fingerprints that were stored when the weights were written; None where another program wrote them."""
        backbone, table = self.metadata.get(_BACKBONE_KEY), self.metadata.get(_TABLE_KEY)
        if not isinstance(backbone, str) or not isinstance(table, str | None):
            return None
        return Fingerprints(backbone=backbone, table=table)

    def _open_file(self, path: Path) -> dict[str, str]:
        """List one file's tensors; return its metadata."""
        try:
            file: Any = safe_open(path, framework="pt")
            for name in file.keys():  # noqa: SIM118 safe_open is no mapping
                if name in self._files:
                    raise CheckpointError(f"{path}: tensor {name} is in another shard too")
                view = file.get_slice(name)
                self.specs[name] = TensorSpec(view.get_dtype(), tuple(view.get_shape()))
                self._files[name] = file
            return dict(file.metadata() or {})
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is not a whole safetensors file: {error}") from error

    def _open_shards(self, index: Path) -> None:
        self.metadata, weight_map = _read_index(index)
        for shard in sorted(set(weight_map.values())):
            listed = {name for name, file in weight_map.items() if file == shard}
            before = set(self.specs)
            self._open_file(self.directory / shard)
            present = self.specs.keys() - before
            if listed != present:
                raise CheckpointError(
                    f"{self.directory / shard} does not fit {INDEX_FILE}: "
                    f"{', '.join(sorted(listed ^ present))} is in one and not in the other"
                )


def _read_index(index: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the metadata and the map from tensor to file of an index, both checked."""
    try:
        values = json.loads(index.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"cannot read {index}: {error}") from error
    weight_map = values.get("weight_map") if isinstance(values, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map of tensors to files")
    for file in weight_map.values():
        # A plain name: no other directory, nothing hidden.
        if not isinstance(file, str) or not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*\.safetensors", file):
            raise CheckpointError(f"{index} names the file {file!r}; only plain names ending in .safetensors are read")
    metadata = values.get("metadata")
    return metadata if isinstance(metadata, dict) else {}, weight_map


def write_weights(
    directory: Path,
    config: ModelConfig,
    shapes: Mapping[str, tuple[int, ...]],
    read: Callable[[str], Tensor],
    *,
    dtype: torch.dtype,
    table_fingerprint: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    on_progress: Callable[[int, int], None] | None = None,
) -> Fingerprints:
    """Write tensors into a directory, each asked of `read` once and in order of name; return the fingerprints stored.

    Each is converted to `dtype`. `table_fingerprint` is stored instead of the one that the tensors give. Shards
    take up to `shard_bytes` each. `on_progress` is called with (bytes written, bytes in all). Raises `OSError`.
    """
    word = storage_word(dtype)
    shards = _shards({name: TensorSpec(word, shapes[name]) for name in sorted(shapes)}, shard_bytes)
    files = [WEIGHTS_FILE] if len(shards) == 1 else [_shard_name(i, len(shards)) for i in range(1, len(shards) + 1)]
    hasher = FingerprintHasher(config)
    done, total = 0, sum(_num_bytes(spec) for shard in shards for spec in shard.values())

    def stamp() -> dict[str, str]:
        backbone, table = hasher.fingerprints.backbone, table_fingerprint or hasher.fingerprints.table
        return {_BACKBONE_KEY: backbone} | ({} if table is None else {_TABLE_KEY: table})

    for file_name, shard in zip(files, shards, strict=True):
        metadata = {"format": "pt"}
        if len(shards) == 1:
            metadata |= dict.fromkeys(stamp(), _NO_DIGEST)
        with (directory / file_name).open("xb") as file:
            _write_header(file, shard, metadata)
            for name, spec in shard.items():
                content = _content(read(name), spec, name)
                hasher.add(name, *spec, content)
                file.write(content)
                done += len(content)
                if on_progress is not None:
                    on_progress(done, total)
            if len(shards) == 1:
                # Digests have one length, so the header keeps its size.
                file.seek(0)
                _write_header(file, shard, metadata | stamp())
            _sync(file)
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": total, **stamp()},
            "weight_map": {name: file for file, shard in zip(files, shards, strict=True) for name in shard},
        }
        write_text(directory / INDEX_FILE, json.dumps(index, indent=2) + "\n")
    stamped = stamp()
    return Fingerprints(backbone=stamped[_BACKBONE_KEY], table=stamped.get(_TABLE_KEY))


def hash_weights(config: ModelConfig, specs: Mapping[str, TensorSpec], read: Callable[[str], Tensor]) -> Fingerprints:
    """Return the fingerprints of tensors without writing them, one tensor in memory at a time."""
    hasher = FingerprintHasher(config)
    for name in sorted(specs):
        hasher.add(name, *specs[name], _content(read(name), specs[name], name))
    return hasher.fingerprints


def write_text(path: Path, text: str) -> None:
    """Write a small file and make its content durable. Raises `OSError`."""
    with path.open("xb") as file:
        file.write(text.encode())
        _sync(file)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def storage_word(dtype: torch.dtype) -> str:
    """Return safetensors' word for a dtype that weights can be stored in, or raise `CheckpointError`."""
    if dtype not in _DTYPE_WORDS:
        raise CheckpointError(f"weights cannot be stored as {dtype}; they can be {', '.join(map(str, _DTYPE_WORDS))}")
    return _DTYPE_WORDS[dtype]


def _shards(specs: Mapping[str, TensorSpec], shard_bytes: int) -> list[dict[str, TensorSpec]]:
    """Split tensors into runs of at most `shard_bytes`; a larger tensor has a run of its own."""
    shards: list[dict[str, TensorSpec]] = [{}]
    size = 0
    for name, spec in specs.items():
        if shards[-1] and size + _num_bytes(spec) > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = spec
        size += _num_bytes(spec)
    return shards


def _shard_name(number: int, count: int) -> str:
    return f"model-{number:05d}-of-{count:05d}.safetensors"


def _num_bytes(spec: TensorSpec) -> int:
    return torch.Size(spec.shape).numel() * FLOAT_DTYPES[spec.dtype].itemsize


def _write_header(file: BinaryIO, specs: Mapping[str, TensorSpec], metadata: dict[str, str]) -> None:
    """Write what comes before the tensors' bytes: the header's length, 64-bit little-endian, then its JSON."""
    header: dict[str, Any] = {"__metadata__": metadata}
    offset = 0
    for name, spec in specs.items():
        end = offset + _num_bytes(spec)
        header[name] = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _HEADER_ALIGNMENT)
    file.write(struct.pack("<Q", len(text)) + text)


def _content(tensor: Tensor, spec: TensorSpec, name: str) -> memoryview:
    """Return a tensor's bytes as it is to be stored; shares memory with a tensor that needs no conversion."""
    assert tuple(tensor.shape) == spec.shape, f"{name} is {list(tensor.shape)}, announced as {list(spec.shape)}"
    tensor = tensor.detach().to(device="cpu", dtype=FLOAT_DTYPES[spec.dtype]).contiguous()
    content: memoryview = tensor.flatten().view(torch.uint8).numpy().data
    return content
