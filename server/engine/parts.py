"""The parts of an engine, loaded: model, cache and memory, as far as possible beside one another.

Knows models, tables, budgets and devices. Knows nothing of what an engine does with its parts.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from models.bundled import resolve_model
from models.checkpoint import load_model
from models.computed_rows import ComputedRows
from models.config import ModelConfig
from models.errors import ConfigError
from models.kv_cache import KVCache
from models.rows import RowSource
from models.table_rows import MappedRows, ResidentRows
from models.transformer import Transformer
from paging import Budget, Pager, Table
from paging.storage import open_storage
from paging.storage.protocol import Storage
from paging.tiers import open_pager
from server.engine.beside import Beside, OnProgress
from server.engine.capacity import free_bytes
from server.engine.choices import Dtype, Memory
from server.engine.config import DEVICE_BUDGETS, EngineConfig
from server.engine.loaded import Loaded
from server.engine.loading import TORCH_DTYPES, torch_device
from server.engine.messages import StartupPhase
from server.engine.model_tables import PhaseProgress, open_model_table, phase
from server.engine.room import asked_device_budget, free_device_budget, kept_back, make_cache, max_model_len
from server.engine.row_memory import PagedMemory, RowMemory, WholeMemory

OpenStorage = Callable[[Table, EngineConfig], Storage]
"""Opens what a table's rows are read through."""

_PAGING_OPTIONS = (*DEVICE_BUDGETS, "tol_host_bytes", "tol_storage")


def open_table_storage(table: Table, config: EngineConfig) -> Storage:
    """Open a table's rows as the configuration says."""
    # With a host tier of our own, pages that the kernel keeps as well are memory that nobody budgeted.
    has_host_tier = bool(config.tol_host_bytes) or torch_device(config.device).type == "cuda"
    return open_storage(table, config.tol_storage, drop_pages=has_host_tier)


