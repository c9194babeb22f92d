"""An engine whose requests read a text: streams that decode together, and prompts one at a time.

Knows engines and clocks. Knows nothing of models, of what is compared with what, or of where ids come from.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from models.errors import ConfigError
from paging import TolboothError
from server.engine.engine import Engine
from server.engine.messages import EngineStats, Request, RequestOutput
from server.engine.params import SamplingParams
from server.engine.row_memory import PagedMemory
from server.measuring.forced_sampler import FULL_SAMPLING, ForcedSampler

_WARM_TIMEOUT = 60.0
_WARM_KEYS = 32
"""Keys that are leased together before anything is measured: one read at a time would take minutes."""
_AHEAD = 16
"""Tokens by which a stream may be ahead of another where rows are late, without ending for it."""


@dataclass
class RowUse:
    """What was asked of a paged memory while something was measured; nothing where the memory is another."""

    requests: int = 0
    host_hits: int = 0
    major_faults: int = 0

    @property
    def miss_rate(self) -> float | None:
        """Major faults of row requests; None where no row was asked for."""
        return self.major_faults / self.requests if self.requests else None

    def add(self, before: EngineStats, after: EngineStats) -> None:
        """Add what happened between two snapshots."""
        for name in ("requests", "host_hits", "major_faults"):
            key = "row_requests" if name == "requests" else name
            setattr(self, name, getattr(self, name) + _count(after, key) - _count(before, key))


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """A stretch of decoding in which every stream took part."""

    tokens: int
    seconds: float
    context: float
    """Tokens that the middle step's sequences had, on average."""

    @property
    def tokens_per_second(self) -> float:
        """Of all streams together."""
        return self.tokens / self.seconds


class Streams:
    """Streams over a text in an engine, whose sampler is replaced by one that says what the text says."""

    def __init__(self, engine: Engine, ids: npt.NDArray[np.integer[Any]]) -> None:
        """Take an engine that serves nobody else; ids: the text's, at least one."""
        self.engine, self.ids = engine, ids
        self._round = 0
        engine.sampler = ForcedSampler(engine.sampler, ids)  # type: ignore[assignment]

    def warm(
        self, num_ids: int, *, num_streams: int = 1, on_progress: Callable[[int, int], None] | None = None
    ) -> None:
        """Let a paged memory see the text's first ids, those of `num_streams` streams in turns.

        Each stream's are from the beginning of its own stretch of the text, as `starts` says.
        """
        memory = self.engine.scheduler.rows.memory
        if not isinstance(memory, PagedMemory):
            return
        stretch = len(self.ids) // num_streams
        each = min(num_ids // num_streams, stretch)
        columns = [self.ids[stream * stretch : stream * stretch + each] for stream in range(num_streams)]
        in_turns = np.stack(columns, axis=1).reshape(-1).astype(np.int64)
        step = max(1, min(_WARM_KEYS, memory.leasable_rows))
        for number, start in enumerate(range(0, len(in_turns), step)):
            if on_progress is not None and not number % _WARM_KEYS:
                on_progress(start, len(in_turns))
            lease = memory.lease(in_turns[start : start + step])
            memory.wait_for([lease], _WARM_TIMEOUT)
            if not lease.is_ready:
                raise lease.error or TolboothError(f"rows did not arrive within {_WARM_TIMEOUT:g} seconds")
            memory.release(lease)

    def starts(self, num_streams: int, length: int, *, behind: int = 0) -> list[int]:
        """Return where the streams begin in the text, each in a stretch of its own, other places at every call.

        behind: ids at the beginning of the text, the streams' together, that no stream reads before the text's end.
        """
        stretch = len(self.ids) // num_streams
        first = behind // num_streams + self._round * length
        self._round += 1
        return [(stream * stretch + first) % len(self.ids) for stream in range(num_streams)]

    def begin(self, starts: Sequence[int], *, context: int, num_tokens: int) -> None:
        """Queue a prompt of `context` tokens at each place, and step until every stream decodes.

        num_tokens: what each stream is to generate while all of them decode; those that begin first generate some more
        before that, as far as the model's context allows. Raises `ConfigError` where not all fit at once.
        """
        info = self.engine.info
        room = info.max_model_len - context
        if room < num_tokens:
            raise ConfigError(
                f"a context of {context} tokens and {num_tokens} more are longer than max_model_len, "
                f"{info.max_model_len}; lower one of them"
            )
        most = min(num_tokens + 2 * len(starts) * -(-context // info.max_num_batched_tokens) + _AHEAD, room)
        for number, start in enumerate(starts):
            self._add(f"{self._round}-{number}", start, context, most)
        scheduler = self.engine.scheduler
        while not (
            len(scheduler.started) == len(starts) and all(sequence.output_ids for sequence in scheduler.started)
        ):
            self._step()
            if len(scheduler.started) + len(scheduler.waiting) < len(starts):
                self.end()
                raise ConfigError(
                    f"{len(starts)} streams of {context} to {context + num_tokens} tokens do not decode at once: keys "
                    "and values take more than there is room for; lower streams or context, or raise kv_cache_bytes"
                )

    def run(self, num_tokens: int, use: RowUse | None = None) -> Decoded:
        """Decode until there are so many tokens for each stream, or a stream ends; `use` is added to.

        `begin` goes before. One stream may gain more than another where rows are late.
        """
        scheduler = self.engine.scheduler
        num_streams = len(scheduler.started)
        before, tokens = self.engine.stats(), 0
        first = sum(len(sequence.ids) for sequence in scheduler.started)
        began = time.perf_counter()
        while tokens < num_tokens * num_streams and len(scheduler.started) == num_streams:
            tokens += sum(len(choice.token_ids) for output in self._step() for choice in output.choices)
        seconds = time.perf_counter() - began
        if use is not None:
            use.add(before, self.engine.stats())
        if not tokens:
            raise TolboothError("no stream decodes; give them more tokens to generate")
        return Decoded(tokens=tokens, seconds=seconds, context=(first + tokens / 2) / num_streams)

    def end(self) -> None:
        """Abort every stream."""
        scheduler = self.engine.scheduler
        for request_id in {each.state.request.request_id for each in (*scheduler.started, *scheduler.waiting)}:
            self.engine.abort(request_id)

    def prefill(self, start: int, length: int, use: RowUse | None = None) -> float:
        """Return the seconds from queueing a prompt of `length` tokens to its first token; `use` is added to."""
        before = self.engine.stats()
        began = time.perf_counter()
        self._add(f"{self._round}-prompt", start, length, 1)
        while self.engine.scheduler.has_work:
            self._step()
        seconds = time.perf_counter() - began
        if use is not None:
            use.add(before, self.engine.stats())
        return seconds

    def _add(self, request_id: str, start: int, length: int, max_tokens: int) -> None:
        prompt_ids = self.ids.take(range(start, start + length), mode="wrap").tolist()
        params = SamplingParams(max_tokens=max_tokens, seed=start, **FULL_SAMPLING)
        self.engine.add(Request(request_id=request_id, prompt_ids=prompt_ids, params=params))

    def _step(self) -> list[RequestOutput]:
        outputs = self.engine.step()
        for output in outputs:
            if output.error:
                raise TolboothError(output.error)
        return outputs


def _count(stats: EngineStats, name: str) -> int:
    value = stats.memory.get(name, 0)
    assert isinstance(value, int), "the pager counts in whole numbers"
    return value
