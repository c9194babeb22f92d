"""Reads that the kernel does by itself, with no thread that waits for each (Linux AIO).

Knows descriptors, offsets and addresses, and the system calls io_setup(2) to io_getevents(2), for which the C library
has no functions. Knows nothing of rows. Only direct reads (O_DIRECT) are done beside the caller's work.

A thread for each read costs more than the read where all cores are at work: it has to get a core and the interpreter's
lock, start the read, and get both again. Containers may forbid io_uring; these older calls are allowed.
"""

import ctypes
import errno
import os
import platform
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from paging.storage.signal import timespec

_SYSTEM_CALLS = {"x86_64": (206, 207, 209, 208), "aarch64": (0, 1, 2, 4)}
"""Numbers of io_setup, io_destroy, io_submit and io_getevents."""
_REQUEST = np.dtype(
    [
        ("tag", "<u8"),
        ("key", "<u4"),
        ("flags_of_read", "<i4"),
        ("operation", "<u2"),
        ("priority", "<i2"),
        ("descriptor", "<u4"),
        ("address", "<u8"),
        ("length", "<u8"),
        ("offset", "<i8"),
        ("reserved", "<u8"),
        ("flags", "<u4"),
        ("signal", "<u4"),
    ]
)
"""`struct iocb` of linux/aio_abi.h."""
_EVENT = np.dtype([("tag", "<u8"), ("request", "<u8"), ("result", "<i8"), ("second_result", "<i8")])
"""`struct io_event`."""
_READ = 0
_RAISES_SIGNAL = 1
_DEVICES = Path("/sys/dev/block")
_USUAL_REQUESTS = 256
"""That a disk takes at a time, where the system does not say: of a file system over several, or outside of Linux's
own devices."""
_AT_ONCE = timespec(0)

# One that lets go of the interpreter's lock, and one that keeps it, for calls that do not wait.
_LIBC, _LIBC_LOCKED = ctypes.CDLL(None, use_errno=True), ctypes.PyDLL(None, use_errno=True)
for _library in (_LIBC, _LIBC_LOCKED):
    _library.syscall.restype = ctypes.c_long


class Transfer(NamedTuple):
    """Bytes to be read; address, offset and length as direct reads want them."""

    tag: int
    descriptor: int
    offset: int
    address: int
    length: int
    signal: int
    """The event descriptor that is raised when they are there."""


def most_requests(descriptor: int) -> int:
    """Return how many reads may be under way on a file's disk such that starting one more does not wait.

    Linux starts reads at once while the device has requests left (`queue/nr_requests`), and makes who asks for more
    wait, asleep and deaf to signals. A quarter is left to others.
    """
    device = os.fstat(descriptor).st_dev
    place = _DEVICES / f"{os.major(device)}:{os.minor(device)}"
    requests = _USUAL_REQUESTS
    for queue in (place / "queue", place.resolve().parent / "queue"):  # a partition has that of its disk
        try:
            requests = int((queue / "nr_requests").read_text(encoding="ascii"))
        except (OSError, ValueError):
            continue
        break
    return max(1, requests - requests // 4)


class AsynchronousReads:
    """Up to `depth` reads at a time. Not to be used by two threads at once."""

    def __init__(self, depth: int) -> None:
        """Ask the kernel for room; raises `OSError` where it has no such reads, forbids them or has no room left."""
        calls = _SYSTEM_CALLS.get(platform.machine())
        if calls is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        setup, destroy, self._submit, self._get_events = (ctypes.c_long(number) for number in calls)
        context = ctypes.c_ulong(0)
        if _LIBC.syscall(setup, ctypes.c_long(depth), ctypes.byref(context)) < 0:
            raise _last_error()
        self.depth = depth
        self.num_under_way = 0
        self._context = context
        self._requests = np.zeros(depth, dtype=_REQUEST)
        addresses = self._requests.ctypes.data + _REQUEST.itemsize * np.arange(depth, dtype=np.uint64)
        self._addresses = (ctypes.c_ulong * depth)(*addresses.tolist())
        self._events = np.zeros(depth, dtype=_EVENT)
        self._events_at = ctypes.c_void_p(self._events.ctypes.data)
        self._end = weakref.finalize(self, _LIBC.syscall, destroy, context)

    def start(self, transfers: Sequence[Transfer]) -> int:
        """Start as many reads as there is room for, the first ones first; return how many.

        Raises `OSError` where the first one cannot be started for another reason than want of room.
        """
        count = min(len(transfers), self.depth - self.num_under_way)
        if not count:
            return 0
        for place, (tag, descriptor, offset, address, length, signal) in enumerate(transfers[:count]):
            request = (tag, 0, 0, _READ, 0, descriptor, address, length, offset, 0, _RAISES_SIGNAL, signal)
            self._requests[place] = request
        started: int = _LIBC.syscall(self._submit, self._context, ctypes.c_long(count), self._addresses)
        if started < 0:
            error = _last_error()
            if error.errno != errno.EAGAIN:
                raise error
            started = 0
        self.num_under_way += started
        return started

    def ended(self, timeout: float = 0.0) -> list[tuple[int, int]]:
        """Return the tags of reads that have ended, each with its bytes or with minus the number of its error.

        Waits at most `timeout` seconds for the first.
        """
        if not self.num_under_way:
            return []
        library, least = (_LIBC, 1) if timeout > 0 else (_LIBC_LOCKED, 0)
        count = library.syscall(
            self._get_events,
            self._context,
            ctypes.c_long(least),
            ctypes.c_long(self.depth),
            self._events_at,
            ctypes.byref(timespec(timeout) if timeout > 0 else _AT_ONCE),
        )
        if count <= 0:  # none; or a signal came, and who wants to wait on looks again
            return []
        self.num_under_way -= count
        events = self._events[:count]
        return list(zip(events["tag"].tolist(), events["result"].tolist(), strict=True))

    def close(self) -> None:
        """Let go of what the kernel holds; waits for reads under way."""
        self._end()


def _last_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
