"""What every storage over a table's files has in common: checks, threads, verified reads, an orderly end.

Knows nothing of how the bytes get from a file to a buffer: that is what `mapped` and `direct` add.
"""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from paging.errors import ReadErrorKind
from paging.rowfiles import Flaw, RowFiles, RowPlace
from paging.storage.protocol import Completions, Read
from paging.storage.workers import Workers

CLOSE_SECONDS = 10.0
"""How long closing waits for reads under way; a disk that takes longer is not coming back."""

_CLOSED = Flaw(ReadErrorKind.CLOSED, "its storage was closed meanwhile")


class Order(NamedTuple):
    """A read, and where it goes when it is finished."""

    read: Read
    completions: Completions
    has_failed: bool = False
    """Whether a first attempt has been made."""


class FileStorage(ABC):
    """A storage that reads rows with a pool of threads, one row in one thread at a time.

    Threads and `preadv` need nothing of the kernel that a container may forbid; the interpreter lock is let go while a
    row is read and while it is hashed.
    """

    name: str

    def __init__(self, files: RowFiles, *, description: str, num_threads: int, queue_depth: int) -> None:
        self.description = description
        self.num_rows = files.manifest.num_rows
        self.row_bytes = files.manifest.geometry.row_bytes
        self.queue_depth = queue_depth
        self.staging_bytes = 0
        self._files = files
        self._closed = False
        self._lock = threading.Lock()
        self._readers = Workers[Order](f"tolbooth-{self.name}", num_threads=num_threads, serve=self._read)

    def submit(self, reads: Sequence[Read], completions: Completions) -> None:
        """Start reads, as `Storage.submit` says."""
        for read in reads:
            if not 0 <= read.row < self.num_rows:
                raise IndexError(f"row {read.row} of a table of {self.num_rows}")
            buffer = read.buffer
            if buffer.nbytes < self.row_bytes or buffer.format != "B" or buffer.readonly or not buffer.c_contiguous:
                raise ValueError(f"the buffer for row {read.row} is not {self.row_bytes} writable bytes")
        with self._lock:
            if self._closed:
                raise ValueError("the storage is closed")
            self._start([Order(read, completions) for read in reads])

    def close(self) -> None:
        """End, as `Storage.close` says."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        if self._stop(time.monotonic() + CLOSE_SECONDS):
            self._files.close()
        # Else the files stay open: the number of a file closed under a read may soon mean another file.

    def _start(self, orders: Sequence[Order]) -> None:
        self._readers.put(orders)

    def _stop(self, deadline: float) -> bool:
        return self._readers.stop(deadline - time.monotonic())

    @abstractmethod
    def _transfer(self, place: RowPlace, buffer: memoryview) -> str | None:
        """Fill a buffer with the payload at a place, unverified; return what went wrong, or raise `OSError`."""

    def _read(self, order: Order) -> None:
        read = order.read
        if not read.started:
            read.started = time.perf_counter()
        try:
            if self._closed:
                read.error = self._files.error(read.row, _CLOSED, remedy="open it again")
            else:
                attempt = self._files.read_again if order.has_failed else self._files.read
                read.error = attempt(read.row, read.buffer, self._transfer)
        except Exception as error:  # noqa: BLE001  whatever it is, whoever waits for the row must hear of it
            read.error = self._files.error(read.row, Flaw(ReadErrorKind.IO, f"reading it failed ({error!r})"))
        read.finished = time.perf_counter()
        order.completions.put(read)
