"""The memory of this process, by what it is."""

from pathlib import Path
from typing import NamedTuple

_ROLLUP = Path("/proc/self/smaps_rollup")


class ProcessMemory(NamedTuple):
    """Resident bytes."""

    anonymous: int
    """What the process has made: tensors, buffers, Python's objects."""
    of_files: int
    """Mapped files as far as they are in memory; the kernel can take them back."""


def process_memory() -> ProcessMemory:
    """Return what is resident of this process now."""
    sizes = {}
    for line in _ROLLUP.read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if value.endswith(" kB"):
            sizes[name] = 1024 * int(value.split()[0])
    return ProcessMemory(sizes["Anonymous"], sizes["Rss"] - sizes["Anonymous"])
