"""From a checkpoint directory to a model that is ready to run: weights, tokenizer, and a source for its rows.

Knows nothing of what a table or a checkpoint is made of.
"""

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from tokenizers import Tokenizer

from models.checkpoint import load_model
from models.computed_rows import ComputedRows
from models.config import ModelConfig
from models.errors import CheckpointError, ConfigError
from models.overlaid_rows import PackView
from models.packs import Pack, PackBase
from models.paged_rows import PagedRows
from models.rows import RowSource
from models.table_rows import MappedRows, ResidentRows
from models.tokenizer import TOKENIZER_FILE, load_tokenizer
from models.transformer import Transformer
from paging import Table
from paging.budget import Budget
from paging.frequencies import COUNTS_FILE, hottest_keys, load_counts
from paging.pager import Pager
from paging.storage import open_storage
from paging.tiers import open_pager
from server.engine.choices import Device, Dtype, Memory
from server.engine.model_tables import PhaseProgress, open_model_table, phase

TORCH_DTYPES = {Dtype.FP32: torch.float32, Dtype.BF16: torch.bfloat16, Dtype.FP16: torch.float16}

_DEVICE_SHARE = 0.1
"""The device rows of a paged memory whose budget nobody named, as a share of the table's."""


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model and what it needs to run; closing it closes its pager and its table."""

    model: Transformer
    """The backbone; with its memory's FFNs only where rows are computed."""
    rows: RowSource | None
    """The memory, None for a dense model; its values come in the model's dtype."""
    tokenizer: Tokenizer | None
    """None where the checkpoint has none."""
    table: Table | None
    """The open table behind `rows`, where there is one."""
    memory: Memory | None
    """Where rows come from; None for a dense model."""
    directory: Path
    """The checkpoint's."""
    resources: ExitStack = field(default_factory=ExitStack, repr=False)
    """What is to be closed with it."""

    def require_tokenizer(self) -> Tokenizer:
        """Return the tokenizer, or raise `CheckpointError`."""
        if self.tokenizer is None:
            raise CheckpointError(f"the model has no {TOKENIZER_FILE}; put one into its directory to use it with text")
        return self.tokenizer

    def rows_under(self, pack: Path) -> RowSource:
        """Return the memory with a pack laid over it; `PackError` for a pack of another model or table."""
        config, weight = self.model.config, self.model.head_weight
        base = PackBase.of(self.directory, config, self.table)
        assert self.rows is not None, "a model with a memory has rows"
        with Pack.open(pack) as opened:
            base.check(opened)
            return PackView(self.rows, opened, dtype=weight.dtype, device=weight.device)

    def close(self) -> None:
        """Close pager, storage and table; the model cannot be run afterwards where its memory is mapped or paged."""
        self.resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def load(
    directory: Path,
    *,
    memory: Memory | None = None,
    device_rows: int | None = None,
    least_device_rows: int = 2,
    table: Path | None = None,
    dtype: Dtype | None = None,
    device: Device = Device.AUTO,
    on_progress: PhaseProgress | None = None,
) -> LoadedModel:
    """Load the checkpoint `directory`; use the result as a context manager.

    memory: None takes `mapped` where the kind has a memory. With a table the memory's tensors are never read.
    device_rows: rows that a paged memory holds at once. None takes a tenth of the table, but `least_device_rows`, for
        batches that need so many, where that is more.
    table: another than the model's own, which is `directory/table` or the one in the user's cache. A bundled model's
        is put there when it is first needed.
    dtype: None takes fp32 on the CPU and bf16 on CUDA.

    A paged memory begins with the rows of the highest counts in `directory/token_counts.safetensors`, where there is
    such a file.

    Raises `CheckpointError`, `ConfigError` for choices that do not fit, `TableError` for a table that does not,
    `BudgetError` for too few device rows, `FrequencyError` for broken counts.
    """
    config = ModelConfig.load(directory)
    memory = _chosen_memory(config, directory, memory, table)
    if device_rows is not None and memory is not Memory.PAGED:
        raise ConfigError(f"device_rows is {device_rows}, but the memory is not paged; choose paged, or leave them out")
    place = torch_device(device)
    if dtype is None:
        dtype = Dtype.BF16 if place.type == "cuda" else Dtype.FP32
    tokenizer_file = directory / TOKENIZER_FILE
    tokenizer = load_tokenizer(tokenizer_file) if tokenizer_file.exists() else None
    opened = None
    with ExitStack() as stack:
        if memory in {Memory.RESIDENT, Memory.MAPPED, Memory.PAGED}:
            opened = open_model_table(directory, config, table, on_progress)
            stack.callback(opened.close)
        model = load_model(directory, dtype=TORCH_DTYPES[dtype], device=place, with_memory=opened is None)
        model.prepare_for_inference()
        rows: RowSource | None = None
        if opened is not None and memory is Memory.RESIDENT:
            reading = phase(on_progress, "reading the table")
            rows = ResidentRows(opened, dtype=TORCH_DTYPES[dtype], device=place, on_progress=reading)
        elif opened is not None and memory is Memory.PAGED:
            if device_rows is None:
                device_rows = max(round(_DEVICE_SHARE * opened.num_rows), least_device_rows)
            pager = _open_pager(opened, stack, num_slots=device_rows, counts_file=directory / COUNTS_FILE, device=place)
            rows = stack.enter_context(PagedRows(pager, dtype=TORCH_DTYPES[dtype]))
        elif opened is not None:
            rows = MappedRows(opened, dtype=TORCH_DTYPES[dtype], device=place)
        elif memory is Memory.COMPUTED:
            rows = ComputedRows(model)
        return LoadedModel(
            model=model,
            rows=rows,
            tokenizer=tokenizer,
            table=opened,
            memory=memory,
            directory=directory,
            resources=stack.pop_all(),
        )


def torch_device(device: Device) -> torch.device:
    """Return the device that was chosen; `ConfigError` for CUDA where there is none."""
    available = torch.cuda.is_available()
    if device == Device.CUDA and not available:  # a plain string is as good
        raise ConfigError("device is cuda, but PyTorch finds no CUDA device here; use cpu")
    return torch.device("cpu" if device == Device.CPU or not available else "cuda")


def _chosen_memory(config: ModelConfig, directory: Path, memory: Memory | None, table: Path | None) -> Memory | None:
    if not config.has_memory:
        if memory is not None or table is not None:
            raise ConfigError(f"{directory} is a dense model; it takes neither a memory nor a table")
        return None
    if memory is Memory.COMPUTED and table is not None:
        raise ConfigError(f"a computed memory reads no table; leave out {table}, or choose another memory")
    return memory or Memory.MAPPED


def _open_pager(table: Table, stack: ExitStack, *, num_slots: int, counts_file: Path, device: torch.device) -> Pager:
    """Put a pager over a table, seeded with counts where there are any; what has to be closed goes on the stack."""
    storage = open_storage(table)
    stack.callback(storage.close)
    pager = open_pager(
        storage, table.geometry, bases=table.bases, device_budget=Budget(num_rows=num_slots), device=device
    )
    stack.callback(pager.close)
    if counts_file.exists():
        counts_V = load_counts(counts_file, num_keys=table.num_rows)
        keys = hottest_keys(counts_V, len(counts_V))
        pager.seed(keys, counts_V[keys])
    return pager
