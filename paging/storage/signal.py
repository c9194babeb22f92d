"""Something that threads and the kernel can raise, and that one thread waits for.

Knows event descriptors (eventfd(2)). Knows nothing of reads.
"""

import ctypes
import os
import select
import weakref
from contextlib import suppress

_LIBC = ctypes.CDLL(None, use_errno=True)


class _PollDescriptor(ctypes.Structure):
    _fields_ = (("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short))


class _TimeSpec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


def timespec(seconds: float) -> ctypes.Structure:
    """Return a `struct timespec` of so many seconds, none where they are negative."""
    whole, fraction = divmod(max(0.0, seconds), 1.0)
    return _TimeSpec(int(whole), int(1e9 * fraction))


class Signal:
    """Raised until it is cleared, however often it was raised meanwhile."""

    def __init__(self) -> None:
        self.descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        """What the kernel is told to raise it by; closed with the object."""
        self._polled = _PollDescriptor(self.descriptor, select.POLLIN, 0)
        weakref.finalize(self, os.close, self.descriptor)

    def raise_(self) -> None:
        """Wake who waits, now or later."""
        os.eventfd_write(self.descriptor, 1)

    def clear(self) -> None:
        """Have the next wait last until it is raised again."""
        with suppress(BlockingIOError):
            os.eventfd_read(self.descriptor)

    def wait(self, timeout: float | None) -> None:
        """Return when it is raised, after `timeout` seconds (None: never), or for no reason; to the microsecond.

        Python's own `poll` counts in milliseconds, longer than a read may take.
        """
        limit = None if timeout is None else ctypes.byref(timespec(timeout))
        _LIBC.ppoll(ctypes.byref(self._polled), ctypes.c_ulong(1), limit, None)
