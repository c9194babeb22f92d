"""Rows from storage, many at once: the `Storage` protocol, its implementations, and how one is chosen.

Knows rows, files and threads; knows nothing of slots, keys and leases, and imports without torch.
"""

from paging.storage.choice import StorageKind, open_storage
from paging.storage.direct import DirectStorage
from paging.storage.faulty import Fault, FaultPlan, FaultyStorage, RowFault
from paging.storage.mapped import MappedStorage
from paging.storage.protocol import Completions, Read, Storage

__all__ = [
    "Completions",
    "DirectStorage",
    "Fault",
    "FaultPlan",
    "FaultyStorage",
    "MappedStorage",
    "Read",
    "RowFault",
    "Storage",
    "StorageKind",
    "open_storage",
]
