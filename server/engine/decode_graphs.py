"""Decoding steps captured once for each size of batch and run again and again: one launch in place of hundreds.

Knows which steps can be run so, how many lanes and blocks a captured one has room for, which of them are captured
before they are needed, and CUDA's graphs. What is in one, `models/static_batch.py` and the model know. A step that
cannot be run so is run as any other by the runner.
"""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from models.kv_cache import KVCache
from models.rows import PlacedRows, Rows
from models.static_batch import StaticBatch
from models.transformer import Transformer
from server.engine.step import Chunk

Forward: TypeAlias = Callable[[], Tensor]
"""Runs the model on tensors that stay where they are, and returns what came out."""
Capture: TypeAlias = Callable[[Forward], Forward]
"""Makes of a run one that does the same in less time; what it returns is overwritten by any later run."""

_DOUBLED_LANES = 32
"""Room for lanes doubles up to here, and grows by as many beyond: a lane that rests costs something there."""
_FEWEST_BLOCKS = 16
_MOST_AHEAD = 32
"""Rooms that are captured ahead: with 32 lanes those of all contexts up to 4,096 positions, in blocks of 16."""
_SECONDS_AHEAD = 10.0


class _Captured(NamedTuple):
    batch: StaticBatch
    place: object | None
    """Where the rows lie that it reads."""
    run: Forward


class DecodeGraphs:
    """Captured steps by their room for lanes and blocks; each is captured ahead, or when it is first needed."""

    def __init__(self, model: Transformer, cache: KVCache, *, max_lanes: int, capture: Capture | None = None) -> None:
        """capture: how steps are captured; None: in CUDA's graphs."""
        self._model = model
        self._cache = cache
        self._max_lanes = max_lanes
        self._capture = _CudaCapture() if capture is None else capture
        self._captured: dict[tuple[int, int], _Captured] = {}
        self.is_full = False
        """Whether a capture found too little memory; then no other is tried, and steps without one run as any other."""

    @property
    def num_captured(self) -> int:
        """Steps of different room captured so far."""
        return len(self._captured)

    def capture_ahead(
        self,
        rows: Rows | None,
        *,
        max_model_len: int,
        on_progress: Callable[[int, int], None] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Capture the commonest steps before they are needed: short contexts first, for one lane up to all of them.

        rows: any rows of the memory that steps will read, also none of them; None for a dense model. Nothing of theirs
        is read, and nothing is captured where they do not lie where a captured step finds them. Ends with a capture
        that began within 10 seconds of the call.
        """
        placed = None if rows is None else rows.placed
        if rows is not None and placed is None:
            return
        began = clock()
        max_blocks = -(-max_model_len // self._cache.block_size)
        rooms = rooms_ahead(max_lanes=self._max_lanes, max_blocks=max_blocks)
        for number, room in enumerate(rooms):
            if self.is_full or clock() - began > _SECONDS_AHEAD:
                return
            if on_progress is not None:
                on_progress(number, len(rooms))
            self._capture_step(room, placed)

    def run(self, chunks: Sequence[Chunk], rows: Rows | None) -> Tensor | None:
        """Return the hidden state of each chunk's token, [N, d], to be used before the next call.

        None where a chunk has several tokens, or where the rows do not lie where a captured step finds them.
        """
        placed = None if rows is None else rows.placed
        if (rows is not None and placed is None) or any(chunk.length != 1 for chunk in chunks):
            return None
        sequences = [chunk.sequence for chunk in chunks]
        positions = [sequence.num_computed for sequence in sequences]
        num_blocks = max(positions) // self._cache.block_size + 1
        room = room_for(len(chunks), num_blocks, max_lanes=self._max_lanes)
        captured = self._captured.get(room) or self._capture_step(room, placed)
        if captured is None or captured.place is not (None if placed is None else placed.place):
            return None
        captured.batch.fill(
            [sequence.ids[position] for sequence, position in zip(sequences, positions, strict=True)],
            positions,
            [sequence.table for sequence in sequences],
            None if placed is None else placed.slots(),
        )
        return captured.run()[: len(chunks)]

    def _capture_step(self, room: tuple[int, int], placed: PlacedRows | None) -> _Captured | None:
        """Capture a step with this room while all of its lanes rest; None where there is no memory for it."""
        if self.is_full:
            return None
        try:
            batch = StaticBatch(self._cache, num_lanes=room[0], num_blocks=room[1])
            batch.fill((), (), ())

            def forward() -> Tensor:
                rows = None if placed is None else placed.rows_in(batch.row_slots_S)
                hidden_Sd: Tensor = self._model(batch.ids_S, batch.positions_S, batch.context, rows)
                return hidden_Sd

            captured = _Captured(batch, None if placed is None else placed.place, self._capture(forward))
        except torch.OutOfMemoryError:
            self.is_full = True
            return None
        self._captured[room] = captured
        return captured


def decode_graphs(model: Transformer, cache: KVCache, max_num_seqs: int) -> DecodeGraphs | None:
    """Return captured steps where the cache is on a GPU; None elsewhere, where they would be no faster."""
    return DecodeGraphs(model, cache, max_lanes=max_num_seqs) if cache.keys.is_cuda else None


def room_for(num_lanes: int, num_blocks: int, *, max_lanes: int) -> tuple[int, int]:
    """Return the room for lanes and blocks of the step that so many take: few different ones, not much too large."""
    if num_lanes <= _DOUBLED_LANES:
        lanes = 1 << (num_lanes - 1).bit_length()
    else:
        lanes = -(-num_lanes // _DOUBLED_LANES) * _DOUBLED_LANES
    return min(lanes, max(max_lanes, num_lanes)), max(_FEWEST_BLOCKS, 1 << (num_blocks - 1).bit_length())


def rooms_ahead(*, max_lanes: int, max_blocks: int) -> list[tuple[int, int]]:
    """Return the rooms of the steps that are captured ahead, in that order: a limited number, few blocks first."""
    lanes = sorted({room_for(count, 1, max_lanes=max_lanes)[0] for count in range(1, max_lanes + 1)})
    blocks = sorted({room_for(1, count, max_lanes=max_lanes)[1] for count in range(1, max_blocks + 1)})
    return [(count, size) for size in blocks for count in lanes][:_MOST_AHEAD]


class _CudaCapture:
    """Captures in CUDA's graphs, which share the memory of what is in between."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._side = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def __call__(self, forward: Forward) -> Forward:
        # What is loaded, compiled or tried out at a first run cannot be captured.
        self._side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._side):
            for _ in range(2):
                forward()
        torch.cuda.current_stream().wait_stream(self._side)
        graph = torch.cuda.CUDAGraph()
        # Only this thread's calls matter: those that read rows may go on meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._side, capture_error_mode="thread_local"):
            out = forward()

        def replay() -> Tensor:
            graph.replay()
            return out

        return replay
