"""From a configuration to an engine that serves: what is asked for becomes what there is memory for.

Knows models, tables, budgets and devices; the parts of an engine are put together here and nowhere else.
"""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from models.bundled import resolve_model
from models.checkpoint import load_model, read_fingerprints
from models.computed_rows import ComputedRows
from models.config import ModelConfig
from models.errors import ConfigError
from models.kv_cache import KVCache
from models.rows import RowSource
from models.table_rows import MappedRows, ResidentRows
from models.transformer import Transformer
from paging import Budget, HotSetError, HotSetKeeper, Pager, Table
from paging.frequencies import COUNTS_FILE, hottest_keys, load_counts
from paging.geometry import aligned_stride
from paging.keys import KeyRange
from paging.lease import Prefetch
from paging.storage import open_storage
from paging.storage.protocol import Storage
from paging.tiers import open_pager
from server.directories import cache_directory
from server.engine.blocks import BlockPool
from server.engine.capacity import free_bytes
from server.engine.choices import Dtype, Memory
from server.engine.config import DEVICE_BUDGETS, EngineConfig, pack_directories
from server.engine.engine import Engine
from server.engine.loaded import Loaded, describe
from server.engine.loading import TORCH_DTYPES, torch_device
from server.engine.messages import StartupPhase
from server.engine.model_tables import PhaseProgress, open_model_table, phase
from server.engine.packs import Packs
from server.engine.row_memory import PagedMemory, RowMemory, WholeMemory
from server.engine.runner import Runner
from server.engine.scheduler import Scheduler
from server.engine.sequence_blocks import SequenceBlocks
from server.engine.step_rows import StepRows

OpenStorage = Callable[[Table, EngineConfig], Storage]
"""Opens what a table's rows are read through."""

_PAGING_OPTIONS = (*DEVICE_BUDGETS, "tol_host_bytes", "tol_storage")
_KV_SHARE = 4
"""Keys and values take one in so many bytes of what is free, where nobody says how much."""
_TABLE_SHARE = 0.8
"""Of what is then left, for the device tier where nobody says how much."""
_CUDA_HEAD_DIM = 8
"""Fast kernels want head dimensions to be multiples of this."""


def open_table_storage(table: Table, config: EngineConfig) -> Storage:
    """Open a table's rows as the configuration says."""
    # With a host tier of our own, pages that the kernel keeps as well are memory that nobody budgeted.
    has_host_tier = bool(config.tol_host_bytes) or torch_device(config.device).type == "cuda"
    return open_storage(table, config.tol_storage, drop_pages=has_host_tier)


@torch.inference_mode()
def start_engine(
    config: EngineConfig,
    on_progress: PhaseProgress | None = None,
    *,
    open_storage: OpenStorage = open_table_storage,
) -> Engine:
    """Load a model and make an engine of it; close it in the end.

    open_storage: what rows are read through; tests put faults in here. Raises what `load` raises, and `ConfigError` or
    `BudgetError` with the number needed where memory is too small for what is asked.
    """
    seconds: dict[StartupPhase, float] = {}
    with ExitStack() as stack:
        start = _load(config, stack, on_progress, open_storage, seconds)
        keeper, seeding = _warm_up(start, stack)
        info, packs = describe(start, seconds), Packs(start.memory, start.pack_base)
        for name, pack_directory in pack_directories(config.pack).items():
            packs.load(name, pack_directory)
        scheduler = Scheduler(
            blocks=SequenceBlocks(BlockPool(start.cache.num_blocks), block_size=config.block_size),
            rows=StepRows(
                start.memory,
                defer_after=config.defer_after,
                most_tokens=config.max_num_batched_tokens - config.max_num_seqs + 1,
            ),
            max_num_seqs=config.max_num_seqs,
            max_num_batched_tokens=config.max_num_batched_tokens,
            max_waiting=config.max_waiting,
        )
        return Engine(
            runner=Runner(start.model, start.cache),
            scheduler=scheduler,
            info=info,
            fingerprint=read_fingerprints(start.directory).backbone,
            shares=start.layer_shares,
            packs=packs,
            shares_prefixes=config.enable_prefix_caching,
            row_bytes=0 if start.table is None else start.table.geometry.row_bytes,
            keeper=keeper,
            seeding=seeding,
            resources=stack.pop_all(),
        )


