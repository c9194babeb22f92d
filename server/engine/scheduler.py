"""What runs in the next step: which sequences, and how many tokens of each.

Knows lanes, the token budget, the order of requests, and who makes room for whom. Rows are held by
`server/engine/step_rows.py`, blocks by `server/engine/sequence_blocks.py`. Knows nothing of tensors or of sampling.

Lanes go to sequences in order: lower priority numbers first, then those that came first. One whose row is late sits
out the step, and its lane goes to the next (deferral). One that lacks blocks takes those of the last in order, which
begins again when there is room (preemption by recomputing); one that lacks rows, those that the last waits for.
"""

from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import merge

import numpy as np

from server.engine.errors import QueueFullError
from server.engine.sequence import RequestState, Sequence, order_of
from server.engine.sequence_blocks import SequenceBlocks
from server.engine.step_rows import Chunk, Step, StepRows

_NUM_BATCH_SIZES = 12


@dataclass
class Counters:
    """What a scheduler did since its start."""

    steps: int = 0
    deferred_steps: int = 0
    """Times that a sequence sat out a step for a row."""
    preemptions: int = 0
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    batch_sizes: list[int] = field(default_factory=lambda: [0] * _NUM_BATCH_SIZES)
    """Steps by the number of their sequences: 1, 2, 3-4, 5-8, ..."""


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
        self._max_waiting = max_waiting

    @property
    def has_work(self) -> bool:
        """Whether anything waits or runs."""
        return bool(self.started or self.waiting)

    def add(self, state: RequestState) -> None:
        """Queue a request's sequences and start bringing its prompt's rows; `QueueFullError` where too many wait."""
        if len(self.waiting) + len(state.sequences) > self._max_waiting:
            raise QueueFullError(
                f"{len(self.waiting)} sequences wait already, and at most {self._max_waiting} may; try again later"
            )
        num_cached = len(self.blocks.cached(state.sequences[0])) * self.blocks.block_size
        state.prefetch = self.rows.memory.prefetch(np.array(state.prompt_ids[num_cached:], dtype=np.int64))
        for sequence in state.sequences:
            insort(self.waiting, sequence, key=order_of)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, and free all that it holds."""
        self._let_go(sequence)
        (self.started if sequence.is_started else self.waiting).remove(sequence)
        sequence.state.sequences.remove(sequence)
        if not sequence.state.sequences:
            sequence.state.end_prefetch()

    def schedule(self) -> Step | None:
        """Return what runs next, its rows held and its blocks found; None where nothing can run now."""
        self.rows.memory.poll()
        if decoding := [sequence for sequence in self.started if sequence.lease is None and sequence.num_pending == 1]:
            self.rows.ask(decoding)
        step = self.rows.hold(self._choose())
        if not step.chunks:
            return None
        self.num_deferred = self.rows.note_deferred(step, self.started)
        return step

    def finish(self, step: Step, seconds: float) -> None:
        """Take back a step that ran in so many seconds."""
        self.rows.finish(step, seconds)
        counters = self.counters
        counters.steps += 1
        counters.deferred_steps += self.num_deferred
        counters.batch_sizes[min((len(step.chunks) - 1).bit_length(), _NUM_BATCH_SIZES - 1)] += 1
        for chunk in step.chunks:
            sequence = chunk.sequence
            sequence.num_computed += chunk.length
            self.blocks.publish(sequence)
            if not sequence.num_pending and not sequence.state.is_prompt_computed:
                sequence.state.is_prompt_computed = True
                sequence.state.end_prefetch()

    def abandon(self, step: Step) -> None:
        """Take back a step that did not run."""
        self.rows.finish(step, None)

    def failures(self) -> list[tuple[Sequence, str]]:
        """Return the sequences whose rows cannot be had, and why; they are to be removed."""
        return self.rows.failures(self.started)

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
        lanes, budget, rows = self._max_num_seqs, self._max_num_batched_tokens, self.rows.num_free(self.started)
        may_start = True
        num_decoding = sum(sequence.num_pending == 1 for sequence in self.started)
        for sequence in self._candidates():
            if not lanes:
                break
            if sequence.is_started:
                num_decoding -= sequence.num_pending == 1
            # A long prompt leaves a token each to those behind it that have their lanes and take no more.
            spare = budget - min(num_decoding, lanes - 1)
            if not spare:
                may_start &= sequence.is_started
                continue
            own = sequence.lease
            if not sequence.is_started:
                # Where the first that waits has to wait on, none that came after it begins.
                if not may_start or not self._can_follow(sequence):
                    continue
                may_start = self._start(sequence)
                if not may_start:
                    continue
                if sequence.num_pending == 1:
                    self.rows.ask([sequence])
            if rows is not None and rows < 1 and sequence.lease is None:
                rows += self._take_rows(sequence, 1 - rows)
            limit = min(sequence.num_pending, spare)
            chunk = self.rows.chunk(sequence, limit, rows)
            if rows is not None and sequence.lease is not own and sequence.lease is not None:
                rows -= len(sequence.lease)
            if chunk is not None:
                chunk = self._with_blocks(chunk)
            if chunk is not None:
                chunks.append(chunk)
                lanes -= 1
                budget -= chunk.length
                if rows is not None and chunk.lease is None:
                    rows -= chunk.length
        return chunks

    def _candidates(self) -> Iterator[Sequence]:
        """Yield every sequence in order; who is preempted meanwhile comes as one that waits."""
        return merge(tuple(self.started), tuple(self.waiting), key=order_of) if self.waiting else iter([*self.started])

    def _can_follow(self, sequence: Sequence) -> bool:
        """Whether a choice may begin: the first of its request computes the prompt, the others find its blocks."""
        state = sequence.state
        return state.is_prompt_computed or sequence is state.sequences[0]

    def _start(self, sequence: Sequence) -> bool:
        """Let a waiting sequence hold blocks, if all of its tokens find room; return whether it may."""
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
        if not sequence.output_ids:
            if sequence.state.num_cached_tokens is None:
                sequence.state.num_cached_tokens = sequence.num_computed
            self.counters.prompt_tokens += len(sequence.ids)
            self.counters.cached_prompt_tokens += sequence.num_computed
        return True

    def _take_rows(self, sequence: Sequence, count: int) -> int:
        """Let those behind a sequence give up rows that they wait for, the last first; return how many, from `count`."""
        num_taken = 0
        for other in reversed(self.started):
            if num_taken >= count or other.order <= sequence.order:
                break
            if other.lease is not None:
                num_taken += len(other.lease)
                self.rows.drop(other)
        return num_taken

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
        self._let_go(sequence)
        self.started.remove(sequence)
        insort(self.waiting, sequence, key=order_of)
        sequence.is_started = False
        self.counters.preemptions += 1

    def _let_go(self, sequence: Sequence) -> None:
        self.rows.drop(sequence)
        self.blocks.free(sequence)
