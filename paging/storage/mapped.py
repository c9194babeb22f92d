"""Rows by way of the kernel's page cache.

Nothing is mapped into the process for it: a load from a mapped page would be served one page fault at a time, would
count towards the resident set, and would be a SIGBUS where a file was truncated meanwhile.
"""

import os
import time
from collections.abc import Sequence

from paging.rowfiles import RowFiles, RowPlace
from paging.storage.files import FileStorage, Order
from paging.storage.workers import Workers

_NUM_THREADS = 8  # they copy what is in memory already or on its way
_QUEUE_DEPTH = 64  # was faster than all at once: advice, disk and copies overlap


class MappedStorage(FileStorage):
    """Asks the kernel for all rows of a batch, then copies them out of the page cache as they arrive.

    With `drop_pages` the page cache is told to forget what has been copied, for owners that keep a copy themselves.
    """

    name = "mapped"

    def __init__(self, files: RowFiles, *, description: str = "mapped", drop_pages: bool = False) -> None:
        for handle in files.handles():
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_RANDOM)  # a row is all that is wanted of its neighbourhood
        self._drop_pages = drop_pages
        super().__init__(files, description=description, num_threads=_NUM_THREADS, queue_depth=_QUEUE_DEPTH)
        # One thread of its own, so that no batch waits for the rows of another before it is asked for.
        self._advisers = Workers[Sequence[Order]]("tolbooth-advice", num_threads=1, serve=self._advise)

    def _start(self, orders: Sequence[Order]) -> None:
        self._advisers.put([orders])

    def _stop(self, deadline: float) -> bool:
        return self._advisers.stop(deadline - time.monotonic()) and super()._stop(deadline)

    def _advise(self, orders: Sequence[Order]) -> None:
        for order in orders:
            read = order.read
            read.started = time.perf_counter()
            if not self._closed:
                self._files.advise(self._files.place(read.row), os.POSIX_FADV_WILLNEED)
        self._readers.put(orders)

    def _transfer(self, place: RowPlace, buffer: memoryview) -> str | None:
        cause = self._files.copy_payload(place, buffer)
        if self._drop_pages:
            self._files.advise(place, os.POSIX_FADV_DONTNEED)
        return cause
