"""The inputs of a decoding step in tensors that stay where they are, so that the step can be captured and run again.

Knows lanes, positions and blocks; knows nothing of capturing, and whose lanes they are. Lanes that nobody has write
their keys and values to the cache's scratch block, and what comes of them is nobody's.

Shape legend: S lanes, B blocks of a sequence, P positions per block, W numbers.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.decode_attention import DecodeContext
from models.kv_cache import BlockTable, KVCache

_NUM_VECTORS = 5


class StaticBatch:
    """One token each of up to `num_lanes` sequences, whose contexts have up to `num_blocks` blocks."""

    def __init__(self, cache: KVCache, *, num_lanes: int, num_blocks: int) -> None:
        assert cache.scratch_block is not None, "lanes that nobody has need a block"
        self.num_lanes, self.num_blocks = num_lanes, num_blocks
        self._block_size = cache.block_size
        self._scratch_slot = cache.scratch_block * cache.block_size
        device = cache.keys.device
        size = num_lanes * (_NUM_VECTORS + num_blocks)
        self._staged_W = torch.zeros(size, dtype=torch.int64, pin_memory=device.type == "cuda")
        self._inputs_W = self._staged_W if device.type == "cpu" else self._staged_W.to(device)
        self._copied = torch.cuda.Event() if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._staged_VS, self._staged_SB = (part.numpy() for part in self._parts(self._staged_W))
        vectors_VS, blocks_SB = self._parts(self._inputs_W)
        self.ids_S, self.positions_S, slot_mapping_S, lengths_S, self.row_slots_S = vectors_VS
        self.context = DecodeContext(
            kv_cache=cache, slot_mapping_S=slot_mapping_S, blocks_SB=blocks_SB, lengths_S=lengths_S
        )
        # Which blocks are in the tables already: a sequence's list grows by one now and then, and is a new one where
        # it began anew.
        self._held: list[list[int] | None] = [None] * num_lanes
        self._num_held = [0] * num_lanes

    def fill(
        self,
        ids: Sequence[int],
        positions: Sequence[int],
        tables: Sequence[BlockTable],
        row_slots: npt.NDArray[np.integer[Any]] | None = None,
    ) -> None:
        """Take each lane's token, its position, its blocks up to there and the slot of its row; the other lanes rest.

        The device has all of it when it comes to the work queued after this call.
        """
        count = len(ids)
        if self._copied is not None:
            self._copied.synchronize()  # what was staged last has left; nothing is waited for in practice
        ids_S, positions_S, slot_mapping_S, lengths_S, row_slots_S = self._staged_VS
        ids_S[:count], positions_S[:count] = ids, positions
        self._fill_blocks(tables)
        held_S = positions_S[:count]
        blocks_S = self._staged_SB[np.arange(count), held_S // self._block_size]
        slot_mapping_S[:count] = blocks_S * self._block_size + held_S % self._block_size
        lengths_S[:count] = held_S + 1
        row_slots_S[:count] = 0 if row_slots is None else row_slots
        ids_S[count:], positions_S[count:], lengths_S[count:], row_slots_S[count:] = 0, 0, 1, 0
        slot_mapping_S[count:] = self._scratch_slot
        if self._copied is not None:
            self._inputs_W.copy_(self._staged_W, non_blocking=True)
            self._copied.record()

    def _fill_blocks(self, tables: Sequence[BlockTable]) -> None:
        """Write what is new of the lanes' blocks; what stands behind a context's own is read by nobody's result."""
        for lane, table in enumerate(tables):
            blocks, num_held = table.blocks, self._num_held[lane]
            if self._held[lane] is not blocks:
                self._held[lane], num_held = blocks, 0
            if num_held < len(blocks):
                new = blocks[num_held : self.num_blocks]
                self._staged_SB[lane, num_held : num_held + len(new)] = new
                self._num_held[lane] = len(blocks)

    def _parts(self, numbers_W: Tensor) -> tuple[Tensor, Tensor]:
        """Return the vectors [5, S] and the block tables [S, B] that these numbers are."""
        vectors, blocks = numbers_W[: _NUM_VECTORS * self.num_lanes], numbers_W[_NUM_VECTORS * self.num_lanes :]
        return vectors.view(_NUM_VECTORS, self.num_lanes), blocks.view(self.num_lanes, self.num_blocks)
