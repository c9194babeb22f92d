"""A request under way: one sequence for each of its choices.

Knows what has been computed and what comes next. Knows nothing of other requests, of steps or of tensors.
"""

import sys
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from models.kv_cache import BlockTable
from server.engine.messages import MemoryUse, PositionLogprobs, Request, RequestTiming

if TYPE_CHECKING:
    from paging.lease import Lease, Prefetch
    from server.engine.packs import LoadedPack
    from server.engine.sampling import SampledSequence


class RequestState:
    """What the sequences of one request share."""

    def __init__(
        self,
        request: Request,
        *,
        arrival: int,
        root: bytes,
        pack: "LoadedPack | None" = None,
        alpha: tuple[float, ...] | None = None,
        eos_token_id: int | None = None,
        max_model_len: int = sys.maxsize,
    ) -> None:
        params = request.params
        self.request = request
        self.arrival = arrival
        self.root = root
        """The digest of a prefix of no tokens."""
        self.pack = pack
        """What lies over the memory for this request."""
        self.alpha = alpha
        """How much of each layer's row its tokens get; None: all of every row."""
        self.prompt_ids = list(request.prompt_ids)
        self.generates = params.max_tokens != 0
        """Whether tokens are to come; else the prompt is only scored."""
        self.ends = frozenset(params.stop_token_ids)
        """Tokens that end an output."""
        if eos_token_id is not None and not params.ignore_eos:
            self.ends |= {eos_token_id}
        self.most_tokens = max_model_len
        """Most tokens of a sequence, prompt and output."""
        if params.max_tokens is not None:
            self.most_tokens = min(max_model_len, len(self.prompt_ids) + params.max_tokens)
        self.sequences: list[Sequence] = []
        """Those that have not ended."""
        self.prefetch: Prefetch | None = None
        """Of the prompt's rows, until a first sequence has computed it."""
        self.is_prompt_computed = False
        """Whether a sequence has computed the prompt: then the others find its blocks."""
        self.num_cached_tokens: int | None = None
        """Prompt tokens that the first sequence found in the prefix cache."""
        self.is_begun = False
        """Whether the caller has heard of the prompt."""
        self.prompt_logprobs: list[PositionLogprobs | None] = [None]
        self.device_hits = self.host_hits = self.major_faults = 0
        self.stall_seconds = 0.0
        self.arrived_at = self.started_at = self.computed_at = 0.0
        """When it came to the scheduler, when it first held blocks, and when its prompt was computed."""

    @property
    def timing(self) -> RequestTiming:
        """How long its prompt took, once it is computed."""
        return RequestTiming(
            queue_seconds=self.started_at - self.arrived_at, prefill_seconds=self.computed_at - self.started_at
        )

    def end_prefetch(self) -> None:
        """Bring no more of the prompt's rows: they have been used, or will not be."""
        if self.prefetch is not None:
            self.prefetch.cancel()
            self.prefetch = None

    def memory_use(self, row_bytes: int) -> MemoryUse:
        """Return what its tokens asked of the memory so far."""
        return MemoryUse(
            rows=self.device_hits + self.host_hits + self.major_faults,
            device_hits=self.device_hits,
            host_hits=self.host_hits,
            major_faults=self.major_faults,
            bytes_read=self.major_faults * row_bytes,
            stall_seconds=self.stall_seconds,
        )


class Sequence:
    """One choice of a request."""

    __slots__ = (
        "choice",
        "digests",
        "ids",
        "is_started",
        "keys",
        "late_since",
        "lease",
        "num_computed",
        "num_published",
        "order",
        "output_ids",
        "sampled",
        "state",
        "table",
    )

    def __init__(self, state: RequestState, choice: int, *, block_size: int) -> None:
        self.state = state
        self.choice = choice
        self.order = (state.request.priority, state.arrival, choice)
        """Who goes first: the smallest."""
        self.ids = list(state.prompt_ids)
        """Prompt and output."""
        self.keys = self.ids if state.pack is None else state.pack.row_keys(self.ids)
        """The row key of each token; the same list where the base table has all of its rows."""
        self.output_ids: list[int] = []
        self.sampled: SampledSequence | None = None
        """What the sampler knows of it; set before its first step."""
        self.num_computed = 0
        """Tokens whose keys and values are in its blocks."""
        self.num_published = 0
        """Of those, the ones in blocks that others can find; a multiple of the block size."""
        self.table = BlockTable(block_size)
        self.digests: list[bytes] = []
        """Of its first full blocks, as many as were needed so far."""
        self.is_started = False
        """Whether it may hold blocks."""
        self.lease: Lease | None = None
        """On rows of its next tokens that were not at hand."""
        self.late_since: float | None = None
        """When it first sat out a step for that lease."""

    @property
    def num_pending(self) -> int:
        """Tokens that are known and not computed; with the last of them comes the next token."""
        return len(self.ids) - self.num_computed

    def pending(self, count: int) -> npt.NDArray[np.int64]:
        """Return the row keys of its next `count` tokens."""
        return np.array(self.keys[self.num_computed : self.num_computed + count], dtype=np.int64)

    def append(self, token_id: int) -> None:
        """Take a token into the output."""
        self.ids.append(token_id)
        if self.state.pack is not None:
            self.keys.append(self.state.pack.row_key(token_id))
        self.output_ids.append(token_id)


def order_of(sequence: Sequence) -> tuple[int, int, int]:
    """Return what sequences are ordered by."""
    return sequence.order
