"""The two fingerprints of a checkpoint: of its backbone, and of what determines its ToL table.

Both are xxh3-128 over tensors in order of name; of each tensor a line of JSON `[name, dtype, [sizes]]`, then its bytes
in row-major, little-endian order, as the checkpoint stores them. The table's starts with a line of the
configuration values that the memory's arithmetic reads. They tell apart checkpoints, tables and caches
that were mixed up; they are no defence against someone who forges them.
"""

import json
from dataclasses import dataclass

import xxhash

from models.config import ModelConfig

EMBEDDING = "model.embed_tokens.weight"


def is_memory(name: str) -> bool:
    """Whether the tensor belongs to a memory FFN: read where rows are computed, not where a table is present."""
    return ".memory." in name


@dataclass(frozen=True, kw_only=True)
class Fingerprints:
    """32 hexadecimal digits each."""

    backbone: str
    """Of all tensors but the memory's."""
    table: str | None
    """Of the embedding, the memory's tensors and the sizes that shape the rows; None for a dense model."""


class FingerprintHasher:
    """Computes both fingerprints from a stream of tensors, in one pass."""

    def __init__(self, config: ModelConfig) -> None:
        self._backbone = xxhash.xxh3_128()
        self._table = xxhash.xxh3_128(_line(_table_values(config))) if config.has_memory else None
        self._last = ""

    def add(self, name: str, dtype: str, shape: tuple[int, ...], content: memoryview) -> None:
        """Take in one tensor; they must come in order of name. `dtype` is safetensors' word for it."""
        assert self._last < name, "tensors must come in order of name"
        self._last = name
        head = _line([name, dtype, list(shape)])
        if not is_memory(name):
            self._backbone.update(head)
            self._backbone.update(content)
        if self._table is not None and (is_memory(name) or name == EMBEDDING):
            self._table.update(head)
            self._table.update(content)

    @property
    def fingerprints(self) -> Fingerprints:
        """The fingerprints of what was taken in so far."""
        table = None if self._table is None else self._table.hexdigest()
        return Fingerprints(backbone=self._backbone.hexdigest(), table=table)


def _table_values(config: ModelConfig) -> dict[str, int | float]:
    return {
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "rms_norm_eps": config.rms_norm_eps,
        "vocab_size": config.vocab_size,
    }


def _line(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"
