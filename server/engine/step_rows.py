"""The rows of a step: what is at hand, what is worth waiting for, and what keeps its sequence out of the step.

Knows leases, waiting times and steps' durations. Knows nothing of lanes, blocks or tensors.

A sequence whose rows are not at hand gets a lease of its own, which it keeps until the rows have come and it has run
with them: nothing else can take them meanwhile. All others share one lease for the step.
"""

import time
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from paging import LeaseTimeoutError
from paging.lease import Lease, LeaseState
from server.engine.row_memory import RowMemory
from server.engine.sequence import Sequence

_FIRST_STEP_SECONDS = 0.01
_STEP_WEIGHT = 0.2
"""Of the newest step in the running estimate of a step's time."""
_MOST_PATIENCE = 1.0
"""Seconds; whoever never wants to defer still wants to be able to abort."""
_MOST_EMPTY_SHARE = 0.25
"""Of a step's time that late rows are waited for at most where nobody could take their sequences' lanes."""
_LEASE_SHARE = 4
"""A lease that is kept while its sequence sits out takes one in so many of the leasable rows at most."""


class Chunk(NamedTuple):
    """The tokens of one sequence that run in a step."""

    sequence: Sequence
    length: int
    lease: Lease | None = None
    """Its own lease; None where its rows are to be among those of the step's common lease."""

    @property
    def is_late(self) -> bool:
        """Whether its rows are still on their way."""
        return self.lease is not None and not self.lease.is_ready


