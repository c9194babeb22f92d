"""Journey 2: from a checkpoint's memory FFNs to a ToL table, and tables of made-up rows for benchmarks.

Knows which tensors determine the rows and how they are computed; the file format is `paging`'s.

Shape legend: C rows of a chunk, L layers, d hidden size, K intermediate size.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.checkpoint import check_tensors, open_checkpoint, read_fingerprints
from models.config import ModelConfig
from models.errors import CheckpointError
from models.fingerprint import EMBEDDING
from models.transformer import MemoryFFN
from paging import Encoding, LayerEncoding, TableGeometry, TableWriter, encode_rows
from paging.compression import encode_table

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


class RowComputer:
    """Computes a checkpoint's rows, `ToL[t] = concat_l FFN_l(norm_l(x_t))` (MemoryLLM, eq. 2.9), chunk by chunk.

    In float32 whatever the weights' dtype; weights stay in their mapped file and are widened one layer at a time.
    """

    def __init__(self, checkpoint: Path, layers: Sequence[int] | None = None) -> None:
        """Prepare to compute some layers, all where None; `CheckpointError` for a checkpoint without memory FFNs."""
        self.config, self._weights = open_checkpoint(checkpoint)
        if not self.config.has_memory:
            raise CheckpointError(f"{checkpoint} is a dense model; it has no memory to export")
        check_tensors(checkpoint, self.config, self._weights.specs)
        fingerprint = read_fingerprints(checkpoint).table
        if fingerprint is None:
            raise CheckpointError(f"{checkpoint} has no table fingerprint; `tolbooth import` makes one that has")
        self.fingerprint = fingerprint
        """Of what determines the rows."""
        self._layers = range(self.config.num_hidden_layers) if layers is None else layers
        self._embedding_Vd = self._weights.read(EMBEDDING)
        self._values_CLd = torch.empty(CHUNK_ROWS, len(self._layers), self.config.hidden_size)

    def chunk(self, start: int) -> Tensor:
        """Return the values of up to `CHUNK_ROWS` rows from `start` (a multiple of that) on; until the next call."""
        return self.compute(torch.arange(start, min(start + CHUNK_ROWS, self.config.vocab_size)))

    @torch.inference_mode()
    def compute(self, ids_C: Tensor) -> Tensor:
        """Return the values of up to `CHUNK_ROWS` ids, float32 [C, L, d]; until the next call."""
        x0_Cd = torch.zeros(CHUNK_ROWS, self.config.hidden_size)
        x0_Cd[: len(ids_C)] = self._embedding_Vd[ids_C]
        for index, layer in enumerate(self._layers):
            self._values_CLd[:, index] = self._memory(layer)(x0_Cd)
        return self._values_CLd[: len(ids_C)]

    def _memory(self, layer: int) -> MemoryFFN:
        """Return one layer's memory FFN in float32."""
        with torch.device("meta"):
            memory = MemoryFFN(self.config)
        prefix = f"model.layers.{layer}.memory."
        tensors = {name: self._weights.read(prefix + name).float() for name in memory.state_dict()}
        memory.load_state_dict(tensors, assign=True)
        return memory


class ComputedValues:
    """All rows of a checkpoint as `encode_table` takes them: computed when they are asked for."""

    ids = None

    def __init__(self, checkpoint: Path) -> None:
        """Open a checkpoint; raises what `RowComputer` raises."""
        computer = RowComputer(checkpoint)
        self._checkpoint = checkpoint
        self.fingerprint = computer.fingerprint
        self.geometry = table_geometry(computer.config, Encoding.FP32)
        self.num_rows = computer.config.vocab_size

    def chunks(self, layers: tuple[int, ...]) -> Iterator[Tensor]:
        """Give all rows in order, float32 [C, layers asked for, d]; each chunk until the next one."""
        computer = RowComputer(self._checkpoint, layers)
        for start in range(0, self.num_rows, CHUNK_ROWS):
            yield computer.chunk(start)

    def rows(self, numbers_N: npt.NDArray[np.int64]) -> Tensor:
        """Return some rows by id, float32 [N, L, d]."""
        computer = RowComputer(self._checkpoint)
        ids_N = torch.from_numpy(numbers_N)
        starts = range(0, len(ids_N), CHUNK_ROWS)
        return torch.cat([computer.compute(ids_N[start : start + CHUNK_ROWS]).clone() for start in starts])


def export_table(
    checkpoint: Path,
    out: Path,
    *,
    encoding: Encoding = Encoding.BF16,
    kinds: Mapping[int, LayerEncoding] | None = None,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> TableGeometry:
    """Write the rows of every id as the table `out`, in one encoding or layer by layer as `kinds` says.

    `kinds` may leave layers out. With ranks the rows are computed twice or more often, to find the bases first.
    `on_progress` is told (rows done, rows in all). Raises what `RowComputer` and `encode_table` raise.
    """
    values = ComputedValues(checkpoint)
    if kinds is None:
        kinds = dict.fromkeys(values.geometry.layers, LayerEncoding.plain(encoding))
    return encode_table(values, out, kinds, overwrite=overwrite, on_progress=on_progress)


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