class Loading:
    """The parts of an engine on their way: what was decided, what is there, and what is being read beside it.

    `seconds` gets what took how long. What is to be closed goes on the stack.
    """

    def __init__(
        self,
        config: EngineConfig,
        stack: ExitStack,
        seconds: dict[StartupPhase, float],
        *,
        on_progress: PhaseProgress | None,
        open_storage: OpenStorage,
    ) -> None:
        """Decide what is loaded."""
        self._config, self._stack, self._seconds = config, stack, seconds
        self._on_progress, self._open_storage = on_progress, open_storage
        self._device = torch_device(config.device)
        if config.threads is not None or self._device.type == "cpu":
            torch.set_num_threads(config.threads or len(os.sched_getaffinity(0)))
        self._directory = resolve_model(config.model)
        self._model_config = ModelConfig.load(self._directory)
        self._kind = _memory_kind(config, self._model_config, self._directory)
        self._max_model_len = max_model_len(config, self._model_config)
        self._dtype = TORCH_DTYPES[config.dtype or (Dtype.BF16 if self._device.type == "cuda" else Dtype.FP32)]
        self._table: Table | None = None
        self._storage: Storage | None = None
        self._cache: KVCache | None = None
        self._pager: Pager | None = None
        self._payload: Beside[Tensor] | None = None

    def run(self, weights: Beside[None] | None) -> Loaded:
        """Load everything; what takes no interpreter to be done is done beside the weights' loading."""
        if self._kind not in {None, Memory.COMPUTED}:
            with self._timed(StartupPhase.TABLE):
                self._open_table()
        populating = Beside("take-memory", partial(_take_all, self._take_what_was_asked_for()))
        self._stack.callback(populating.stop)
        with self._timed(StartupPhase.WEIGHTS):
            if weights is not None:
                weights.result(phase(self._on_progress, "reading the weights"))
            with_memory = self._kind is Memory.COMPUTED
            model = load_model(self._directory, dtype=self._dtype, device=self._device, with_memory=with_memory).eval()
        with self._timed(StartupPhase.LAYOUT):
            if self._on_progress is not None:
                self._on_progress("laying the matrices out", 0, 1)
            model.prepare_for_inference()
        with self._timed(StartupPhase.ROWS):
            populating.result()
        for_steps = kept_back(self._config, self._model_config, dtype=self._dtype, device=self._device)
        free = free_bytes(self._device) - model.mapped_bytes - for_steps
        if self._cache is None:
            self._cache = self._make_cache(free)
            free -= self._cache.num_bytes
        with self._timed(StartupPhase.ROWS):
            memory = self._memory(model, free)
        return Loaded(
            self._config,
            self._directory,
            self._kind,
            model,
            self._cache,
            self._max_model_len,
            memory,
            self._table,
            self._storage,
        )

    def _open_table(self) -> None:
        """Open the table; where all of it is to be in memory, begin to read it."""
        named = None if self._config.table is None else Path(self._config.table)
        self._table = open_model_table(self._directory, self._model_config, named, self._on_progress)
        self._stack.callback(self._table.close)
        if self._kind is Memory.PAGED:
            self._storage = self._open_storage(self._table, self._config)
            self._stack.callback(self._storage.close)
        elif self._kind is Memory.RESIDENT:
            self._payload = Beside("read-table", self._table.read_all)
            self._stack.callback(self._payload.stop)

    def _take_what_was_asked_for(self) -> list[Callable[[], None]]:
        """Make room that has a size already, and return what has to be called for its memory to be there."""
        taking: list[Callable[[], None]] = []
        if self._config.kv_cache_bytes is not None:
            self._cache = self._make_cache(free=0)
            taking.append(self._cache.populate)
        budget = asked_device_budget(self._config)
        if self._table is not None and self._storage is not None and budget is not None:
            with self._timed(StartupPhase.ROWS):
                self._pager = self._open_pager(self._table, self._storage, budget)
            taking.append(self._pager.populate)
        return taking

    def _make_cache(self, free: int) -> KVCache:
        with self._timed(StartupPhase.KV_CACHE):
            return make_cache(self._config, self._model_config, dtype=self._dtype, device=self._device, free=free)

    def _memory(self, model: Transformer, free: int) -> RowMemory:
        """Return where rows come from, in `free` bytes where nobody said how many they may take."""
        table, config = self._table, self._config
        if table is not None and self._storage is not None:
            if self._pager is None:
                budget = free_device_budget(config, table, free=free)
                self._pager = self._open_pager(table, self._storage, budget)
            paged = PagedMemory(self._pager, dtype=self._dtype, open_rows=self._open_rows)
            self._stack.callback(paged.close)
            return paged
        source = self._row_source(model)
        return WholeMemory(source, num_keys=self._model_config.vocab_size, dtype=self._dtype, device=self._device)

    def _row_source(self, model: Transformer) -> RowSource | None:
        """Return where rows come from that are not paged; None for a dense model."""
        if self._table is not None and self._payload is not None:
            read = self._payload.result(phase(self._on_progress, "reading the table"))
            return ResidentRows(self._table, dtype=self._dtype, device=self._device, payload_VR=read)
        if self._table is not None:
            return MappedRows(self._table, dtype=self._dtype, device=self._device)
        return ComputedRows(model) if self._kind is Memory.COMPUTED else None

    def _open_rows(self, table: Table) -> Storage:
        return self._open_storage(table, self._config)

    def _open_pager(self, table: Table, storage: Storage, budget: Budget) -> Pager:
        config = self._config
        pager = open_pager(
            storage,
            table.geometry,
            bases=table.bases,
            device_budget=budget,
            host_budget=None if config.tol_host_bytes is None else Budget(num_bytes=config.tol_host_bytes),
            device=self._device,
            policy=config.tol_policy,
            max_num_seqs=config.max_num_seqs,
        )
        self._stack.callback(pager.close)
        return pager

    @contextmanager
    def _timed(self, what: StartupPhase) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self._seconds[what] = self._seconds.get(what, 0) + time.perf_counter() - started


def _take_all(taking: Sequence[Callable[[], None]], _on_progress: OnProgress) -> None:
    for take in taking:
        take()


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
