"""The rows of a step: what is at hand, what is worth waiting for, and what keeps its sequence out of the step.

Knows leases, waiting times and steps' durations. Knows nothing of lanes, blocks or tensors.

A sequence whose rows are not at hand gets a lease of its own, which it keeps until the rows have come and it has run
with them: nothing else can take them meanwhile. All others share one lease for the step.
"""

import time
from collections.abc import Callable
from collections.abc import Sequence as Items

import numpy as np
import numpy.typing as npt

from paging import LeaseTimeoutError
from paging.lease import Lease
from server.engine.row_memory import RowMemory
from server.engine.sequence import Sequence
from server.engine.step import Chunk, DecodeBatch, Step, next_keys, places_of

_FIRST_STEP_SECONDS = 0.01
_STEP_WEIGHT = 0.2
"""Of the newest step in the running estimate of a step's time."""
_MOST_PATIENCE = 1.0
"""Seconds; whoever never wants to defer still wants to be able to abort."""
_MOST_EMPTY_SHARE = 0.25
"""Of a step's time that late rows are waited for at most where nobody could take their sequences' lanes."""
_LEASE_SHARE = 4
"""A lease that is kept while its sequence sits out takes one in so many of the leasable rows at most."""


class StepRows:
    """Holds rows for steps, and decides which of the late ones to wait for."""

    def __init__(
        self,
        memory: RowMemory,
        *,
        defer_after: float,
        most_tokens: int,
        row_timeout: float = 60.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Hold rows of `memory`.

        defer_after: share of a step's time that late rows are waited for; where nobody takes the lane, and it is not 0,
        more, as `note_lanes` says. most_tokens: that a sequence's own lease covers; at most what a sequence can always
        run at once. row_timeout: seconds after which a sequence is given up.
        """
        self.memory = memory
        self.step_seconds = _FIRST_STEP_SECONDS
        """Running estimate of a step's time."""
        self.last_seconds = _FIRST_STEP_SECONDS
        """The last step's time."""
        self.stall_seconds = 0.0
        """Time during which nothing could run."""
        self.holders: dict[Sequence, None] = {}
        """The sequences with a lease of their own, those first that have had it for longest."""
        self._defer_after = defer_after
        self._empty_share = 0.0
        self._most_tokens = most_tokens
        self._row_timeout = row_timeout
        self._clock = clock

    @property
    def patience(self) -> float:
        """Seconds that late rows are waited for while other sequences could run."""
        share = max(self._defer_after, self._empty_share) if self._defer_after else 0.0
        return min(share * self.step_seconds, _MOST_PATIENCE)

    def note_lanes(self, num_started: int, *, are_filled: bool) -> None:
        """Note whether the lanes of sequences that sit out are filled by others, on which it depends how long to wait.

        An empty lane is a token lost: without k of n sequences a step of time s yields as many tokens a second as all n
        after a wait of s k / (n - k).
        """
        self._empty_share = 0.0
        if self.holders and not are_filled:
            num_late = len(self._late)
            if num_late < num_started:
                self._empty_share = min(num_late / (num_started - num_late), _MOST_EMPTY_SHARE)

    def ask(self, sequences: Items[Sequence]) -> None:
        """Start reading the row that each sequence needs next, where it is not at hand; none has a lease of its own."""
        self._ask(sequences, next_keys(sequences))

    def ask_batch(self, batch: DecodeBatch) -> None:
        """Do the same for all of a batch; those that have a lease of their own have asked."""
        if self.holders:
            self.ask([sequence for sequence in batch.sequences if sequence.lease is None])
        else:
            self._ask(batch.sequences, batch.keys_N)

    def _ask(self, sequences: Items[Sequence], keys: npt.NDArray[np.int64]) -> None:
        absent = self.memory.absent(keys)
        if len(absent):
            for index, lease in zip(absent.tolist(), self.memory.lease_each(keys[absent]), strict=True):
                self._keep(sequences[index], lease)

    @property
    def num_free(self) -> int | None:
        """How many rows a common lease can have beside the sequences' own; None: any number."""
        rows = self.memory.leasable_rows
        return None if rows is None else rows - sum(len(lease) for lease in self._own)

    def chunk(self, sequence: Sequence, limit: int, rows: int | None) -> Chunk | None:
        """Return a sequence's next tokens, at most `limit` with at most `rows` rows beside its own lease.

        A chunk that `is_late` has rows that are worth waiting for. None: the sequence sits out.
        """
        if sequence.lease is None:
            if rows is not None and rows < 1:
                # In the queue behind those that have all the room.
                self._keep(sequence, self.memory.lease(sequence.pending(1)))
            elif (common := self._common_chunk(sequence, limit, rows)) is not None:
                return common
        lease = sequence.lease
        if lease is None or len(lease) > limit:
            return None
        # A row that was waited for in vain is late for a reason that nobody knows; it keeps no lane from others.
        if not lease.is_ready and (sequence.late_since is not None or not self._is_soon(lease)):
            return None
        return Chunk(sequence, len(lease), lease)

    def hold(self, chunks: list[Chunk], batch: DecodeBatch | None = None) -> Step:
        """Return a step of those chunks whose rows are there in time, in the order given; all of them are `batch`."""
        common = chunks if not self.holders else [chunk for chunk in chunks if chunk.lease is None]
        leases: list[Lease] = []
        if common:
            is_whole = len(common) == len(chunks)
            lease = self.memory.lease(batch.keys_N if is_whole and batch is not None else _keys(common))
            if lease.is_ready:
                if is_whole:
                    return Step(chunks, [lease], batch=batch)
                leases.append(lease)
            else:
                # Others wait for room. Nobody overtakes them, so everyone queues up behind them by itself.
                self.memory.release(lease)
                chunks = [self._queued(chunk) if chunk.lease is None else chunk for chunk in chunks]
        there = chunks
        if late := [chunk.lease for chunk in chunks if chunk.lease is not None and chunk.is_late]:
            self.memory.wait_for(late, self.patience)
            there = [chunk for chunk in chunks if not chunk.is_late]
        leases += [chunk.lease for chunk in there if chunk.lease is not None]
        places = places_of(there) if common and len(leases) > 1 else None
        return Step(there, leases, places, batch if len(there) == len(chunks) else None)

    def wait(self, timeout: float) -> None:
        """Wait until a row has arrived that a sequence lacks, because nothing else can be done."""
        started = self._clock()
        self._note_late()
        leases = [lease for lease in self._own if lease.is_waiting]
        if leases:
            self.memory.wait_any(leases, timeout)
            self.stall_seconds += self._clock() - started

    def note_deferred(self, step: Step) -> int:
        """Note who sits out a step for a row, and who no longer does; return how many do."""
        if not self.holders:
            return 0
        now = self._clock()
        for sequence, _, _ in step.chunks:
            if sequence.late_since is not None:
                sequence.state.stall_seconds += now - sequence.late_since
                sequence.late_since = None
        return self._note_late()

    def failures(self) -> list[tuple[Sequence, Exception]]:
        """Return the sequences whose rows cannot be had, and why."""
        found: list[tuple[Sequence, Exception]] = []
        for sequence in self._late:
            assert sequence.lease is not None, "who is late has a lease"
            if sequence.lease.error is not None:
                found.append((sequence, sequence.lease.error))
            elif sequence.late_since is not None and self._clock() - sequence.late_since > self._row_timeout:
                seconds = f"{self._row_timeout:g} s"
                error = LeaseTimeoutError(f"a row did not arrive within {seconds}; the storage answers too slowly")
                found.append((sequence, error))
        return found

    def finish(self, step: Step, seconds: float | None) -> None:
        """Give the rows of a step back, which took so many seconds; None: it did not run."""
        if seconds is not None:
            self.step_seconds += (seconds - self.step_seconds) * _STEP_WEIGHT
            self.last_seconds = seconds
        for held in step.leases:
            self.memory.release(held)
        if self.holders:
            for sequence, _, lease in step.chunks:
                if lease is not None:
                    self._forget(sequence)

    def drop(self, sequence: Sequence) -> None:
        """Give up the rows that a sequence waits for."""
        if sequence.lease is not None:
            self.memory.release(sequence.lease)
            self._forget(sequence)
        sequence.late_since = None

    @property
    def _most_kept(self) -> int:
        """Most tokens that a lease covers which its sequence keeps while it sits out: others need room as well."""
        rows = self.memory.leasable_rows
        return self._most_tokens if rows is None else max(1, min(self._most_tokens, rows // _LEASE_SHARE))

    def _common_chunk(self, sequence: Sequence, limit: int, rows: int | None) -> Chunk | None:
        """Return what of a sequence can be in the common lease; None where it gets a lease of its own instead."""
        if sequence.num_pending == 1:
            return Chunk(sequence, 1)  # `ask` has looked
        keys = sequence.pending(limit)
        if rows is not None:
            keys = keys[: _longest(keys, rows)]
        absent = self.memory.absent(keys)
        if not len(absent):
            return Chunk(sequence, len(keys))
        num_there = int(absent[0])
        if self._lease_late(sequence, keys[: self._most_kept], num_there):
            return None
        return Chunk(sequence, num_there)

    def _lease_late(self, sequence: Sequence, keys: npt.NDArray[np.int64], num_there: int) -> bool:
        """Ask for rows some of which may be late; return whether the sequence keeps a lease on them.

        It does not where its first `num_there` tokens can run while the other rows are too long in coming.
        """
        if num_there >= len(keys):
            return False
        lease = self.memory.lease(keys)
        if num_there and not lease.is_ready and not self._is_soon(lease):
            self.memory.release(lease)
            return False
        self._keep(sequence, lease)
        return True

    def _is_soon(self, lease: Lease) -> bool:
        return self.memory.outlook(lease).seconds <= self.patience

    @property
    def _own(self) -> list[Lease]:
        """The sequences' own leases."""
        return [sequence.lease for sequence in self.holders if sequence.lease is not None]

    @property
    def _late(self) -> list[Sequence]:
        """The sequences whose own lease is not ready."""
        return [each for each in self.holders if each.lease is not None and not each.lease.is_ready]

    def _note_late(self) -> int:
        """Note since when sequences are late; return how many are."""
        now, late = self._clock(), self._late
        for sequence in late:
            if sequence.late_since is None:
                sequence.late_since = now
        return len(late)

    def _queued(self, chunk: Chunk) -> Chunk:
        """Ask for a chunk's rows by a lease of its own."""
        lease = self.memory.lease(chunk.sequence.pending(min(chunk.length, self._most_kept)))
        self._keep(chunk.sequence, lease)
        return Chunk(chunk.sequence, len(lease), lease)

    def _keep(self, sequence: Sequence, lease: Lease) -> None:
        sequence.lease = lease
        self.holders[sequence] = None

    def _forget(self, sequence: Sequence) -> None:
        sequence.lease = None
        del self.holders[sequence]


def _keys(chunks: Items[Chunk]) -> npt.NDArray[np.int64]:
    """Return the row keys of chunks, one chunk after another."""
    if all(length == 1 for _, length, _ in chunks):
        return next_keys([sequence for sequence, _, _ in chunks])
    return np.concatenate([chunk.sequence.pending(chunk.length) for chunk in chunks])


def _longest(keys: npt.NDArray[np.int64], rows: int) -> int:
    """Return the length of the longest prefix with at most `rows` different keys."""
    if len(keys) <= rows:
        return len(keys)
    first = np.sort(np.unique(keys, return_index=True)[1])
    return len(keys) if len(first) <= rows else int(first[rows])
