"""How much memory there is for keys, values and rows, and how much this process has.

Knows devices, the kernel's accounts and a container's limit. Knows nothing of what the memory is for.
"""

import mmap
from pathlib import Path

import torch

_MEMORY_INFO = Path("/proc/meminfo")
_OWN_PAGES = Path("/proc/self/statm")
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_CGROUP_USED = Path("/sys/fs/cgroup/memory.current")


def free_bytes(device: torch.device) -> int:
    """Return the bytes that can still be taken: of the GPU's memory, or of the host's within a container's limit."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = _available()
    try:
        limit, used = _CGROUP_LIMIT.read_text(encoding="ascii"), _CGROUP_USED.read_text(encoding="ascii")
    except OSError:
        return free
    return free if limit.strip() == "max" else max(0, min(free, int(limit) - int(used)))


def resident_bytes() -> int:
    """Return the host memory that this process has, in bytes."""
    return mmap.PAGESIZE * int(_OWN_PAGES.read_text(encoding="ascii").split()[1])


def _available() -> int:
    for line in _MEMORY_INFO.read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return 1024 * int(value.split()[0])
    raise OSError(f"{_MEMORY_INFO} does not say what memory is available")
