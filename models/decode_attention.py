"""Attention of one new token each of many sequences, in one call: what a GPU decodes with.

Knows block tables and lengths as tensors, whose shapes alone say what is run: a captured step reads others' contexts
through the same tensors. `models/attention.py` is for chunks of any lengths.

Shape legend: S sequences, H query heads, G key/value heads, R query heads for each of those, D head dimension, D' as
stored, B blocks of a sequence, P positions per block, C positions of B blocks.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from models.kv_cache import KVCache

AttendBlocks: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""The arguments and the result of `attend_blocks`."""


@dataclass(frozen=True, kw_only=True)
class DecodeContext:
    """One new token of each of some sequences; an `AttentionContext`."""

    kv_cache: KVCache
    """Where keys and values go, and where the earlier ones are."""
    slot_mapping_S: Tensor
    """The slot that each new token's keys and values go to, int64; where two are the same, either may be kept."""
    blocks_SB: Tensor
    """Each sequence's blocks, int64; what stands behind those that its context needs is read by nobody's result."""
    lengths_S: Tensor
    """Positions of each sequence, the new one included; int64."""

    def attend(self, layer: int, q_SHD: Tensor, k_SGD: Tensor, v_SGD: Tensor) -> Tensor:
        """Store the new keys and values, then attend to the whole contexts, [S, H, D]."""
        self.kv_cache.write(layer, self.slot_mapping_S, k_SGD, v_SGD)
        return self.read(layer, q_SHD)

    def read(self, layer: int, q_SHD: Tensor) -> Tensor:
        """Attend to what is stored, [S, H, D]."""
        attend = _fused() if q_SHD.is_cuda else attend_blocks
        keys_GNPD, values_GNPD = self.kv_cache.keys[layer], self.kv_cache.values[layer]
        return attend(q_SHD, keys_GNPD, values_GNPD, self.blocks_SB, self.lengths_S)


def attend_blocks(
    q_SHD: Tensor, keys_GNPD: Tensor, values_GNPD: Tensor, blocks_SB: Tensor, lengths_S: Tensor
) -> Tensor:
    """Return attention over the blocks' first `lengths_S` positions, [S, H, D], by plain operations: the reference."""
    head_dim, stored_dim = q_SHD.shape[-1], keys_GNPD.shape[-1]
    k_SGCD, v_SGCD = (
        store[:, blocks_SB].transpose(0, 1).flatten(2, 3).to(q_SHD.dtype) for store in (keys_GNPD, values_GNPD)
    )
    is_held_SC = torch.arange(k_SGCD.shape[2], device=q_SHD.device) < lengths_S[:, None]
    # A weight of 0 does not silence what another sequence left there, if that is not finite: 0 * NaN is NaN.
    for read_SGCD in (k_SGCD, v_SGCD):
        read_SGCD.masked_fill_(~is_held_SC[:, None, :, None], 0)
    out_SH1D = F.scaled_dot_product_attention(
        F.pad(q_SHD, (0, stored_dim - head_dim)).unsqueeze(2),
        k_SGCD,
        v_SGCD,
        attn_mask=is_held_SC[:, None, None],
        scale=head_dim**-0.5,
        enable_gqa=q_SHD.shape[1] != k_SGCD.shape[1],
    )
    return out_SH1D.squeeze(2)[..., :head_dim]


def reads_all_blocks(device: torch.device) -> bool:
    """Whether attention on this device reads all blocks that it is given, not only those that contexts need."""
    return device.type != "cuda" or _fused() is attend_blocks


@cache
def _fused() -> AttendBlocks:
    """Return the kernel for GPUs; the plain operations where Triton is not installed."""
    with suppress(ImportError):
        from models.fused_attention import fused_attend_blocks  # noqa: PLC0415 needed with a GPU only, and slow to load

        return fused_attend_blocks
    return attend_blocks
