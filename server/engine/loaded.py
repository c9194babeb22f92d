"""What was loaded for an engine, and what is said of it: what was asked for, and what was granted.

Knows the parts, and words for them. Loads nothing: that is `server/engine/starting.py`'s.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from models.kv_cache import KVCache
from models.packs import PackBase
from models.table_rows import ResidentRows
from models.transformer import Transformer
from paging import Pager, Table
from paging.storage.protocol import Storage
from server.engine.choices import Memory
from server.engine.config import DEVICE_BUDGETS, EngineConfig
from server.engine.memory_options import LayerShares
from server.engine.messages import DeviceUse, EngineInfo, StartupPhase
from server.engine.row_memory import PagedMemory, RowMemory, WholeMemory
from server.units import num_bytes_text


@dataclass(frozen=True)
class Loaded:
    """What is there once everything is loaded."""

    config: EngineConfig
    directory: Path
    kind: Memory | None
    model: Transformer
    cache: KVCache
    max_model_len: int
    memory: RowMemory
    table: Table | None
    storage: Storage | None
    """Behind a paged memory."""

    @property
    def pager(self) -> Pager | None:
        """The pager of a paged memory."""
        return self.memory.pager if isinstance(self.memory, PagedMemory) else None

    @property
    def pack_base(self) -> PackBase | None:
        """What packs can be laid over; None for a dense model."""
        return PackBase.of(self.directory, self.model.config, self.table) if self.model.config.has_memory else None

    @property
    def layer_shares(self) -> LayerShares:
        """How much of each layer's row requests get."""
        model = self.model.config
        num_layers = model.num_hidden_layers if model.has_memory else 0
        return LayerShares(num_layers, alpha=self.config.tol_alpha, drop_layers=self.config.tol_drop_layers)


def describe(start: Loaded, seconds: Mapping[StartupPhase, float], *, captured_steps: str | None = None) -> EngineInfo:
    """Return what an engine turned out to be.

    seconds: those of each phase of loading. captured_steps: what was asked of them and granted, where there is
    something to say.
    """
    config, model, cache, weight = start.config, start.model, start.cache, start.model.head_weight
    return EngineInfo(
        max_model_len=start.max_model_len,
        vocab_size=model.config.vocab_size,
        eos_token_id=model.config.eos_token_id,
        bos_token_id=model.config.bos_token_id,
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens,
        kv_blocks=cache.num_blocks,
        block_size=cache.block_size,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        device=torch.cuda.get_device_name(weight.device) if weight.is_cuda else "cpu",
        dtype=str(weight.dtype).removeprefix("torch."),
        granted=_granted(start) | ({"captured steps": captured_steps} if captured_steps else {}),
        table=_table_facts(start),
        device_memory=_device_memory(start),
        startup_seconds=seconds,
    )


def _device_memory(start: Loaded) -> dict[DeviceUse, int]:
    """Return the bytes set aside on the device; rows that are mapped or computed take none beside the weights."""
    rows = 0
    if start.pager is not None:
        rows = start.pager.stats().device_bytes
    elif isinstance(start.memory, WholeMemory) and isinstance(start.memory.source, ResidentRows):
        rows = start.memory.source.payload_VR.nbytes
    return {
        DeviceUse.WEIGHTS: start.model.nbytes,
        DeviceUse.KV_CACHE: start.cache.num_bytes,
        DeviceUse.TOL_CACHE: rows,
    }


def _granted(start: Loaded) -> dict[str, str]:
    """Say what was asked and what was granted, for a person."""
    config, cache, pager, table = start.config, start.cache, start.pager, start.table
    granted = {
        "sequences": f"{config.max_num_seqs} at once, {config.max_num_batched_tokens} tokens a step",
        "context": f"{start.max_model_len} tokens of the model's {start.model.config.max_position_embeddings}",
        "keys and values": (
            f"{cache.num_blocks} blocks of {cache.block_size} positions, {num_bytes_text(cache.num_bytes)}; "
            f"asked for: {_asked(config.kv_cache_bytes)}"
        ),
    }
    if config.tol_alpha:
        granted["alpha"] = ", ".join(f"{share:g}" for share in config.tol_alpha)
    if config.tol_drop_layers:
        granted["layers left out"] = ", ".join(map(str, config.tol_drop_layers))
    if config.pack:
        granted["packs"] = ", ".join(config.pack)
    if pager is None or table is None or start.storage is None:
        granted["memory"] = "none, a dense model" if start.kind is None else str(start.kind)
        return granted
    stats = pager.stats()
    given = [f"{name} {getattr(config, name)}" for name in DEVICE_BUDGETS if getattr(config, name) is not None]
    return granted | {
        "device tier": (
            f"{stats.device_slots:,} of {table.num_rows:,} rows, {num_bytes_text(stats.device_bytes)}; "
            f"asked for: {given[0] if given else 'as many as there is memory for'}"
        ),
        "host tier": (
            f"{stats.host_slots:,} rows, {num_bytes_text(stats.host_bytes)}; asked for: {_asked(config.tol_host_bytes)}"
        ),
        "storage": f"{start.storage.description}; asked for: {config.tol_storage or 'nothing'}",
        "policy": str(config.tol_policy),
    }


def _table_facts(start: Loaded) -> dict[str, str | int]:
    table = start.table
    if table is None:
        return {}
    geometry = table.geometry
    return {
        "encoding": geometry.label,
        "layers": len(geometry.segments),
        "vocab_size": table.num_rows,
        "row_bytes": geometry.row_bytes,
        "table_bytes": table.num_rows * geometry.row_stride,
        "storage": "none" if start.storage is None else start.storage.description,
        "policy": str(start.config.tol_policy),
    }


def _asked(num_bytes: int | None) -> str:
    return "nothing" if num_bytes is None else num_bytes_text(num_bytes)