def _load(
    config: EngineConfig,
    stack: ExitStack,
    on_progress: PhaseProgress | None,
    open_storage: OpenStorage,
    seconds: dict[StartupPhase, float],
) -> Loaded:
    """Load model, cache and memory; what is to be closed goes on the stack, what took how long into `seconds`."""
    place = torch_device(config.device)
    if config.threads is not None or place.type == "cpu":
        torch.set_num_threads(config.threads or len(os.sched_getaffinity(0)))
    directory = resolve_model(config.model)
    model_config = ModelConfig.load(directory)
    kind = _memory_kind(config, model_config, directory)
    max_model_len = _max_model_len(config, model_config)
    dtype = TORCH_DTYPES[config.dtype or (Dtype.BF16 if place.type == "cuda" else Dtype.FP32)]
    table, storage = None, None
    if kind not in {None, Memory.COMPUTED}:
        with _timed(seconds, StartupPhase.TABLE):
            named = None if config.table is None else Path(config.table)
            table = open_model_table(directory, model_config, named, on_progress)
            stack.callback(table.close)
    with _timed(seconds, StartupPhase.WEIGHTS):
        model = load_model(directory, dtype=dtype, device=place, with_memory=kind is Memory.COMPUTED).eval()
    with _timed(seconds, StartupPhase.LAYOUT):
        model.prepare_for_inference()
    with _timed(seconds, StartupPhase.KV_CACHE):
        cache = _make_cache(config, model, max_model_len)
    memory: RowMemory
    with _timed(seconds, StartupPhase.ROWS):
        if table is not None and kind is Memory.PAGED:
            storage = open_storage(table, config)
            stack.callback(storage.close)
            pager = _open_pager(config, storage, table, model)
            stack.callback(pager.close)
            if any(getattr(config, name) is not None for name in DEVICE_BUDGETS):
                pager.populate()  # memory that was asked for and is not there is to be known now
            paged = PagedMemory(pager, dtype=dtype, open_rows=lambda table: open_storage(table, config))
            stack.callback(paged.close)
            memory = paged
        else:
            source = _row_source(kind, model, table, on_progress)
            memory = WholeMemory(source, num_keys=model_config.vocab_size, dtype=dtype, device=place)
    return Loaded(config, directory, kind, model, cache, max_model_len, memory, table, storage)


@contextmanager
def _timed(seconds: dict[StartupPhase, float], what: StartupPhase) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[what] = time.perf_counter() - started


def _memory_kind(config: EngineConfig, model: ModelConfig, directory: Path) -> Memory | None:
    asked = {"memory": config.memory, "table": config.table}
    asked |= {name: getattr(config, name) for name in _PAGING_OPTIONS}
    given = [name for name, value in asked.items() if value is not None]
    if not model.has_memory:
        if given:
            raise ConfigError(f"{directory} is a dense model, it has no memory; leave out {', '.join(given)}")
        return None
    memory = Memory(config.memory or Memory.PAGED)  # a plain string is as good
    if memory is Memory.COMPUTED and config.table is not None:
        raise ConfigError(f"a computed memory reads no table; leave out {config.table}, or choose another memory")
    paging = [name for name in given if name in _PAGING_OPTIONS]
    if memory is not Memory.PAGED and paging:
        raise ConfigError(f"the memory is {memory}, not paged; leave out {', '.join(paging)}, or choose paged")
    return memory


def _max_model_len(config: EngineConfig, model: ModelConfig) -> int:
    longest = model.max_position_embeddings
    if config.max_model_len is not None and config.max_model_len > longest:
        raise ConfigError(f"max_model_len is {config.max_model_len}; the model's context is {longest}")
    return config.max_model_len or longest