@dataclass(frozen=True)
class Step:
    """What runs together, in batch order."""

    chunks: list[Chunk]
    leases: list[Lease]
    """On the rows of all chunks, in batch order."""
    is_repeated: bool = False
    """Whether it is the step before once more, each sequence one token on."""


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
        self.stall_seconds = 0.0
        """Time during which nothing could run."""
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

    def note_lanes(self, started: Items[Sequence], *, are_filled: bool) -> None:
        """Note whether the lanes of sequences that sit out are filled by others, on which it depends how long to wait.

        An empty lane is a token lost: without k of n sequences a step of time s yields as many tokens a second as all n
        after a wait of s k / (n - k).
        """
        num_late = sum(sequence.lease is not None and not sequence.lease.is_ready for sequence in started)
        self._empty_share = 0.0
        if num_late < len(started) and not are_filled:
            self._empty_share = min(num_late / (len(started) - num_late), _MOST_EMPTY_SHARE)

    def ask(self, sequences: Items[Sequence]) -> None:
        """Start reading the row that each sequence needs next, where it is not at hand and not asked for."""
        keys = np.array([sequence.keys[sequence.num_computed] for sequence in sequences], dtype=np.int64)
        resident = self.memory.resident(keys)
        if not resident.all():
            missing = np.flatnonzero(~resident)
            for index, lease in zip(missing.tolist(), self.memory.lease_each(keys[missing]), strict=True):
                sequences[index].lease = lease

    def num_free(self, started: Iterable[Sequence]) -> int | None:
        """Return how many rows a common lease can have beside the sequences' own; None: any number."""
        rows = self.memory.leasable_rows
        if rows is None:
            return None
        return rows - sum(len(sequence.lease) for sequence in started if sequence.lease is not None)

    def chunk(self, sequence: Sequence, limit: int, rows: int | None) -> Chunk | None:
        """Return a sequence's next tokens, at most `limit` with at most `rows` rows beside its own lease.

        A chunk that `is_late` has rows that are worth waiting for. None: the sequence sits out.
        """
        if sequence.lease is None:
            if rows is not None and rows < 1:
                # In the queue behind those that have all the room.
                sequence.lease = self.memory.lease(sequence.pending(1))
            elif (common := self._common_chunk(sequence, limit, rows)) is not None:
                return common
        lease = sequence.lease
        if lease is None or len(lease) > limit:
            return None
        # A row that was waited for in vain is late for a reason that nobody knows; it keeps no lane from others.
        if not lease.is_ready and (sequence.late_since is not None or not self._is_soon(lease)):
            return None
        return Chunk(sequence, len(lease), lease)

    def hold(self, chunks: Items[Chunk]) -> Step:
        """Return a step of those chunks whose rows are there in time."""
        common = [chunk for chunk in chunks if chunk.lease is None]
        own = [chunk for chunk in chunks if chunk.lease is not None]
        leases: list[Lease] = []
        if common:
            lease = self.memory.lease(_keys(common))
            if lease.is_ready:
                leases.append(lease)
            else:
                # Others wait for room. Nobody overtakes them, so everyone queues up behind them by itself.
                self.memory.release(lease)
                for chunk in common:
                    sequence = chunk.sequence
                    sequence.lease = self.memory.lease(sequence.pending(min(chunk.length, self._most_kept)))
                    own.append(Chunk(sequence, len(sequence.lease), sequence.lease))
                common = []
        if late := [chunk.lease for chunk in own if chunk.lease is not None and chunk.is_late]:
            self.memory.wait_for(late, self.patience)
        own = [chunk for chunk in own if not chunk.is_late]
        return Step(common + own, leases + [chunk.lease for chunk in own if chunk.lease is not None])

    def hold_next(self, chunks: list[Chunk]) -> Step | None:
        """Return a step of one token each; None where a row is not at hand, or was not when it was first asked for."""
        if any(sequence.lease is not None for sequence, _, _ in chunks):
            return None
        keys = np.array([sequence.keys[sequence.num_computed] for sequence, _, _ in chunks], dtype=np.int64)
        if not self.memory.resident(keys).all():
            return None
        lease = self.memory.lease(keys)
        if lease.is_ready:
            return Step(chunks, [lease], is_repeated=True)
        self.memory.release(lease)
        return None

    def wait(self, sequences: Iterable[Sequence], timeout: float) -> None:
        """Wait until a row has arrived for one of the sequences, because nothing else can be done."""
        started = self._clock()
        leases = [lease for lease in self._late(sequences) if lease.state is LeaseState.WAITING]
        if leases:
            self.memory.wait_any(leases, timeout)
            self.stall_seconds += self._clock() - started

    def note_deferred(self, step: Step, started: Iterable[Sequence]) -> int:
        """Note who sits out a step for a row, and who no longer does; return how many do."""
        now = self._clock()
        for chunk in step.chunks:
            sequence = chunk.sequence
            if sequence.late_since is not None:
                sequence.state.stall_seconds += now - sequence.late_since
                sequence.late_since = None
        return len(self._late(started))

    def failures(self, started: Iterable[Sequence]) -> list[tuple[Sequence, Exception]]:
        """Return the sequences whose rows cannot be had, and why."""
        found: list[tuple[Sequence, Exception]] = []
        for sequence in started:
            lease = sequence.lease
            if lease is None or lease.is_ready:
                continue
            if lease.error is not None:
                found.append((sequence, lease.error))
            elif sequence.late_since is not None and self._clock() - sequence.late_since > self._row_timeout:
                seconds = f"{self._row_timeout:g} s"
                error = LeaseTimeoutError(f"a row did not arrive within {seconds}; the storage answers too slowly")
                found.append((sequence, error))
        return found

    def finish(self, step: Step, seconds: float | None) -> None:
        """Give the rows of a step back, which took so many seconds; None: it did not run."""
        if seconds is not None:
            self.step_seconds += (seconds - self.step_seconds) * _STEP_WEIGHT
        for held in step.leases:
            self.memory.release(held)
        for sequence, _, lease in step.chunks:
            if lease is not None:
                sequence.lease = None

    def drop(self, sequence: Sequence) -> None:
        """Give up the rows that a sequence waits for."""
        if sequence.lease is not None:
            self.memory.release(sequence.lease)
            sequence.lease = None
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
        resident = self.memory.resident(keys)
        if resident.all():
            return Chunk(sequence, len(keys))
        num_there = int(resident.argmin())
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
        sequence.lease = lease
        return True

    def _is_soon(self, lease: Lease) -> bool:
        return self.memory.outlook(lease).seconds <= self.patience

    def _late(self, sequences: Iterable[Sequence]) -> list[Lease]:
        """Return the leases that sequences wait for, and note since when they do."""
        now, late = self._clock(), []
        for sequence in sequences:
            if sequence.lease is not None and not sequence.lease.is_ready:
                if sequence.late_since is None:
                    sequence.late_since = now
                late.append(sequence.lease)
        return late


def _keys(chunks: Items[Chunk]) -> npt.NDArray[np.int64]:
    """Return the row keys of chunks, one chunk after another."""
    single = [sequence.keys[sequence.num_computed] for sequence, length, _ in chunks if length == 1]
    if len(single) == len(chunks):
        return np.array(single, dtype=np.int64)
    return np.concatenate([chunk.sequence.pending(chunk.length) for chunk in chunks])


def _longest(keys: npt.NDArray[np.int64], rows: int) -> int:
    """Return the length of the longest prefix with at most `rows` different keys."""
    if len(keys) <= rows:
        return len(keys)
    first = np.sort(np.unique(keys, return_index=True)[1])
    return len(keys) if len(first) <= rows else int(first[rows])
