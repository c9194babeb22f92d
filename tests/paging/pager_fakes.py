"""A storage whose reads end when the test says so, and small pagers over it."""

import time

import numpy as np
import torch

from paging import Encoding, RowReadError, TableGeometry
from paging.cuda_slab import CudaSlab, PinnedSlab
from paging.lease import Lease
from paging.loader import HostTier
from paging.pager import Pager
from paging.policy.lru import LRU
from paging.slab import CpuSlab, HostSlab
from paging.slots import SlotMap

GEOMETRY = TableGeometry.uniform(hidden_size=8, num_layers=2, vocab_size=64, encoding=Encoding.BF16)


class Clock:
    """Time that passes when the test says so."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class StepStorage:
    """Rows in memory; a read ends when the test calls `end`, or when the pager waits."""

    def __init__(self, rows, clock=None, queue_depth=8):
        self.rows = rows
        self.num_rows, self.row_bytes = rows.shape
        self.queue_depth = queue_depth
        self.under_way = []
        self.bad_rows = set()
        self.num_submitted = 0
        self.most_under_way = 0
        self.clock = clock or Clock()
        self.name = self.description = "steps"
        self.staging_bytes = 0
        self.closed = False

    def submit(self, reads, completions):
        if self.closed:
            raise ValueError("the storage is closed")
        self.num_submitted += len(reads)
        # What an unfinished read leaves in its buffer is anything but the row.
        for read in reads:
            np.frombuffer(read.buffer, dtype=np.uint8)[:] = 0xEE
            self.under_way.append((read, completions))
        self.most_under_way = max(self.most_under_way, len(self.under_way))

    def rows_under_way(self):
        return [read.row for read, _ in self.under_way]

    def end(self, index=0):
        read, completions = self.under_way.pop(index)
        if read.row in self.bad_rows:
            read.error = RowReadError(f"row {read.row} is bad", row=read.row)
        else:
            np.frombuffer(read.buffer, dtype=np.uint8)[: self.row_bytes] = self.rows[read.row]
        read.finished = self.clock()
        completions.put(read)

    def end_all(self):
        while self.under_way:
            self.end()

    def answer(self):
        """End one read in a thread that is the disk, as soon as there is one."""
        deadline = time.monotonic() + 30
        while not self.under_way:
            assert time.monotonic() < deadline
        self.end()

    def close(self):
        self.closed = True


def random_rows(num_rows, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num_rows, GEOMETRY.row_bytes), dtype=np.uint8)


class LateCopy:
    """Rows that a `LateSlab` has not copied yet."""

    def __init__(self, slab, slots, source, source_slots):
        self.slab, self.slots, self.source, self.source_slots = slab, slots, source, source_slots
        self.done = False

    def is_done(self):
        return self.done

    def wait(self):
        while not self.done:
            self.slab.copy_next()


class LateSlab(CpuSlab):
    """Like a GPU: reads cannot land in it, and copies happen when they must have happened, or when the test says so."""

    def __init__(self, num_slots, row_bytes):
        super().__init__(num_slots, row_bytes)
        self.landing = None
        self.copies = []

    def copy_in(self, slots, source, source_slots):
        self.copies.append(LateCopy(self, slots, source, source_slots))
        return self.copies[-1]

    def copy_next(self):
        copy = self.copies.pop(0)
        super().copy_in(copy.slots, copy.source, copy.source_slots)
        copy.done = True

    def index(self, slots):
        while self.copies:
            self.copy_next()
        return super().index(slots)


def make_slabs(kind, num_slots, host_slots):
    """The device's slab and the host tier's: `cpu`, `late` or `cuda`."""
    row_bytes = GEOMETRY.row_bytes
    if kind == "cuda":
        return CudaSlab(num_slots, row_bytes, torch.device("cuda")), PinnedSlab(host_slots, row_bytes)
    return (LateSlab if kind == "late" else CpuSlab)(num_slots, row_bytes), HostSlab(host_slots, row_bytes)


def make_pager(num_slots, *, host_slots=0, clock=None, policy=LRU, kind="cpu", **options):
    slab, host_slab = make_slabs(kind, num_slots, host_slots)
    host = None
    if host_slots:
        host = HostTier(slots=SlotMap(policy(host_slots)), slab=host_slab)
    return Pager(geometry=GEOMETRY, slab=slab, policy=policy(num_slots), host=host, clock=clock or Clock(), **options)


def keys(*values):
    return np.array(values, dtype=np.int64)


def payload(pager, held):
    """The bytes of a lease's rows, or those of several together, put together again from their layers."""
    if isinstance(held, Lease):
        layers = [pager.gather(layer, held) for layer in GEOMETRY.layers]
    else:
        rows = pager.rows(held)
        layers = [rows.gather(layer) for layer in GEOMETRY.layers]
    layers = [layer.cpu().contiguous().view(torch.uint8) for layer in layers]
    return np.concatenate([layer.numpy() for layer in layers], axis=1)
