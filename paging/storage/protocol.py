"""What the pager and a storage say to each other: reads go in, the same reads come back filled or with an error.

Knows nothing of files.
"""

import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from paging.storage.signal import Signal

if TYPE_CHECKING:
    from paging.errors import RowReadError


class Read:
    """One row on its way: its owner makes it, a storage fills the buffer and sets the result.

    The buffer is host memory: contiguous writable bytes, at least `row_bytes` of them. The payload lands at its start,
    what lies behind is left alone or overwritten with padding. Between `submit` and completion nobody but the
    storage touches the buffer; after an error its content means nothing.
    """

    __slots__ = ("buffer", "error", "finished", "row", "started", "tag", "unfinished")

    def __init__(self, row: int, buffer: memoryview, *, tag: Any = None) -> None:
        self.row = row
        self.buffer = buffer
        self.tag = tag
        """The owner's own; no storage looks at it."""
        self.error: RowReadError | None = None
        """Why the row could not be had; None while the read is under way and where it went well."""
        self.started = 0.0
        """When a storage first asked the kernel for the row, in seconds of `time.perf_counter`."""
        self.finished = 0.0
        """When the row was in the buffer, verified, or given up."""
        self.unfinished: float | None = None
        """When it was last seen under way, where nobody saw it end: that was between then and `finished`."""


class Source(Protocol):
    """Where reads end without a thread to say so, and are to be collected."""

    def collect(self) -> bool:
        """Put the reads that have ended where they go; return whether more are under way. Does not wait."""
        ...


class Completions:
    """Where finished reads go. Any thread puts them in; one thread, the owner, takes them out."""

    def __init__(self) -> None:
        self.signal = Signal()
        """Raised where reads may have ended."""
        self._reads: deque[Read] = deque()
        self._sources: set[Source] = set()
        self._num_wanted = 1

    def put(self, read: Read) -> None:
        """Hand in a read that has its result."""
        self._reads.append(read)
        if len(self._reads) >= self._num_wanted:
            self.signal.raise_()

    def watch(self, source: Source) -> None:
        """Collect what ends at a source from now on; the owner's thread, which submits to it, calls this."""
        self._sources.add(source)

    def drain(self) -> list[Read]:
        """Take out everything that has come in, in order of completion; does not wait."""
        self._collect()
        reads = []
        while self._reads:
            reads.append(self._reads.popleft())
        return reads

    def wait(self, timeout: float | None = None, *, num_reads: int = 1) -> bool:
        """Wait until there are so many reads to drain, at most `timeout` seconds; return whether there are.

        The owner is woken once for all of them: each time costs the threads that read as much as a row.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        self._num_wanted = num_reads  # before looking: a read that comes in meanwhile sees it
        self._collect()
        while len(self._reads) < num_reads:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                break
            self.signal.wait(left)
            self.signal.clear()  # before looking: what comes in meanwhile raises it again
            self._collect()
        return len(self._reads) >= num_reads

    def _collect(self) -> None:
        if self._sources:
            self._sources.difference_update([source for source in self._sources if not source.collect()])


class Storage(Protocol):
    """The rows of one table, read many at once. Safe to use from several threads."""

    name: str
    """How it reads: `mapped` or `direct`."""
    description: str
    """The name, and why this one; for people."""
    num_rows: int
    row_bytes: int
    """Bytes of a row's payload."""
    queue_depth: int
    """Reads worth having outstanding at a time: with more nothing gets faster, with fewer the disk may idle."""
    staging_bytes: int
    """Memory that it may take for itself, to be counted against a budget."""

    def submit(self, reads: Sequence[Read], completions: Completions) -> None:
        """Start reads and return without waiting for any I/O. Each of them completes exactly once, in any order.

        A row that cannot be had, after one retry, completes with its `error` set and harms no other. `IndexError`
        where there is no such row, `ValueError` where a buffer does not fit or the storage is closed; then none of the
        reads has been started.
        """
        ...

    def close(self) -> None:
        """Let reads under way end, complete the others with an error, close the files; waits a bounded time."""
        ...
