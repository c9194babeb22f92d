"""The time that a step cannot go below: what it must read, over what the device reads; what it must multiply.

Knows the arithmetic of a model's sizes and two small measurements of the device. Knows nothing of how a step is done.
"""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from server.engine.engine import Engine

_READ_VALUES = 2**27
_PRODUCT_SIZE = 2048
_REPETITIONS = 7


@dataclass(frozen=True, kw_only=True)
class StepFloor:
    """What one decoding step cannot do without."""

    weights: float
    """Bytes of the layers' matrices, read once however many streams there are."""
    head: float
    """Bytes of the head."""
    keys_and_values: float
    """Bytes of all streams' contexts."""
    rows: float
    """Bytes of the streams' rows, as they are stored."""
    operations: float
    """Additions and multiplications of matrix products, attention apart."""

    @property
    def num_bytes(self) -> float:
        """Bytes that are read once at least."""
        return sum(self.parts.values())

    @property
    def parts(self) -> dict[str, float]:
        """The bytes by what they are, in words."""
        values = dataclasses.asdict(self)
        return {name.replace("_", " "): value for name, value in values.items() if name != "operations"}

    def seconds(self, bytes_per_second: float) -> float:
        """Return the bandwidth floor."""
        return self.num_bytes / bytes_per_second


def step_floor(engine: Engine, *, num_streams: int, context: float) -> StepFloor:
    """Return what a step takes in which so many streams decode, each with `context` tokens behind it."""
    config = engine.runner.model.config
    keys = engine.runner.cache.keys
    # A memory without a table is computed: its FFNs are weights like others.
    row_bytes = int(engine.info.table.get("row_bytes", 0))
    weights = config.active_params if row_bytes else config.total_params
    head = config.vocab_size * config.hidden_size
    position = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    return StepFloor(
        weights=weights * keys.element_size(),
        head=head * keys.element_size(),
        keys_and_values=num_streams * context * position * keys.element_size(),
        rows=num_streams * row_bytes,
        operations=2.0 * num_streams * (weights + head),
    )


@torch.inference_mode()
def read_bandwidth(device: torch.device | str = "cpu", *, num_values: int = _READ_VALUES) -> float:
    """Return the bytes per second that a device reads.

    On a CPU in a product with a vector, which is nearly all that a step for one stream is; on a GPU, in a copy, what it
    reads and writes together.
    """
    device = torch.device(device)
    source = torch.ones(num_values, device=device)
    if device.type == "cuda":
        target = torch.empty_like(source)
        return 2 * source.nbytes / _least_seconds(lambda: target.copy_(source), device)
    matrix = source.view(2**12, -1)
    vector = torch.ones(matrix.shape[1])
    return source.nbytes / _least_seconds(lambda: torch.mv(matrix, vector), device)


@torch.inference_mode()
def product_rate(device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> float:
    """Return the additions and multiplications per second of a large matrix product."""
    device = torch.device(device)
    matrix = torch.ones(_PRODUCT_SIZE, _PRODUCT_SIZE, device=device, dtype=dtype)
    return 2 * _PRODUCT_SIZE**3 / _least_seconds(lambda: matrix @ matrix, device)


def _least_seconds(work: Callable[[], object], device: torch.device) -> float:
    seconds = []
    for _ in range(_REPETITIONS):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    return min(seconds)
