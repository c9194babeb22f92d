"""From a configuration to an engine that serves: what is asked for becomes what there is memory for.

Knows models, tables, budgets and devices; the parts of an engine are put together here and nowhere else.
"""

import contextlib
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack

import torch

from models.checkpoint import read_fingerprints
from paging import HotSetError, HotSetKeeper
from paging.frequencies import COUNTS_FILE, hottest_keys, load_counts
from paging.keys import KeyRange
from paging.lease import Prefetch
from server.directories import cache_directory
from server.engine.beside import Beside
from server.engine.blocks import BlockPool
from server.engine.capturing import captured_steps
from server.engine.config import EngineConfig, pack_directories
from server.engine.engine import Engine
from server.engine.loaded import Loaded, describe
from server.engine.messages import StartupPhase
from server.engine.model_tables import PhaseProgress, phase
from server.engine.packs import Packs
from server.engine.parts import Loading, OpenStorage, open_table_storage
from server.engine.runner import Runner
from server.engine.scheduler import Scheduler
from server.engine.sequence_blocks import SequenceBlocks
from server.engine.step_rows import StepRows


@torch.inference_mode()
def start_engine(
    config: EngineConfig,
    on_progress: PhaseProgress | None = None,
    *,
    open_storage: OpenStorage = open_table_storage,
    weights: Beside[None] | None = None,
    seconds_before: Mapping[StartupPhase, float] | None = None,
) -> Engine:
    """Load a model and make an engine of it; close it in the end.

    open_storage: what rows are read through; tests put faults in here. weights: reads the weights ahead, where that has
    begun (`server/engine/reading.py`). seconds_before: those of phases that were over before this call.

    Memory for keys, values and rows that was asked for by its size is taken now, beside the weights' loading, so that
    too little of it is known now; the rest is taken as it is used. Raises what `load` raises, and `ConfigError` or
    `BudgetError` with the number needed where memory is too small for what is asked.
    """
    seconds = dict(seconds_before or {})
    with ExitStack() as stack:
        loading = Loading(config, stack, seconds, on_progress=on_progress, open_storage=open_storage)
        start = loading.run(weights)
        keeper, seeding = _warm_up(start, stack)
        packs = Packs(start.memory, start.pack_base)
        for name, pack_directory in pack_directories(config.pack).items():
            packs.load(name, pack_directory)
        began = time.perf_counter()
        captured = captured_steps(start, phase(on_progress, "capturing decoding steps"))
        if captured.graphs is not None:
            seconds[StartupPhase.CAPTURE] = time.perf_counter() - began
        scheduler = Scheduler(
            blocks=SequenceBlocks(
                BlockPool(start.cache.num_blocks), block_size=config.block_size, max_model_len=start.max_model_len
            ),
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
            runner=Runner(start.model, start.cache, captured.graphs),
            scheduler=scheduler,
            info=describe(start, seconds, captured_steps=captured.granted),
            fingerprint=read_fingerprints(start.directory).backbone,
            shares=start.layer_shares,
            packs=packs,
            shares_prefixes=config.enable_prefix_caching,
            row_bytes=0 if start.table is None else start.table.geometry.row_bytes,
            keeper=keeper,
            seeding=seeding,
            resources=stack.pop_all(),
        )


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
