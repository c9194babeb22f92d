"""Journey 2: from a checkpoint's memory FFNs to a ToL table, and tables of made-up rows for benchmarks.

Knows which tensors determine the rows and how they are computed; the file format is `paging`'s.

Shape legend: C rows of a chunk, L layers, d hidden size, K intermediate size.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.checkpoint import check_tensors, open_checkpoint, read_fingerprints
from models.config import ModelConfig
from models.errors import CheckpointError
from models.fingerprint import EMBEDDING
from models.transformer import MemoryFFN
from models.weights import StoredWeights
from paging import Encoding, TableGeometry, TableWriter, encode_rows

# Rows computed at a time. The same shape for every chunk, so that a row's bits do not depend on the vocabulary's size;
# at 1B geometry a chunk takes 200 MB in float32.
CHUNK_ROWS = 1024


def table_geometry(config: ModelConfig, encoding: Encoding) -> TableGeometry:
    """Return the layout of a table with all layers of a model in one encoding."""
    return TableGeometry.uniform(
        hidden_size=config.hidden_size,
        num_layers=config.num_hidden_layers,
        vocab_size=config.vocab_size,
        encoding=encoding,
    )


@torch.inference_mode()
def export_table(
    checkpoint: Path,
    out: Path,
    *,
    encoding: Encoding = Encoding.BF16,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> TableGeometry:
    """Write `ToL[t] = concat_l FFN_l(norm_l(x_t))` of every id (MemoryLLM, eq. 2.9) as the table `out`.

    Rows are computed in float32 whatever the weights' dtype, then rounded to `encoding`. Weights stay in their mapped
    file and are widened one layer at a time. `on_progress` is told (rows done, rows in all). Raises
    `CheckpointError` for a checkpoint without memory FFNs, and what `TableWriter` raises.
    """
    config, weights = open_checkpoint(checkpoint)
    if not config.has_memory:
        raise CheckpointError(f"{checkpoint} is a dense model; it has no memory to export")
    check_tensors(checkpoint, config, weights.specs)
    fingerprint = read_fingerprints(checkpoint).table
    if fingerprint is None:
        raise CheckpointError(f"{checkpoint} has no table fingerprint; `tolbooth import` makes one that has")
    geometry = table_geometry(config, encoding)
    embedding_Vd = weights.read(EMBEDDING)
    values_CLd = torch.empty(CHUNK_ROWS, config.num_hidden_layers, config.hidden_size)
    with TableWriter(
        out, geometry=geometry, fingerprint=fingerprint, num_rows=config.vocab_size, overwrite=overwrite
    ) as writer:
        for start in range(0, config.vocab_size, CHUNK_ROWS):
            num_rows = min(CHUNK_ROWS, config.vocab_size - start)
            x0_Cd = torch.zeros(CHUNK_ROWS, config.hidden_size)
            x0_Cd[:num_rows] = embedding_Vd[start : start + num_rows]
            for layer in range(config.num_hidden_layers):
                values_CLd[:, layer] = _memory(config, weights, layer)(x0_Cd)
            writer.write(encode_rows(values_CLd[:num_rows], geometry, first_row=start))
            if on_progress:
                on_progress(start + num_rows, config.vocab_size)
    return geometry


def _memory(config: ModelConfig, weights: StoredWeights, layer: int) -> MemoryFFN:
    """Return one layer's memory FFN in float32."""
    with torch.device("meta"):
        memory = MemoryFFN(config)
    prefix = f"model.layers.{layer}.memory."
    tensors = {name: weights.read(prefix + name).float() for name in memory.state_dict()}
    memory.load_state_dict(tensors, assign=True)
    return memory


def synthetic_rows(geometry: TableGeometry, first_row: int, num_rows: int, *, seed: int) -> Tensor:
    """Return made-up rows as payloads, uint8 [num_rows, row_bytes]: normal values of deviation 0.02.

    Row by row a pure function of (seed, row number), so that a test can check any row of a table of any size.
    """
    shape = (len(geometry.segments), geometry.hidden_size)
    values = np.empty((num_rows, *shape), dtype=np.float32)
    for index in range(num_rows):
        generator = np.random.Generator(np.random.Philox(key=[seed, first_row + index]))
        generator.standard_normal(dtype=np.float32, out=values[index])
    values *= np.float32(0.02)
    return encode_rows(torch.from_numpy(values), geometry, first_row=first_row)


def write_synthetic_table(
    geometry: TableGeometry,
    out: Path,
    *,
    fingerprint: str,
    seed: int = 0,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a table of `synthetic_rows` for every id of the vocabulary, under a model's table fingerprint."""
    num_rows = geometry.vocab_size
    with TableWriter(out, geometry=geometry, fingerprint=fingerprint, num_rows=num_rows, overwrite=overwrite) as writer:
        for start in range(0, num_rows, CHUNK_ROWS):
            count = min(CHUNK_ROWS, num_rows - start)
            writer.write(synthetic_rows(geometry, start, count, seed=seed))
            if on_progress:
                on_progress(start + count, num_rows)
