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
from heapq import merge

import numpy as np

from server.engine.counters import Counters
from server.engine.errors import QueueFullError
from server.engine.sequence import RequestState, Sequence, order_of
from server.engine.sequence_blocks import SequenceBlocks
from server.engine.step import Chunk, DecodeBatch, Step
from server.engine.step_room import StepRoom
from server.engine.step_rows import StepRows


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
        self._batch: DecodeBatch | None = None
        """All that has started, where nobody else can come: then steps are alike. None from the moment that anything
        changes."""

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
        self._batch = None
        state.arrived_at = self._clock()
        num_cached = len(self.blocks.cached(state.sequences[0])) * self.blocks.block_size
        state.prefetch = self.rows.memory.prefetch(np.array(state.sequences[0].keys[num_cached:], dtype=np.int64))
        for sequence in state.sequences:
            insort(self.waiting, sequence, key=order_of)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, and free all that it holds."""
        self._batch = None
        self._let_go(sequence)
        (self.started if sequence.is_started else self.waiting).remove(sequence)
        sequence.state.sequences.remove(sequence)
        if not sequence.state.sequences:
            sequence.state.end_prefetch()

    def schedule(self) -> Step | None:
        """Return what runs next, its rows held and its blocks found; None where nothing can run now."""
        self.rows.memory.poll()
        if self._batch is not None:
            self.rows.ask_batch(self._batch)
        elif asking := [each for each in self.started if each.lease is None and each.num_pending == 1]:
            self.rows.ask(asking)
        are_filled = len(self.started) + len(self.waiting) > self._max_num_seqs
        self.rows.note_lanes(len(self.started), are_filled=are_filled)
        chunks = None if self._batch is None else self._all_of(self._batch)
        if chunks is None:
            chunks = self._choose()
            self._batch = self._lasting_batch() if 0 < len(chunks) == len(self.started) else None
        step = self.rows.hold(chunks, self._batch)
        if not step.chunks:
            return None
        self.num_deferred = self.rows.note_deferred(step)
        # After a long prompt the mean is long for a while, and who decodes would find the disk busy.
        self.rows.memory.read_ahead(min(self.rows.step_seconds, self.rows.last_seconds))
        return step

    def _all_of(self, batch: DecodeBatch) -> list[Chunk] | None:
        """Return a chunk for every sequence of the last step, with rows and blocks; None where somebody lacks either.

        So are most steps of a busy engine, and `_choose` would return the same.
        """
        chunks, rows, room = batch.chunks, self.rows, self.rows.num_free
        if room is not None and room < len(batch) - len(rows.holders):
            return None
        if rows.holders:
            found = [chunk if chunk.sequence.lease is None else rows.chunk(chunk.sequence, 1, room) for chunk in chunks]
            chunks = [chunk for chunk in found if chunk is not None]
            if len(chunks) < len(found):
                return None
        growing = [each for each in batch.at_block_end if self.blocks.num_needed(each, 1)]
        if len(growing) > self.blocks.pool.num_free:
            return None
        for sequence in growing:
            self.blocks.grow(sequence, 1)
        return chunks

    def _lasting_batch(self) -> DecodeBatch | None:
        """Return all that has started and is about to run, if nothing else can run until something changes."""
        started = self.started
        if self.waiting and (len(started) < self._max_num_seqs or self.waiting[0].order < started[-1].order):
            return None
        if len(started) > min(self._max_num_seqs, self._max_num_batched_tokens):
            return None
        for each in started:
            if each.num_pending != 1 or not each.state.is_prompt_computed or not each.state.generates:
                return None
        return DecodeBatch(started, block_size=self.blocks.block_size)

    def finish(self, step: Step, seconds: float) -> None:
        """Take back a step that ran in so many seconds."""
        self.rows.finish(step, seconds)
        self.counters.note_step(len(step.chunks))
        self.counters.deferred_steps += self.num_deferred
        if step.batch is not None:
            step.batch.note_computed()
            for sequence in step.batch.at_block_end:
                self.blocks.publish(sequence)
            return
        self._batch = None  # some of it may have run
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
        self._batch = None
        self.rows.finish(step, None)

    def failures(self) -> list[tuple[Sequence, Exception]]:
        """Return the sequences that were given up or whose rows cannot be had, and why; they are to be removed."""
        given_up, self._given_up = self._given_up, []
        return given_up + self.rows.failures() if self.rows.holders else given_up

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

    def _choose(self) -> list[Chunk]:
        """Return the chunks whose rows are at hand, or late and worth waiting for; with blocks for their tokens."""
        chunks: list[Chunk] = []
        room = StepRoom(
            lanes=self._max_num_seqs,
            tokens=self._max_num_batched_tokens,
            rows=self.rows.num_free,
            num_decoding=sum(each.num_pending == 1 for each in self.started),
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
        self._batch = None
        self._let_go(sequence)
        self.started.remove(sequence)
        insort(self.waiting, sequence, key=order_of)
        sequence.is_started = False
        self.counters.preemptions += 1

    def _let_go(self, sequence: Sequence) -> None:
        self.rows.drop(sequence)
        self.blocks.free(sequence)