def _make_cache(config: EngineConfig, model: Transformer, max_model_len: int) -> KVCache:
    """Make room for keys and values: as asked, else for every lane's full context or what there is memory for."""
    weight = model.head_weight
    multiple = _CUDA_HEAD_DIM if weight.is_cuda else 1
    block_bytes = KVCache.block_bytes(
        model.config, block_size=config.block_size, head_dim_multiple=multiple, dtype=weight.dtype
    )
    per_sequence = -(-max_model_len // config.block_size)
    if config.kv_cache_bytes is not None:
        num_blocks = config.kv_cache_bytes // block_bytes
    else:
        free = max(0, free_bytes(weight.device) - model.mapped_bytes) // _KV_SHARE
        num_blocks = min(config.max_num_seqs * per_sequence, max(free // block_bytes, per_sequence))
    if num_blocks < per_sequence:
        raise ConfigError(
            f"kv_cache_bytes buys {num_blocks} blocks; one sequence of {max_model_len} tokens needs {per_sequence}, "
            f"which is {per_sequence * block_bytes} bytes: raise it or lower max_model_len"
        )
    return KVCache(
        model.config,
        num_blocks=num_blocks,
        block_size=config.block_size,
        head_dim_multiple=multiple,
        dtype=weight.dtype,
        device=weight.device,
    )


def _row_source(
    kind: Memory | None, model: Transformer, table: Table | None, on_progress: PhaseProgress | None
) -> RowSource | None:
    """Return where rows come from that are not paged; None for a dense model."""
    dtype, device = model.head_weight.dtype, model.head_weight.device
    if kind is None:
        return None
    if table is None:
        return ComputedRows(model)
    if kind is Memory.RESIDENT:
        reading = phase(on_progress, "reading the table")
        return ResidentRows(table, dtype=dtype, device=device, on_progress=reading)
    return MappedRows(table, dtype=dtype, device=device)


def _open_pager(config: EngineConfig, storage: Storage, table: Table, model: Transformer) -> Pager:
    return open_pager(
        storage,
        table.geometry,
        bases=table.bases,
        device_budget=_device_budget(config, model, table),
        host_budget=None if config.tol_host_bytes is None else Budget(num_bytes=config.tol_host_bytes),
        device=model.head_weight.device,
        policy=config.tol_policy,
        max_num_seqs=config.max_num_seqs,
    )


def _device_budget(config: EngineConfig, model: Transformer, table: Table) -> Budget:
    if config.tol_device_bytes is not None:
        return Budget(num_bytes=config.tol_device_bytes)
    if config.tol_device_rows is not None:
        return Budget(num_rows=config.tol_device_rows)
    if config.tol_device_fraction is not None:
        return Budget(fraction=config.tol_device_fraction)
    left = int(_TABLE_SHARE * max(0, free_bytes(model.head_weight.device) - model.mapped_bytes))
    stride = aligned_stride(table.geometry.row_bytes)
    return Budget(num_rows=min(table.num_rows, max(left // stride, config.max_num_seqs + 1)))


def _warm_up(start: Loaded, stack: ExitStack) -> tuple[HotSetKeeper | None, Prefetch | None]:
    """Start bringing rows that were hot last time, or that the counts kept with the model say will be."""
    pager, table = start.pager, start.table
    if pager is None or table is None:
        return None, None
    keeper, seeding = None, None
    if start.config.keep_hot_set:
        path = cache_directory() / "hot-sets" / f"{table.manifest.table_id}.safetensors"
        with contextlib.suppress(OSError):  # where the folder cannot be made, the keeper says so
            path.parent.mkdir(parents=True, exist_ok=True)
        keys = KeyRange(0, table.num_rows)
        keeper = HotSetKeeper(pager, keys, path, fingerprint=table.manifest.fingerprint, on_error=_warn)
        stack.callback(keeper.close)
        try:
            seeding = keeper.restore()
        except HotSetError as error:
            _warn(error)
    counts = start.directory / COUNTS_FILE
    if seeding is None and counts.exists():
        counts_V = load_counts(counts, num_keys=table.num_rows)
        hottest = hottest_keys(counts_V, len(counts_V))
        seeding = pager.seed(hottest, counts_V[hottest])
    return keeper, seeding


def _warn(error: Exception) -> None:
    sys.stderr.write(f"warning: {error}\n")
