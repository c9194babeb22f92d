"""The beginning of a process: how long ago it was, and importing without the garbage collector's help.

Knows the interpreter and the kernel's accounts.
"""

import gc
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_STATUS = Path("/proc/self/stat")
_STARTED = 19
"""Of the fields behind the command's name: clock ticks from the machine's start to the process's."""


def seconds_since_start() -> float:
    """Return how long ago this process was started, to a hundredth of a second; the interpreter's start is included."""
    fields = _STATUS.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    started = int(fields[_STARTED]) / os.sysconf("SC_CLK_TCK")
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started)


@contextmanager
def collector_paused() -> Iterator[None]:
    """Load in this block what stays for good.

    Large libraries make hundreds of thousands of objects and no garbage; looking for some costs a seventh of the time
    that they take, and a tenth of a second at each full collection ever after.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if was_enabled:
            gc.enable()
