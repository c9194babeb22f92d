"""What an engine is asked to be; the command line, `LLM` and the engine's process all take their defaults from here.

Knows names, ranges and defaults. What is granted for what was asked is `EngineInfo` (`server/engine/messages.py`).
"""

from pathlib import Path

import msgspec

from models.errors import ConfigError
from paging.policy import DEFAULT_POLICY, PolicyName
from paging.storage.choice import StorageKind
from server.engine.choices import Device, Dtype, Memory

DEVICE_BUDGETS = ("tol_device_bytes", "tol_device_rows", "tol_device_fraction")
"""The options that say how large the device tier is; one of them at most."""


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One engine's options; values out of range are a `ConfigError`."""

    model: str
    """A checkpoint directory or the name of a bundled model."""
    table: str | None = None
    """Another ToL table than the model's own."""
    memory: Memory | None = None
    """Where rows come from; None: paged where the model has a memory."""
    device: Device = Device.AUTO
    """Where the model runs."""
    dtype: Dtype | None = None
    """None: fp32 on the CPU, bf16 on CUDA."""
    threads: int | None = None
    """Of PyTorch on the CPU; None: as many as there are cores for this process."""
    max_model_len: int | None = None
    """Most tokens of a sequence, prompt and output; None: the model's context."""
    max_num_seqs: int = 32
    """Lanes: sequences in one step at most."""
    max_num_batched_tokens: int = 512
    """Tokens in one step at most; longer prompts go through in chunks."""
    kv_cache_bytes: int | None = None
    """For keys and values; None: room for every lane's full context, at most a share of the free memory."""
    block_size: int = 16
    """Positions in a block of keys and values."""
    enable_prefix_caching: bool = True
    """Whether keys and values of finished sequences serve later ones that begin with the same tokens."""
    enforce_eager: bool = False
    """Whether decoding steps run operation by operation on CUDA, where they are captured in graphs otherwise; a CPU
    captures none."""
    max_waiting: int = 1024
    """Requests that may wait; more are turned away."""
    defer_after: float = 0.03
    """Rows on their way are waited for while that takes less than this share of a step, or costs fewer tokens than an
    empty lane; 0 never waits while anything else can run, infinity waits up to a second."""
    tol_device_bytes: int | None = None
    """The device tier's budget; at most one of bytes, rows and fraction. None: the whole table where it fits beside
    weights, keys and values, else what is left."""
    tol_device_rows: int | None = None
    """The same in rows."""
    tol_device_fraction: float | None = None
    """The same as a share of the table's rows."""
    tol_host_bytes: int | None = None
    """The host tier's budget, staging included; None: no host tier on the CPU, what reads in flight need on CUDA."""
    tol_storage: StorageKind | None = None
    """None: the fastest that works with the table's files."""
    tol_policy: PolicyName = DEFAULT_POLICY
    """Which rows leave the device tier for others."""
    tol_alpha: tuple[float, ...] = ()
    """How much of each layer's row is added, from 0 to 2: one number, or one for each layer; none: all of it."""
    tol_drop_layers: tuple[int, ...] = ()
    """A layer whose rows are left out."""
    pack: tuple[str, ...] = ()
    """NAME=DIR: a memory pack to lay over the table; clients choose it as MODEL:NAME."""

    keep_hot_set: bool | None = None
    """Whether the rows that are hot are noted in the user's cache folder, now and then and at the end, and brought back
    in the background at the next start. None: a server does, offline use does not."""

    def __post_init__(self) -> None:
        for name in ("threads", "max_model_len", "max_num_seqs", "max_num_batched_tokens", "kv_cache_bytes"):
            self._check(name, getattr(self, name) is None or getattr(self, name) >= 1, "at least 1")
        self._check("block_size", self.block_size in {8, 16, 32, 64, 128}, "8, 16, 32, 64 or 128")
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ConfigError(
                f"max_num_batched_tokens is {self.max_num_batched_tokens}; it must be at least max_num_seqs, "
                f"{self.max_num_seqs}: each sequence takes a token a step"
            )
        self._check("max_waiting", self.max_waiting >= 1, "at least 1")
        self._check("defer_after", self.defer_after >= 0, "at least 0")
        self._check("tol_device_rows", self.tol_device_rows is None or self.tol_device_rows >= 1, "at least 1")
        for name in ("tol_device_bytes", "tol_host_bytes"):
            self._check(name, getattr(self, name) is None or getattr(self, name) >= 0, "at least 0")
        fraction = self.tol_device_fraction
        self._check("tol_device_fraction", fraction is None or 0 < fraction <= 1, "above 0 and at most 1")
        pack_directories(self.pack)
        given = [name for name in DEVICE_BUDGETS if getattr(self, name) is not None]
        if len(given) > 1:
            raise ConfigError(f"{' and '.join(given)} are given; the device tier has one budget, name it one way")

    def _check(self, name: str, holds: bool, rule: str) -> None:  # noqa: FBT001 a condition is what it is about
        if not holds:
            raise ConfigError(f"{name} is {getattr(self, name)!r}; it must be {rule}")


def pack_directories(named: tuple[str, ...]) -> dict[str, Path]:
    """Return where the packs named as NAME=DIR lie, by name; raises `ConfigError`."""
    found: dict[str, Path] = {}
    for text in named:
        name, _, directory = text.partition("=")
        if not name or not directory:
            raise ConfigError(f"pack is {text!r:.200}; it must be NAME=DIR")
        if name in found:
            raise ConfigError(f"two packs are called {name}; give each a name of its own")
        found[name] = Path(directory)
    return found
