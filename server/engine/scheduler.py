"""What runs in the next step: which sequences, and how many tokens of each.

Knows lanes, the token budget, the order of requests, and who makes room for whom. Rows are held by
`server/engine/step_rows.py`, blocks by `server/engine/sequence_blocks.py`. Knows nothing of tensors or of sampling.

Lanes go to sequences in order: lower priority numbers first, then those that came first. One whose row is late sits
out the step, and its lane goes to the next (deferral). One that lacks blocks takes those of the last in order, which
begins again when there is room (preemption by recomputing).
"""

import time
from bisect import insort
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from heapq import merge

import numpy as np

from server.engine.counters import Counters
from server.engine.errors import QueueFullError
from server.engine.sequence import RequestState, Sequence, order_of
from server.engine.sequence_blocks import SequenceBlocks
from server.engine.step_room import StepRoom
from server.engine.step_rows import Chunk, Step, StepRows


@dataclass(slots=True)
class _Repeatable:
    """A step that took the next token of every sequence that has started, and may be taken as it is again."""

    chunks: list[Chunk]
    times: int
    """How often its sequences have blocks for a further token each."""


class Scheduler:
    """Decides step after step; `schedule` gives one, `finish` takes it back when it has run."""

    def __init__(
        self,
        *,
        blocks: SequenceBlocks,
        rows: StepRows,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        max_waiting: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.blocks = blocks
        self.rows = rows
        self.counters = Counters()
        self.waiting: list[Sequence] = []
        """Those that hold nothing, in order."""
        self.started: list[Sequence] = []
        """Those that may hold blocks and rows, in order."""
        self.num_deferred = 0
        """Sequences that sat out the last step for a row."""
        self._max_num_seqs = max_num_seqs
        self._max_num_batched_tokens = max_num_batched_tokens
        self.max_waiting = max_waiting
        """Sequences that may wait."""
        self._clock = clock
        self._given_up: list[tuple[Sequence, Exception]] = []
        self._repeatable: _Repeatable | None = None  # None from the moment that anything else changes

    @property
    def has_work(self) -> bool:
        """Whether anything waits or runs."""
        return bool(self.started or self.waiting)

    def add(self, state: RequestState) -> None:
        """Queue a request's sequences and start bringing its prompt's rows; `QueueFullError` where too many wait."""
        if len(self.waiting) + len(state.sequences) > self.max_waiting:
            raise QueueFullError(
                f"{len(self.waiting)} sequences wait already, and at most {self.max_waiting} may; try again later"
            )
        self._repeatable = None
        state.arrived_at = self._clock()
        num_cached = len(self.blocks.cached(state.sequences[0])) * self.blocks.block_size
        state.prefetch = self.rows.memory.prefetch(np.array(state.sequences[0].keys[num_cached:], dtype=np.int64))
        for sequence in state.sequences:
            insort(self.waiting, sequence, key=order_of)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, and free all that it holds."""
        self._repeatable = None
        self._let_go(sequence)
        (self.started if sequence.is_started else self.waiting).remove(sequence)
        sequence.state.sequences.remove(sequence)
        if not sequence.state.sequences:
            sequence.state.end_prefetch()

    def schedule(self) -> Step | None:
        """Return what runs next, its rows held and its blocks found; None where nothing can run now."""
        self.rows.memory.poll()
        if (step := self._repeated()) is not None:
            return step
        decoding = [each for each in self.started if len(each.ids) - each.num_computed == 1]
        if without_lease := [sequence for sequence in decoding if sequence.lease is None]:
            self.rows.ask(without_lease)
        self.rows.note_lanes(self.started, are_filled=len(self.started) + len(self.waiting) > self._max_num_seqs)
        step = self.rows.hold(self._choose(num_decoding=len(decoding)))
        if not step.chunks:
            return None
        self.num_deferred = self.rows.note_deferred(step, self.started)
        self._note_repeatable(step)
        return step

    def _repeated(self) -> Step | None:
        """Return the last step again, where nothing has changed that could lead to another.

        So are most steps of a busy engine. Every sequence has got its one token since, or it would have left.
        """
        last = self._repeatable
        if last is None or not last.times:
            return None
        rows = self.rows.memory.leasable_rows
        if rows is not None and len(last.chunks) > rows:
            return None
        step = self.rows.hold_next(last.chunks)
        last.times -= step is not None
        return step

    def _note_repeatable(self, step: Step) -> None:
        """Note whether the next step can be this one again; whoever has started is in it, and nobody else can be."""
        self._repeatable = None
        chunks, started = step.chunks, self.started
        if len(chunks) != len(started) or any(length > 1 or lease is not None for _, length, lease in chunks):
            return
        if self.waiting and (len(started) < self._max_num_seqs or self.waiting[0].order < started[-1].order):
            return
        if any(sequence.num_pending != 1 or not sequence.state.generates for sequence, _, _ in chunks):
            return
        block_size = self.blocks.block_size
        times = min(len(each.table.blocks) * block_size - each.num_computed for each in started) - 1
        self._repeatable = _Repeatable(chunks, times)

    def finish(self, step: Step, seconds: float) -> None:
        """Take back a step that ran in so many seconds."""
        self.rows.finish(step, seconds)
        self.counters.note_step(len(step.chunks))
        self.counters.deferred_steps += self.num_deferred
        block_size = self.blocks.block_size
        for sequence, length, _ in step.chunks:
            sequence.num_computed += length
            if sequence.num_computed - sequence.num_published >= block_size:
                self.blocks.publish(sequence)
            state = sequence.state
            if not state.is_prompt_computed and not sequence.num_pending:
                state.is_prompt_computed = True
                state.computed_at = self._clock()
                state.end_prefetch()

    def abandon(self, step: Step) -> None:
        """Take back a step that did not run."""
        self._repeatable = None
        self.rows.finish(step, None)

    def failures(self) -> list[tuple[Sequence, Exception]]:
        """Return the sequences that were given up or whose rows cannot be had, and why; they are to be removed."""
        given_up, self._given_up = self._given_up, []
        return given_up + self.rows.failures(self.started)

    def give_up(self, sequences: Iterable[Sequence], error: Exception) -> None:
        """Count sequences, whether they wait or have started, among the next `failures`."""
        self._given_up += [(sequence, error) for sequence in sequences]

    def check_integrity(self) -> None:
        """Raise `AssertionError` naming a law that does not hold, between steps."""
        self.blocks.pool.check_integrity()
        for sequences, is_started in ((self.waiting, False), (self.started, True)):
            assert sequences == sorted(sequences, key=order_of), "sequences are out of order"
            assert all(sequence.is_started is is_started for sequence in sequences), "a sequence is in the wrong queue"
        assert not any(sequence.lease or len(sequence.table) for sequence in self.waiting), "what waits holds nothing"
        held = {block for sequence in self.started for block in sequence.table.blocks}
        assert len(held) == self.blocks.pool.num_held, "blocks are held that no sequence has"

    def _choose(self, num_decoding: int) -> list[Chunk]:
        """Return the chunks whose rows are at hand, or late and worth waiting for; with blocks for their tokens.

        num_decoding: sequences that have started and have one token pending.
        """
        chunks: list[Chunk] = []
        room = StepRoom(
            lanes=self._max_num_seqs,
            tokens=self._max_num_batched_tokens,
            rows=self.rows.num_free(self.started),
            num_decoding=num_decoding,
        )
        may_start, block_size = True, self.blocks.block_size
        for sequence in self._candidates():
            if not room.lanes:
                break
            own = sequence.lease
            if sequence.is_started:
                is_decoding = len(sequence.ids) - sequence.num_computed == 1
                room.num_decoding -= is_decoding
                if (
                    is_decoding
                    and own is None
                    and sequence.num_computed < len(sequence.table.blocks) * block_size
                    and room.has_token
                ):
                    # Most of a step by far is the next tokens of sequences that have all they need.
                    chunk = Chunk(sequence, 1)
                    room.take(chunk)
                    chunks.append(chunk)
                    continue
            elif may_start and self._can_follow(sequence):
                # Where the first that waits has to wait on, none that came after it begins.
                may_start = self._start(sequence, room)
            if not sequence.is_started or not room.spare_tokens:
                continue
            found = self.rows.chunk(sequence, min(sequence.num_pending, room.spare_tokens), room.rows)
            if sequence.lease is not None and sequence.lease is not own:
                room.take_rows(len(sequence.lease))
            found = found and self._with_blocks(found)
            if found is not None:
                room.take(found)
                chunks.append(found)
        return chunks

    def _candidates(self) -> Iterator[Sequence]:
        """Yield every sequence in order; who is preempted meanwhile comes as one that waits."""
        return merge(tuple(self.started), tuple(self.waiting), key=order_of) if self.waiting else iter([*self.started])

    def _can_follow(self, sequence: Sequence) -> bool:
        """Whether a choice may begin: the first of its request computes the prompt, the others find its blocks."""
        state = sequence.state
        return state.is_prompt_computed or sequence is state.sequences[0]

    def _start(self, sequence: Sequence, room: StepRoom) -> bool:
        """Let a waiting sequence hold blocks, if there is room for all of its tokens; return whether it may."""
        is_last = not self.started or self.started[-1].order < sequence.order
        if not room.spare_tokens or (is_last and not room.has_rows):
            return False
        cached = self.blocks.cached(sequence)
        while self.blocks.num_missing(sequence, cached) + bool(self.started) > self.blocks.pool.num_free:
            # The one block is for the growth of those that run.
            last = self.started[-1] if self.started else None
            if last is None or last.state.request.priority <= sequence.state.request.priority:
                return False
            self._preempt(last)
        self.blocks.begin(sequence, cached)
        self.waiting.remove(sequence)
        insort(self.started, sequence, key=order_of)
        sequence.is_started = True
        self.counters.prefix_cache_queries += len(sequence.ids)
        self.counters.prefix_cache_hits += sequence.num_computed
        if sequence.state.num_cached_tokens is None:
            sequence.state.started_at = self._clock()
            sequence.state.num_cached_tokens = sequence.num_computed
            self.counters.prompt_tokens += len(sequence.state.prompt_ids)
            self.counters.cached_prompt_tokens += sequence.num_computed
        if sequence.num_pending == 1:
            self.rows.ask([sequence])
        return True

    def _with_blocks(self, chunk: Chunk) -> Chunk | None:
        """Find blocks for a chunk's tokens; return it, or what of it finds room, or None."""
        sequence = chunk.sequence
        while self.blocks.num_needed(sequence, chunk.length) > self.blocks.pool.num_free:
            if self.started[-1].order <= sequence.order:
                break
            self._preempt(self.started[-1])
        length = self.blocks.grow(sequence, chunk.length)
        if length == chunk.length:
            return chunk
        if chunk.lease is not None:
            self.rows.drop(sequence)  # for fewer tokens it has to be asked for anew
        return Chunk(sequence, length) if length and chunk.lease is None else None

    def _preempt(self, sequence: Sequence) -> None:
        """Take a sequence's blocks and rows; it begins again when there is room."""
        self._repeatable = None
        self._let_go(sequence)
        self.started.remove(sequence)
        insort(self.waiting, sequence, key=order_of)
        sequence.is_started = False
        self.counters.preemptions += 1

    def _let_go(self, sequence: Sequence) -> None:
        self.rows.drop(sequence)
        self.blocks.free(sequence)
