"""Rows of a table read and leased: from the disk, many in one call, and from their slots.

Knows tables, storages and pagers. Root is not needed: the page cache forgets a table's own files on request.
"""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from paging import Budget, LeaseTimeoutError, Pager, Table, load_manifest, open_pager
from paging.lease import Lease
from paging.storage import open_storage
from paging.storage.choice import StorageKind

_READ_TIMEOUT = 120.0


def drop_pages(directory: Path) -> None:
    """Put a table's rows out of the page cache, those apart that another process has mapped."""
    for shard in load_manifest(directory).shards:
        descriptor = os.open(directory / shard.file, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # pages that are yet to be written stay
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def read_rate(directory: Path, kind: StorageKind, keys: npt.NDArray[np.int64], *, populate: bool = True) -> float:
    """Return the rows per second of different keys in one lease, by a pager that has none of them.

    populate: take the slots' memory from the system before, as in a server that has run for a while. Raises
    `StorageError` where the storage does not work there, and what leases raise.
    """
    with opened_pager(directory, kind, num_slots=len(keys)) as pager:
        if populate:
            pager.populate()
        began = time.perf_counter()
        lease = await_lease(pager, keys)
        rate = len(keys) / (time.perf_counter() - began)
        pager.release(lease)
    return rate


@contextmanager
def opened_pager(directory: Path, kind: StorageKind | None = None, *, num_slots: int) -> Iterator[Pager]:
    """Open a pager over a table, with empty slots."""
    with ExitStack() as stack:
        table = stack.enter_context(Table.open(directory))
        storage = open_storage(table, kind)
        stack.callback(storage.close)
        pager = open_pager(storage, table.geometry, bases=table.bases, device_budget=Budget(num_rows=num_slots))
        stack.callback(pager.close)
        yield pager


def lease_seconds(
    pager: Pager, held: npt.NDArray[np.int64], *, num_keys: int, count: int, seed: int
) -> npt.NDArray[np.float64]:
    """Return the seconds of leasing and releasing `num_keys` keys that are in slots, `count` times.

    held: the keys to draw from; they are brought first.
    """
    pager.release(await_lease(pager, held))
    generator, seconds = np.random.default_rng(seed), np.empty(count)
    for index in range(count):
        keys = generator.choice(held, num_keys)
        began = time.perf_counter()
        pager.release(pager.lease(keys))
        seconds[index] = time.perf_counter() - began
    return seconds


def await_lease(pager: Pager, keys: npt.NDArray[np.int64]) -> Lease:
    """Return a lease that is ready; raises why it is not."""
    lease = pager.lease(keys)
    if not pager.wait(lease, _READ_TIMEOUT):
        raise lease.error or LeaseTimeoutError(f"{len(keys)} rows did not arrive within {_READ_TIMEOUT:g} seconds")
    return lease
