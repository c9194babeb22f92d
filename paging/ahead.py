"""Rows brought before they are needed: prefetches, which will be used, and preloads, which may be.

Knows what was asked for; when it is read is the loader's business.
"""

from typing import Any
from weakref import WeakSet

import numpy as np
import numpy.typing as npt

from paging.keys import KeyRange, Keys
from paging.lease import Prefetch
from paging.parts import Parts


class Ahead:
    """The prefetches and preloads that somebody still holds."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._live: WeakSet[Prefetch] = WeakSet()

    def prefetch(self, keys: Keys) -> Prefetch:
        """Queue the rows of `keys` that are not on the device."""
        self._parts.space.check(keys)
        absent = keys[self._parts.device.slot_of_key[keys] < 0]
        first = np.sort(np.unique(absent, return_index=True)[1])
        prefetch = Prefetch(absent[first], self._cancel_prefetch)
        if prefetch.num_left:
            self.ask(prefetch.keys)
            self._live.add(prefetch)
            self._parts.loader.prefetches.append(prefetch)
        return prefetch

    def preload(self, keys: Keys) -> Prefetch:
        """Queue rows, each once, to be read when nothing else is."""
        self._parts.space.check(keys)
        preload = Prefetch(keys, self._parts.loader.forget)
        self._live.add(preload)
        self._parts.loader.preloads.append(preload)
        return preload

    def seed(self, keys: Keys, weights: npt.NDArray[Any]) -> Prefetch:
        """Tell the policies what to expect, and preload as many of the heaviest rows as there are slots."""
        self._parts.space.check(keys)
        host = self._parts.host
        tiers = [self._parts.device] if host is None else [self._parts.device, host.slots]
        for tier in tiers:
            tier.policy.seed(keys, weights)
        heaviest = np.argsort(-np.asarray(weights, dtype=np.float64), kind="stable")
        return self.preload(keys[heaviest[: sum(tier.num_slots for tier in tiers)]])

    def ask(self, absent: Keys) -> None:
        """Note that somebody asks for rows that are not on the device, each once."""
        host = self._parts.host
        in_host = np.zeros(len(absent), dtype=np.bool_) if host is None else host.slots.slot_of_key[absent] >= 0
        self._parts.asks.ask(absent, in_host=in_host)

    def leave_out(self, keys: KeyRange) -> None:
        """Forget the rows of a key range that goes away."""
        for prefetch in list(self._live):
            prefetch.leave_out(keys.mask(prefetch.keys))

    def _cancel_prefetch(self, prefetch: Prefetch) -> None:
        self._parts.loader.forget(prefetch)
        self._parts.asks.end(prefetch.keys)
        self._parts.loader.settle(prefetch.keys)
