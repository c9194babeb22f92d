"""Eviction policies: which rows to give up when slots are needed.

Knows slots, row keys and requests; knows nothing of tables, tiers or threads, and imports without torch.
"""

from enum import StrEnum

from paging.policy.aged_frequency import AgedFrequency
from paging.policy.lru import LRU
from paging.policy.protocol import Policy
from paging.policy.s3_fifo import S3FIFO

__all__ = ["DEFAULT_POLICY", "LRU", "S3FIFO", "AgedFrequency", "Policy", "PolicyName", "make_policy"]


class PolicyName(StrEnum):
    """The policies, as people name them."""

    AGED_FREQUENCY = "aged-frequency"
    LRU = "lru"
    S3_FIFO = "s3-fifo"


DEFAULT_POLICY = PolicyName.AGED_FREQUENCY


def make_policy(name: PolicyName, num_slots: int) -> Policy:
    """Return a policy for `num_slots` free slots."""
    if name is PolicyName.LRU:
        return LRU(num_slots)
    if name is PolicyName.S3_FIFO:
        return S3FIFO(num_slots)
    return AgedFrequency(num_slots)
