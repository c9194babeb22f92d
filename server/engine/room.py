"""How much memory keys, values and rows get: what was asked for, else a share of what is free.

Knows sizes and shares. Allocates nothing but the keys' and values' blocks.
"""

import torch

from models.config import ModelConfig
from models.errors import ConfigError
from models.kv_cache import KVCache
from models.varlen_attention import MOST_GATHERED
from paging import Budget, Table
from paging.geometry import aligned_stride
from server.engine.config import DEVICE_BUDGETS, EngineConfig

_KV_SHARE = 4
"""Keys and values take one in so many bytes of what is free, where nobody says how much."""
_TABLE_SHARE = 0.8
"""Of what is then left, for the device tier where nobody says how much."""
_CUDA_HEAD_DIM = 8
"""Fast kernels want head dimensions to be multiples of this."""
_BESIDE_STEPS = 512 * 2**20
"""Of a GPU, for libraries' workspaces and kernels and for captured steps. Estimated from above, not measured."""
_HIDDEN_AT_ONCE = 12
"""Tensors as wide as the hidden state that there are at a time, from above."""
_FFN_AT_ONCE = 3
"""The same inside of an FFN."""
_SCORES_AT_ONCE = 4
"""The same of float32 scores."""


def max_model_len(config: EngineConfig, model: ModelConfig) -> int:
    """Return the most tokens of a sequence; `ConfigError` for more than the model's context."""
    longest = model.max_position_embeddings
    if config.max_model_len is not None and config.max_model_len > longest:
        raise ConfigError(f"max_model_len is {config.max_model_len}; the model's context is {longest}")
    return config.max_model_len or longest


def kept_back(config: EngineConfig, model: ModelConfig, *, dtype: torch.dtype, device: torch.device) -> int:
    """Return the bytes of a GPU that stay free for what steps compute in, captured ones included; 0 on a CPU.

    Only shares of what is free leave them: sizes that somebody asked for are taken as they are.
    """
    if device.type != "cuda":
        return 0
    widths = _HIDDEN_AT_ONCE * model.hidden_size + _FFN_AT_ONCE * model.intermediate_size
    scores = _SCORES_AT_ONCE * config.max_num_seqs * model.vocab_size * torch.float32.itemsize
    gathered = 2 * MOST_GATHERED * model.num_key_value_heads * model.head_dim
    return _BESIDE_STEPS + (config.max_num_batched_tokens * widths + gathered) * dtype.itemsize + scores


def make_cache(
    config: EngineConfig, model: ModelConfig, *, dtype: torch.dtype, device: torch.device, free: int
) -> KVCache:
    """Make room for keys and values: as asked, else for every lane's full context or a share of `free` bytes."""
    multiple = _CUDA_HEAD_DIM if device.type == "cuda" else 1
    if device.type == "cpu":  # where attention over 16 bits takes twice the time of 32
        dtype = torch.promote_types(dtype, torch.float32)
    block_bytes = KVCache.block_bytes(model, block_size=config.block_size, head_dim_multiple=multiple, dtype=dtype)
    longest = max_model_len(config, model)
    per_sequence = -(-longest // config.block_size)
    has_scratch = device.type == "cuda"  # for the lanes that nobody has in a captured step
    if config.kv_cache_bytes is not None:
        num_blocks = config.kv_cache_bytes // block_bytes - has_scratch
    else:
        affordable = max(0, free) // _KV_SHARE // block_bytes
        num_blocks = min(config.max_num_seqs * per_sequence, max(affordable, per_sequence))
    if num_blocks < per_sequence:
        raise ConfigError(
            f"kv_cache_bytes buys {num_blocks} blocks; one sequence of {longest} tokens needs {per_sequence}, "
            f"which is {per_sequence * block_bytes} bytes: raise it or lower max_model_len"
        )
    return KVCache(
        model,
        num_blocks=num_blocks,
        block_size=config.block_size,
        head_dim_multiple=multiple,
        has_scratch=has_scratch,
        dtype=dtype,
        device=device,
    )


def asked_device_budget(config: EngineConfig) -> Budget | None:
    """Return the device tier's budget where somebody named one."""
    if config.tol_device_bytes is not None:
        return Budget(num_bytes=config.tol_device_bytes)
    if config.tol_device_rows is not None:
        return Budget(num_rows=config.tol_device_rows)
    if config.tol_device_fraction is not None:
        return Budget(fraction=config.tol_device_fraction)
    assert all(getattr(config, name) is None for name in DEVICE_BUDGETS), "every way to name it is looked at"
    return None


def free_device_budget(config: EngineConfig, table: Table, *, free: int) -> Budget:
    """Return the device tier's budget where nobody named one: the whole table, or a share of `free` bytes."""
    stride = aligned_stride(table.geometry.row_bytes)
    affordable = int(_TABLE_SHARE * max(0, free)) // stride
    return Budget(num_rows=min(table.num_rows, max(affordable, config.max_num_seqs + 1)))
