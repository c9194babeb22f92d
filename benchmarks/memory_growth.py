"""What reading a table makes a process grow by: one of its own, with a budget, in a memory cgroup where one can be.

    python benchmarks/memory_growth.py TABLE STORAGE ROWS CONFINED

is what `memory_growth` runs; it prints its result as JSON.
"""

import json
import mmap
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.export import synthetic_rows
from paging import Budget, Table, open_pager
from paging.storage import open_storage
from paging.storage.choice import StorageKind
from server.measuring.row_reads import await_lease

SEED = 7
"""Of the table's rows, and of those that are read."""
BUDGET = 512 * 10**6
ALLOWANCE = 150 * 10**6
"""What a process may take beside its budget."""
CGROUP_NAME = "tolbooth-bench"
CGROUPS = {Path("/sys/fs/cgroup/memory"): "memory.limit_in_bytes", Path("/sys/fs/cgroup"): "memory.max"}
"""Where a memory cgroup can be made, of the old kind or the new one, and the name of its limit."""


def memory_growth(directory: Path, kind: StorageKind, num_rows: int, *, confined: bool) -> dict[str, Any]:
    """Read random rows through a pager of 512 MB in a process of its own; every row is compared with its generator.

    With `confined` the process may take the budget and 150 MB, page cache included, and no more, by a memory cgroup of
    its own; where there can be none the result says so.
    """
    command = [sys.executable, __file__, str(directory), kind, str(num_rows), str(int(confined))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)  # noqa: S603 ourselves
    for group in CGROUPS:
        for left in group.glob(f"{CGROUP_NAME}-*"):
            left.rmdir()
    if done.returncode:
        raise RuntimeError(f"ended with {done.returncode} {'in a memory cgroup' * confined}: {done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def confine(num_bytes: int) -> bool:
    """Let this process take so many bytes more; return whether that could be arranged."""
    for parent, limit in CGROUPS.items():
        group = parent / f"{CGROUP_NAME}-{os.getpid()}"
        try:
            group.mkdir()
            (group / limit).write_text(str(num_bytes), encoding="ascii")
            (group / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")
        except OSError:
            continue
        return True
    return False


def read_under_budget(directory: Path, kind: StorageKind, num_rows: int, *, confined: bool) -> dict[str, Any]:
    """Do what `memory_growth` says, in this process."""
    with Table.open(directory) as table:
        geometry, table_rows = table.geometry, table.num_rows
    synthetic_rows(geometry, 0, 64, seed=SEED)
    before = resident_bytes()
    is_confined = confined and confine(BUDGET + ALLOWANCE)
    storage = open_storage(directory, kind)
    pager = open_pager(storage, geometry, device_budget=Budget(num_bytes=BUDGET))
    generator, largest = np.random.default_rng(SEED), 0
    for _ in range(0, num_rows, 64):
        keys = np.unique(generator.integers(0, table_rows, 64))
        lease = await_lease(pager, keys)
        layers = torch.stack([pager.gather(layer, lease) for layer in geometry.layers], dim=1)
        payload = layers.flatten(1).view(torch.uint8)
        for row, key in enumerate(keys.tolist()):
            if not torch.equal(payload[row], synthetic_rows(geometry, key, 1, seed=SEED)[0]):
                raise RuntimeError(f"row {key} is not what its generator makes")
        pager.release(lease)
        largest = max(largest, resident_bytes())
    stats = pager.stats()
    pager.close()
    storage.close()
    return {
        "storage": storage.description,
        "table_bytes": table_rows * geometry.row_stride,
        "budget_bytes": BUDGET,
        "cgroup_bytes": BUDGET + ALLOWANCE if is_confined else None,
        "rows_compared": stats.row_requests,
        "major_faults": stats.major_faults,
        "growth_bytes": largest - before,
    }


def resident_bytes() -> int:
    """Return this process's resident set size."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * mmap.PAGESIZE


if __name__ == "__main__":
    table, storage_kind, rows, is_confined = sys.argv[1:]
    print(json.dumps(read_under_budget(Path(table), storage_kind, int(rows), confined=is_confined == "1")))  # type: ignore[arg-type]
