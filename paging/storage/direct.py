"""Rows straight from the disk, past the page cache (O_DIRECT).

Such reads must be aligned, in the file and in memory. Rows and buffers that are go through the kernel's asynchronous
reads, where it has them. The others, second attempts, and everything on a kernel without, are read by threads: straight
into the buffer where that is aligned, else into a page-aligned one of the thread's own, and copied once.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import threading
import time
from collections import deque
from collections.abc import Sequence

from paging.geometry import PAGE_BYTES, SECTOR_BYTES, round_up
from paging.rowfiles import RowFiles, RowPlace, shortfall
from paging.storage.asynchronous import AsynchronousReads, Transfer, most_requests
from paging.storage.files import FileStorage, Order
from paging.storage.protocol import Read

_NUM_THREADS = 16
_QUEUE_DEPTH = 64  # with threads, reads beyond one for each wait their turn here, so that none waits for the pager
_KERNEL_DEPTHS = (576, _QUEUE_DEPTH)  # reads under way while nobody has time to start more; where room is short, fewer


class DirectStorage(FileStorage):
    """Reads each row from the disk at the moment it is asked for. `OSError` where a file allows no direct reads."""

    name = "direct"

    def __init__(self, files: RowFiles, *, description: str = "direct") -> None:
        for handle in files.handles():
            # Only now: what was read to open the files was not aligned.
            fcntl.fcntl(handle, fcntl.F_SETFL, fcntl.fcntl(handle, fcntl.F_GETFL) | os.O_DIRECT)
        self._alignment = max(find_alignment(handle) for handle in files.handles())
        self._bounce_bytes = round_up(files.manifest.geometry.row_bytes + self._alignment - 1, PAGE_BYTES)
        self._own = threading.local()
        self._kernel, refusal = _asynchronous_reads(min(most_requests(handle) for handle in files.handles()))
        if self._kernel is None:
            description += f", by threads: the kernel has no asynchronous reads for us ({refusal})"
        self._queued: deque[tuple[Order, Transfer]] = deque()
        self._under_way: dict[int, Order] = {}
        self._num_started = 0
        self._looked_at = 0.0
        super().__init__(files, description=description, num_threads=_NUM_THREADS, queue_depth=_QUEUE_DEPTH)
        self.staging_bytes = _NUM_THREADS * self._bounce_bytes

    def collect(self) -> bool:
        """Put reads that have ended where they go, and start those that waited for it; as `Source.collect` says."""
        return self._collect(0.0)

    def _collect(self, timeout: float) -> bool:
        if self._kernel is None:
            return False
        with self._lock:
            looked_at, self._looked_at = self._looked_at, time.perf_counter()
            ended = [(self._under_way.pop(tag), result) for tag, result in self._kernel.ended(timeout)]
            self._start_queued(self._kernel)
            is_more = bool(self._under_way or self._queued)
        for order, result in ended:
            self._end(order, result, looked_at)
        return is_more

    def _start(self, orders: Sequence[Order]) -> None:
        if self._kernel is None:
            super()._start(orders)
            return
        others = []
        for order in orders:
            transfer = self._transfer_of(order.read, order.completions.signal.descriptor)
            if transfer is None:
                others.append(order)
            else:
                self._queued.append((order, transfer))
                order.completions.watch(self)
        self._start_queued(self._kernel)
        super()._start(others)

    def _start_queued(self, kernel: AsynchronousReads) -> None:
        """Start what there is room for."""
        while self._queued:
            now = time.perf_counter()
            try:
                count = kernel.start([transfer for _, transfer in self._queued])
            except OSError:
                count = 0
                super()._start([self._queued.popleft()[0]])  # a thread's attempt says what is wrong
                continue
            for _ in range(count):
                order, transfer = self._queued.popleft()
                order.read.started = order.read.started or now
                self._under_way[transfer.tag] = order
            if not count and not self._under_way:  # the system has no room at all: nothing would end and make some
                super()._start([order for order, _ in self._queued])
                self._queued.clear()
            if not count:
                break

    def _transfer_of(self, read: Read, signal: int) -> Transfer | None:
        """Return what the kernel is to do; None where it is not aligned as it wants it."""
        place, alignment, buffer = self._files.place(read.row), self._alignment, read.buffer
        length = round_up(self.row_bytes, alignment)
        if place.offset % alignment or length > len(buffer) or (address := _address(buffer)) % alignment:
            return None
        self._num_started += 1
        return Transfer(self._num_started, self._files.handle(place), place.offset, address, length, signal)

    def _end(self, order: Order, result: int, looked_at: float) -> None:
        read = order.read
        if result < self.row_bytes or not self._files.is_sound(read.row, read.buffer[: self.row_bytes]):
            again = order._replace(has_failed=True)
            with self._lock:
                if not self._closed:
                    super()._start([again])
                    return
            self._read(again)  # to hear that it is closed; the threads may have ended
            return
        read.unfinished, read.finished = max(read.started, looked_at), time.perf_counter()
        order.completions.put(read)

    def _stop(self, deadline: float) -> bool:
        if self._kernel is not None:
            with self._lock:
                super()._start([order for order, _ in self._queued])  # to hear the same
                self._queued.clear()
            while self._collect(max(0.0, deadline - time.monotonic())) and time.monotonic() < deadline:
                pass
        has_stopped = super()._stop(deadline)
        if self._kernel is not None and not self._under_way:
            self._kernel.close()
        return has_stopped and not self._under_way

    def _transfer(self, place: RowPlace, buffer: memoryview) -> str | None:
        handle, alignment = self._files.handle(place), self._alignment
        lead = place.offset % alignment
        length = round_up(lead + self.row_bytes, alignment)
        if not lead and length <= len(buffer) and not _address(buffer) % alignment:
            taken = os.preadv(handle, [buffer[:length]], place.offset)
        else:
            bounce = self._bounce()
            taken = os.preadv(handle, [bounce[:length]], place.offset - lead)
            buffer[: self.row_bytes] = bounce[lead : lead + self.row_bytes]
        if taken < lead + self.row_bytes:
            return shortfall(handle, end=place.offset + self.row_bytes)
        return None

    def _bounce(self) -> memoryview:
        """Return the calling thread's own aligned buffer."""
        buffer: memoryview | None = getattr(self._own, "buffer", None)
        if buffer is None:
            buffer = self._own.buffer = memoryview(mmap.mmap(-1, self._bounce_bytes))
        return buffer


def _asynchronous_reads(most: int) -> tuple[AsynchronousReads | None, str]:
    """Return the kernel's asynchronous reads, at most so many at a time, or why there are none."""
    refusal = ""
    for depth in _KERNEL_DEPTHS:
        try:
            return AsynchronousReads(min(depth, most)), ""
        except OSError as error:  # for want of room where many processes have asked for some: fs.aio-max-nr
            refusal = os.strerror(error.errno or errno.EINVAL)
    return None, refusal


def find_alignment(handle: int) -> int:
    """Return what offsets, lengths and addresses of direct reads of a file must be multiples of, found by trying.

    Raises `OSError` (EINVAL) where no alignment makes a direct read work.
    """
    page = memoryview(mmap.mmap(-1, 2 * PAGE_BYTES))
    for alignment in (SECTOR_BYTES, PAGE_BYTES):
        try:
            os.preadv(handle, [page[alignment : 2 * alignment]], alignment)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        else:
            return alignment
    raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


def _address(buffer: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))
