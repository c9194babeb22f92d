"""Runs a step on the model: from chunks of sequences to hidden states and scores.

Knows tensors and layout; decides nothing.

Shape legend: N tokens of the step, C chunks, M positions to score, L layers, d hidden size, V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.attention import PagedContext
from models.kv_cache import KVCache
from models.rows import Rows
from models.transformer import Transformer
from server.engine.decode_graphs import DecodeGraphs
from server.engine.step_rows import Chunk


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

    def run(self, chunks: Sequence[Chunk], rows: Rows | None, alpha_NL: Tensor | None = None) -> Tensor:
        """Run the chunks' tokens, one chunk after another, and return the hidden state of each, [N, d].

        What is returned is to be used before the next run.
        """
        if self.graphs is not None and alpha_NL is None:
            hidden_Nd = self.graphs.run(chunks, rows)
            if hidden_Nd is not None:
                return hidden_Nd
        ids: list[int] = []
        positions: list[int] = []
        query_lengths: list[int] = []
        context_lengths: list[int] = []
        for sequence, length, _ in chunks:
            start = sequence.num_computed
            if length == 1:
                ids.append(sequence.ids[start])
                positions.append(start)
            else:
                ids += sequence.ids[start : start + length]
                positions += range(start, start + length)
            query_lengths.append(length)
            context_lengths.append(start + length)
        context = PagedContext(
            cache=self.cache,
            query_lengths=query_lengths,
            context_lengths=context_lengths,
            block_tables=[sequence.table for sequence, _, _ in chunks],
        )
        both_2N = torch.tensor((ids, positions), dtype=torch.int64, device=self.device)
        ids_N, positions_N = both_2N[0], both_2N[1]
        out_Nd: Tensor = self.model(ids_N, positions_N, context, rows, alpha_NL)
        return out_Nd

    def scores(self, hidden_Nd: Tensor, positions: Sequence[int]) -> Tensor:
        """Return the scores [M, V] at some positions of a step."""
        if len(positions) < len(hidden_Nd):
            hidden_Nd = hidden_Nd[torch.tensor(positions, device=self.device)]
        return self.model.logits(hidden_Nd)
