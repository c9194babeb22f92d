"""Runs a step on the model: from chunks of sequences to hidden states and scores.

Knows tensors and layout; decides nothing.

Shape legend: N tokens of the step, C chunks, M positions to score, L layers, d hidden size, V vocabulary.
"""

from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.attention import PagedContext
from models.kv_cache import KVCache
from models.rows import Rows
from models.transformer import Transformer
from server.engine.decode_graphs import DecodeGraphs
from server.engine.step import Chunk, DecodeBatch


class Runner:
    """A model with its cache of keys and values."""

    def __init__(self, model: Transformer, cache: KVCache, graphs: DecodeGraphs | None = None) -> None:
        """graphs: captured steps, for those that can be run so."""
        self.model = model
        self.cache = cache
        self.graphs = graphs
        self.device = model.head_weight.device

    def alpha(self, chunks: Sequence[Chunk]) -> Tensor:
        """Return how much of each layer's row the chunks' tokens get, [N, L]."""
        whole = (1.0,) * self.model.config.num_hidden_layers
        alpha_CL = torch.tensor(
            [chunk.sequence.state.alpha or whole for chunk in chunks], dtype=self.model.head_weight.dtype
        )
        lengths_C = torch.tensor([chunk.length for chunk in chunks])
        return alpha_CL.repeat_interleave(lengths_C, dim=0).to(self.device)

    def run(
        self,
        chunks: Sequence[Chunk],
        rows: Rows | None,
        alpha_NL: Tensor | None = None,
        batch: DecodeBatch | None = None,
    ) -> Tensor:
        """Run the chunks' tokens, one chunk after another, and return the hidden state of each, [N, d].

        batch: the chunks once more, if they are one. What is returned is to be used before the next run.
        """
        if self.graphs is not None and alpha_NL is None:
            hidden_Nd = self.graphs.run(chunks, rows)
            if hidden_Nd is not None:
                return hidden_Nd
        slots = None
        if batch is not None:
            slots = torch.from_numpy(batch.slots()).to(self.device)
            lengths, stops, tables = [1] * len(batch), (batch.positions_N + 1).tolist(), batch.tables
            ids, positions = batch.ids_N, batch.positions_N
        else:
            lengths, tables = [chunk.length for chunk in chunks], [chunk.sequence.table for chunk in chunks]
            starts = [chunk.sequence.num_computed for chunk in chunks]
            stops = [start + length for start, length in zip(starts, lengths, strict=True)]
            spans = [*zip(chunks, starts, stops, strict=True)]
            ids = _joined(chunk.sequence.ids[start:stop] for chunk, start, stop in spans)
            positions = _joined(range(start, stop) for _, start, stop in spans)
        context = PagedContext(
            cache=self.cache, query_lengths=lengths, context_lengths=stops, block_tables=tables, slots=slots
        )
        ids_N, positions_N = (torch.from_numpy(each).to(self.device) for each in (ids, positions))
        out_Nd: Tensor = self.model(ids_N, positions_N, context, rows, alpha_NL)
        return out_Nd

    def scores(self, hidden_Nd: Tensor, positions: Sequence[int]) -> Tensor:
        """Return the scores [M, V] at some positions of a step."""
        if len(positions) < len(hidden_Nd):
            hidden_Nd = hidden_Nd[torch.tensor(positions, device=self.device)]
        return self.model.logits(hidden_Nd)


def _joined(parts: Iterable[Iterable[int]]) -> npt.NDArray[np.int64]:
    return np.fromiter(chain.from_iterable(parts), dtype=np.int64)
