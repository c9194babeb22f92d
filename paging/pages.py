"""Memory from the system, page by page: zeros that take no memory until they are touched, or all of it at once.

Knows pages. Knows nothing of what is in them.
"""

import contextlib
import ctypes
import errno
import mmap
import os

_MADV_POPULATE_WRITE = 23
"""Of Linux 5.14; the standard library has no name for it."""


def reserve(num_bytes: int, *, huge: bool = False) -> mmap.mmap:
    """Return zeroed memory that is taken as it is touched, page-aligned.

    huge: touching one byte takes 2 MiB where there are so large pages; for what is filled soon, and as a whole. Raises
    `OSError`, `ValueError` or `OverflowError` for what cannot be had.
    """
    memory = mmap.mmap(-1, max(1, num_bytes), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if huge:
        with contextlib.suppress(OSError):  # a kernel without huge pages
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def populate(address: int, num_bytes: int) -> None:
    """Have the system hand over memory that was reserved; blocks, and leaves what is in it. Raises `OSError`."""
    # Not the module's `madvise`, which holds the interpreter lock all the while.
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    if num_bytes and madvise(ctypes.c_void_p(address), ctypes.c_size_t(num_bytes), _MADV_POPULATE_WRITE):
        code = ctypes.get_errno()
        if code != errno.EINVAL:  # a kernel that cannot; whoever touches the memory first will do it
            raise OSError(code, os.strerror(code))
