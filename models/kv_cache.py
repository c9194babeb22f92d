"""Keys and values of past positions: stored in blocks, found through block tables.

Knows blocks, slots and layers. Which block belongs to whom, and who attends to what, is decided elsewhere.

Shape legend: N tokens of the batch, S sequences, L layers, G key/value heads, D head dimension, B blocks of a sequence,
P positions per block, C positions of a sequence's context.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from models.config import ModelConfig, round_up
from models.errors import ConfigError
from paging.pages import populate, reserve


class KVCache:
    """Keys and values of all layers in blocks of `block_size` positions.

    `keys` and `values` are [L, G, num_blocks, P, D'], D' being the head dimension rounded up to a multiple of
    `head_dim_multiple` (fast kernels want 8 or more; head dimensions of 60 and 100 occur). The padding is zero.
    In host memory a block takes memory once it is written: gigabytes of zeros are not waited for.
    Slot `block * P + offset` holds one position. Heads are outermost because attention reads one head after another:
    what it reads of neighbouring blocks then lies in one piece (on a CPU it takes a quarter less time).
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        num_blocks: int,
        block_size: int = 16,
        head_dim_multiple: int = 1,
        has_scratch: bool = False,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        """has_scratch: one more block, for keys and values that nobody reads."""
        self.block_size = block_size
        self.head_dim = config.head_dim
        self.num_blocks = num_blocks
        """Blocks that sequences can have."""
        self.scratch_block = num_blocks if has_scratch else None
        """The block that is nobody's, where there is one."""
        shape = (
            config.num_hidden_layers,
            config.num_key_value_heads,
            num_blocks + has_scratch,
            block_size,
            round_up(config.head_dim, head_dim_multiple),
        )
        self.keys = _zeros(shape, dtype, torch.device(device))
        self.values = _zeros(shape, dtype, torch.device(device))
        # Views made once: a step reads many short pieces, and what is said of each should cost little.
        self._slots_1GSD = [
            [store[layer].flatten(1, 2)[None] for store in (self.keys, self.values)] for layer in range(len(self.keys))
        ]

    @staticmethod
    def block_bytes(config: ModelConfig, *, block_size: int, head_dim_multiple: int, dtype: torch.dtype) -> int:
        """Return what one block of a cache takes, keys and values of all layers."""
        head_dim = round_up(config.head_dim, head_dim_multiple)
        position = 2 * config.num_hidden_layers * config.num_key_value_heads * head_dim * dtype.itemsize
        return block_size * position

    @property
    def num_bytes(self) -> int:
        """The memory of all blocks, taken already or not."""
        return self.keys.nbytes + self.values.nbytes

    def populate(self) -> None:
        """Take the memory of all blocks now, on any thread; waits for it. Raises `ConfigError` where there is less."""
        for store in (self.keys, self.values):
            if not store.is_cuda:
                try:
                    populate(store.data_ptr(), store.nbytes)
                except OSError as error:
                    raise ConfigError(
                        f"{store.nbytes} bytes for keys or values cannot be had ({error.strerror}); ask for fewer"
                    ) from error

    def write(self, layer: int, slot_mapping_N: Tensor, k_NGD: Tensor, v_NGD: Tensor) -> None:
        """Put one layer's keys and values into their slots."""
        for store_1GSD, new_NGD in zip(self._slots_1GSD[layer], (k_NGD, v_NGD), strict=True):
            # Faster than `index_copy_`, which goes through the positions one by one.
            store_1GSD[0][..., : self.head_dim][:, slot_mapping_N] = new_NGD.to(store_1GSD.dtype).transpose(0, 1)

    def read(self, layer: int, spans: list[range]) -> list[tuple[Tensor, Tensor]]:
        """Return the keys and values of each span of slots, views of [1, G, C, D']."""
        keys_1GSD, values_1GSD = self._slots_1GSD[layer]
        return [
            (keys_1GSD.narrow(2, span.start, len(span)), values_1GSD.narrow(2, span.start, len(span))) for span in spans
        ]


class BlockTable:
    """The blocks of one sequence in order of position.

    Blocks that follow one another in the cache too are kept as one run: what lies in one piece can be read in place.
    """

    __slots__ = ("_runs", "block_size", "blocks")

    def __init__(self, block_size: int, blocks: Iterable[int] = ()) -> None:
        self.block_size = block_size
        self.blocks: list[int] = []
        self._runs: list[range] = []
        self.extend(blocks)

    def extend(self, blocks: Iterable[int]) -> None:
        """Put blocks at the end."""
        for block in blocks:
            if self._runs and self._runs[-1].stop == block:
                self._runs[-1] = range(self._runs[-1].start, block + 1)
            else:
                self._runs.append(range(block, block + 1))
            self.blocks.append(block)

    def clear(self) -> list[int]:
        """Take all blocks out and return them."""
        blocks, self.blocks, self._runs = self.blocks, [], []
        return blocks

    def slot(self, position: int) -> int:
        """Return the slot of a position."""
        return self.blocks[position // self.block_size] * self.block_size + position % self.block_size

    def slots(self, start: int, stop: int) -> list[int]:
        """Return the slots of the positions from `start` up to `stop`."""
        return [self.slot(position) for position in range(start, stop)]

    def spans(self, length: int) -> list[range]:
        """Return the slots of the first `length` positions as spans."""
        spans: list[range] = []
        for run in self._runs:
            count = min(length, len(run) * self.block_size)
            if count <= 0:
                break
            start = run.start * self.block_size
            spans.append(range(start, start + count))
            length -= count
        return spans

    def __len__(self) -> int:
        return len(self.blocks)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    count = torch.Size(shape).numel()
    if device.type != "cpu" or not count:
        return torch.zeros(shape, dtype=dtype, device=device)
    try:
        return torch.frombuffer(reserve(count * dtype.itemsize), dtype=dtype).view(shape)
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"{count * dtype.itemsize} bytes for keys or values cannot be had ({error}); ask for fewer"
        ) from error
